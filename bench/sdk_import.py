"""What importing ``vestibule.sdk`` costs, beside importing the libraries that it stands on: at most 1.2 times that.

    python -m bench.sdk_import

Names of the package are loaded at their first use.  So printed is also what a program pays that calls and is called
with mutual TLS, for which there is no limit.  Fresh interpreters in turn; the figure is their time on the processor,
less that of an interpreter that imports nothing (the median of them).  The libraries are those that one needs in any
case to follow a Workload API and to verify certificates and tokens in Python: gRPC, protobuf, X.509, TLS, event loops.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from bench._comparison import interleaved, machine, ratios

LIBRARIES = """
import asyncio, ipaddress, json, logging, ssl, threading, urllib.parse
import grpclib.client
import google.protobuf.json_format, google.protobuf.message_factory
import google.protobuf.empty_pb2, google.protobuf.struct_pb2, google.protobuf.wrappers_pb2
import cryptography.x509, cryptography.x509.verification
import cryptography.hazmat.primitives.serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
"""
OURS = "import vestibule.sdk"
PROGRAM = "from vestibule.sdk import X509Source, authorize_ids, client_context, server_context"
LIMIT = 1.2


def seconds(code: str) -> float:
    """On the processor, of an interpreter that runs this."""
    child = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{code!r} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=25)
    rounds: int = options.parse_args().rounds
    for code in (OURS, PROGRAM, LIBRARIES):
        seconds(code)  # compiled and read once
    nothing = statistics.median(seconds("pass") for _ in range(rounds))
    pairs = interleaved(rounds, lambda: seconds(OURS) - nothing, lambda: seconds(LIBRARIES) - nothing)
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(machine())
    print(
        f"vestibule.sdk {ours * 1000:.0f} ms, what it stands on {theirs * 1000:.0f} ms (medians of {rounds})"
    )
    found = ratios(pairs)
    print(f"ratio {found}; limit {LIMIT}")
    whole = interleaved(rounds, lambda: seconds(PROGRAM) - nothing, lambda: seconds(LIBRARIES) - nothing)
    print(f"a program that calls and is called: ratio {ratios(whole)}; no limit")
    if found.median > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
