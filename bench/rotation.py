"""One rotation of 1,000 SVIDs: a real server and a real agent as processes, over mutual TLS on loopback.

The lifetime of 1,000 entries is changed, which makes the agent ask for every one of their SVIDs anew.  The clock
runs from the moment the server has taken the change (agents hear of it in the same instant) until the last new
certificate is in the agent's hands, each one authorised, signed, audited and sealed to disk on the way.  It is
compared, in the same run, with the bare cryptography: 1,000 times a key, a CSR, its verification and a signed
certificate, in one process that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta

import _processes
from _comparison import machine, ratios
from _deployment import Deployment, create_entries, deployment, everyone_new
from _server import TRUST_DOMAIN
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.app.up.operator import Operator
from vestibule.pki import profiles
from vestibule.pki.csr import make_csr, parse_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId

LIMIT = 10.0
"""Times the bare cryptography that one rotation, with everything around it, may take."""


async def rotate(mesh: Deployment, ids: list[str], seconds: int) -> tuple[float, float, float]:
    """One rotation: wall seconds, and processor seconds of server and agent."""
    before = await mesh.serials()
    with Operator(mesh.directory / "server.sock") as operator:
        await operator.set_ttl(ids, seconds)
    used = [_processes.cpu_seconds([pid]) for pid in (mesh.server, mesh.agent)]
    began = time.monotonic()
    await everyone_new(mesh, before, len(ids))
    took = time.monotonic() - began
    server, agent = (_processes.cpu_seconds([pid]) for pid in (mesh.server, mesh.agent))
    return took, server - used[0], agent - used[1]


def bare_crypto(count: int) -> float:
    """Seconds for as many keys, CSRs, verifications and signatures, and nothing else."""
    ca_key, now = generate_key(), datetime.now(UTC)
    valid = profiles.lifetime(now, timedelta(hours=24))
    ca = profiles.self_signed_ca(TRUST_DOMAIN, ca_key.public_key(), valid).sign(ca_key, SHA256())
    issuer = profiles.Issuer.of(ca.public_bytes(Encoding.DER), TRUST_DOMAIN)
    began = time.perf_counter()
    for number in range(count):
        csr = parse_csr(make_csr(generate_key()))
        spiffe_id = SpiffeId.of(TRUST_DOMAIN, f"/ns/bench/sa/s{number}")
        short = profiles.lifetime(now, timedelta(hours=1), valid.not_after)
        profiles.svid(spiffe_id, csr.public_key, short, issuer).sign(ca_key, SHA256())
    return time.perf_counter() - began


async def measure(count: int, rounds: int) -> int:
    with deployment() as mesh:
        ids = await create_entries(mesh, count)
        rotations, bare = [], []
        for number in range(rounds):
            rotations.append(await rotate(mesh, ids, 3000 + number))
            bare.append(bare_crypto(count))
    wall, server, agent = (statistics.median(column) for column in zip(*rotations, strict=True))
    ratio = ratios([(each[0], crypto) for each, crypto in zip(rotations, bare, strict=True)])
    print(f"one rotation of {count} SVIDs: {wall:.2f} s (median), {count / wall:.0f} SVIDs/s")
    print(f"  processor time: server {server:.2f} s, agent {agent:.2f} s (medians)")
    print(f"  bare cryptography of as many, in the same run: {statistics.median(bare):.2f} s")
    print(f"rotation over bare cryptography: {ratio} (at most {LIMIT:.0f})")
    holds = ratio.median <= LIMIT
    print("holds" if holds else "MISSED")
    return 0 if holds else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svids", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(f"{machine()}; {given.rounds} rotations")
    return asyncio.run(measure(given.svids, given.rounds))


if __name__ == "__main__":
    sys.exit(main())
