"""Network namespaces for tests, and processes of other users in them.

A test that needs them runs its sidecars in a namespace of its own making, so that nothing of the machine's network is
touched, and whatever it leaves behind ends with it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from vestibule.proxy.nftables import nft, run_tool

STRANGER = 65534
"""A uid that owns nothing here."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """What this machine lacks for tests of boundaries."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    for program, package in (("nft", "nftables"), ("ip", "iproute2")):
        if shutil.which(program, path=path) is None:
            return f"needs {program}, which is not installed (Debian: apt-get install {package})"
    if os.geteuid() != 0:
        return "needs root, to act as other users"
    probe = (
        "ip link set lo up && nft add table inet probe '{ chain c { type nat hook output priority -100; }; }'"
    )
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False
    )
    return (
        None
        if tried.returncode == 0
        else f"this kernel lacks network namespaces or nf_tables: {tried.stderr}"
    )


@contextmanager
def own_network() -> Iterator[None]:
    """This process, and what it starts meanwhile, is in a new network namespace with nothing but loopback."""
    if reason := why_not():
        pytest.skip(reason)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        run_tool("ip", "link", "set", "lo", "up")
        yield
    finally:
        assert _libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)


def asks(uid: int, address: str, *headers: str, namespace_of: int | None = None) -> bytes:
    """What a process of this user is answered on GET / at HOST:PORT or unix:PATH; ``refused: …`` when it is.

    With ``namespace_of`` it lives in the network namespace of that process.
    """
    found: list[bytes] = []
    asking = Thread(target=lambda: found.append(_ask_as(uid, address, headers, namespace_of)))
    asking.start()
    asking.join()
    return found[0]


def _ask_as(uid: int, address: str, headers: tuple[str, ...], namespace_of: int | None) -> bytes:
    """In a thread of its own: its namespace, and the user whose its sockets are, end with it."""
    if namespace_of is not None:
        there = os.open(f"/proc/{namespace_of}/ns/net", os.O_RDONLY)
        assert _libc.setns(there, _CLONE_NEWNET) == 0
        os.close(there)
    _libc.setfsgid(uid)
    _libc.setfsuid(uid)
    assert _libc.setfsuid(-1) == uid
    family = socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET
    host, _, port = address.rpartition(":")
    try:
        with socket.socket(family) as sock:
            sock.settimeout(5)
            sock.connect(address.removeprefix("unix:") if family == socket.AF_UNIX else (host, int(port)))
            lines = ("GET / HTTP/1.1", "host: ledger", "connection: close", *headers)
            sock.sendall("\r\n".join((*lines, "", "")).encode())
            return b"".join(iter(lambda: sock.recv(65536), b""))
    except OSError as error:
        return f"refused: {error}".encode()


def tables() -> str:
    """All packet filters of the namespace that we are in."""
    return run_tool("nft", "list", "ruleset")


def add_rules(text: str) -> None:
    nft(text)


def other_python() -> str:
    """An interpreter that other users may run, too."""
    path = Path("/usr/bin/python3")
    if not path.exists():
        reason = "needs a python3 in /usr/bin, which other users may run"
        pytest.skip(reason)
    return str(path)
