"""Batch issuance: processor time of the server per SVID, against what the cryptography alone must cost.

An agent's client asks a real server process for 500 SVIDs a call over mutual TLS on loopback (BatchNewX509SVID); the
server checks the caller's chain, the right to each entry and each CSR, signs, and writes each SVID to the audit log,
durably, before it answers.  The measure is the processor time that the server process used, and the yardstick, taken
in the same run, is one CSR verification plus one raw signature of the same key type: nobody can issue for less.

With --spire PATH the same client asks that spire-server for the same, in turns with ours.  SPIRE logs issuance, and
has no durable audit record; its data store is SQLite, its CA key in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _processes
from _comparison import machine
from _server import TRUST_DOMAIN, Server, free_port, spire, vestibule
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key

SHARE = 0.40
"""Of what the bare cryptography allows per second of processor time."""


@dataclass(frozen=True)
class Contender:
    """A server with entries for an agent, and a request for all of them."""

    name: str
    server: Server
    requests: dict[str, bytes]

    async def issue(self) -> float:
        """Microseconds of the server's processor time per SVID, for one batch."""
        async with self.server.agent() as agent:
            await agent.new_svids(dict(list(self.requests.items())[:1]))
            before = _processes.cpu_seconds([self.server.pid])
            chains = await agent.new_svids(self.requests)
            used = _processes.cpu_seconds([self.server.pid]) - before
        assert all(isinstance(chain, tuple) for chain in chains.values()), "an SVID was refused"
        return used / len(chains) * 1e6


def bare(csrs: Sequence[bytes]) -> float:
    """Microseconds of processor time for one CSR verification and one raw signature."""
    key, data = generate_key(), bytes(400)
    began = time.process_time()
    for csr in csrs:
        assert x509.load_der_x509_csr(csr).is_signature_valid
        key.sign(data, ECDSA(SHA256()))
    return (time.process_time() - began) / len(csrs) * 1e6


@contextlib.contextmanager
def contenders(spire_server: Path | None, count: int) -> Iterator[list[Contender]]:
    directory = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    csrs = [make_csr(generate_key()) for _ in range(count)]
    try:
        with contextlib.ExitStack() as stack:
            servers = {"vestibule": stack.enter_context(vestibule(directory / "ours", free_port()))}
            if spire_server is not None:
                servers["spire"] = stack.enter_context(spire(spire_server, directory / "spire", free_port()))
            found = []
            for name, server in servers.items():
                ids = asyncio.run(server.prepare(count))
                found.append(Contender(name, server, dict(zip(ids, csrs, strict=True))))
            yield found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svids", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--spire", type=Path, help="a spire-server to measure beside ours")
    given = parser.parse_args()
    print(f"{machine()}; {given.rounds} batches of {given.svids}, trust domain {TRUST_DOMAIN}")
    if given.spire is not None:
        version = subprocess.run([given.spire, "--version"], capture_output=True, text=True, check=True)
        print(f"spire-server {(version.stdout or version.stderr).strip()}")
    with contenders(given.spire, given.svids) as found:
        shares: dict[str, list[float]] = {each.name: [] for each in found}
        costs: dict[str, list[float]] = {each.name: [] for each in found}
        floors = []
        for _ in range(given.rounds):
            for each in found:
                cost = asyncio.run(each.issue())
                floor = bare(list(each.requests.values()))
                floors.append(floor)
                costs[each.name].append(cost)
                shares[each.name].append(floor / cost)
    print(f"one CSR verification and one raw signature: {statistics.median(floors):.0f} µs of processor time")
    for name, values in shares.items():
        print(
            f"{name:>9}: {statistics.median(costs[name]):.0f} µs of the server's processor time per SVID; "
            f"share of the floor: median {statistics.median(values):.3f} "
            f"(min {min(values):.3f}, max {max(values):.3f}, n={len(values)})"
        )
    holds = statistics.median(shares["vestibule"]) >= SHARE
    print(f"{'holds' if holds else 'MISSED'}: at least {SHARE:.2f} of what the cryptography alone allows")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
