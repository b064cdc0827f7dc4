"""Processes that hold keys cannot be dumped."""

from __future__ import annotations

import subprocess
import sys


def test_a_process_leaves_no_core_and_lets_no_debugger_of_its_user_in() -> None:
    script = """
import ctypes, resource, ssl
from vestibule.processes.hardening import keep_memory_private
from vestibule.net.tls import client_context
from vestibule.spiffe import TrustDomain, SpiffeId
from vestibule.testing import TestAuthority
keep_memory_private()
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0  # PR_GET_DUMPABLE
# Its own /proc/self stays open to it: that is how certificates come into TLS.
domain = TrustDomain.parse("example.org")
authority = TestAuthority(domain)
client_context(authority.svid(SpiffeId.of(domain, "/web")), authority.bundle)
print("fine")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout == "fine\n", ended.stderr
