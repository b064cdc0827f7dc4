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
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import _processes
from _comparison import machine, ratios
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.app.up.operator import Operator
from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.pki import profiles
from vestibule.pki.csr import make_csr, parse_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.wire.gen.spire import entry_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

TRUST_DOMAIN = TrustDomain.parse("bench.example")
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
AGENT_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AgentAdmin"]
WITHIN = 120.0
LIMIT = 10.0
"""Times the bare cryptography that one rotation, with everything around it, may take."""


@dataclass
class Deployment:
    """The two processes, and how to ask them."""

    directory: Path
    server: int
    agent: int

    async def call(self, socket_name: str, service: Any, method: str, request: Any) -> Any:
        channel = unix_channel(self.directory / socket_name)
        try:
            return await Client(channel, service).unary(method, request, timeout=60)
        finally:
            channel.close()

    async def agent_status(self) -> admin_pb2.AgentStatus:
        request = admin_pb2.GetAgentStatusRequest()
        status: admin_pb2.AgentStatus = await self.call("admin.sock", AGENT_ADMIN, "GetStatus", request)
        return status

    async def serials(self) -> dict[str, str]:
        return {svid.entry_id: svid.serial for svid in (await self.agent_status()).svids}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come up within 30 s")
        time.sleep(0.02)


@contextlib.contextmanager
def deployment() -> Iterator[Deployment]:
    """A server and an agent in a new directory, stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="vb"))
    program = [sys.executable, "-m", "vestibule"]
    port = free_port()
    log = (directory / "log").open("wb")
    running: list[subprocess.Popen[bytes]] = []
    try:
        server = [*program, "server", "run", "--trust-domain", str(TRUST_DOMAIN), "--health", "off"]
        server += ["--data-dir", f"{directory}/server", "--socket", f"{directory}/server.sock"]
        running.append(subprocess.Popen([*server, "--bind", f"127.0.0.1:{port}"], stdout=log, stderr=log))
        until((directory / "server.sock").exists, "the server")
        token, bundle = directory / "token", directory / "bundle.pem"
        reach = ["--server-socket", f"{directory}/server.sock"]
        subprocess.run([*program, "token", "generate", "--write", str(token), *reach], check=True, stdout=log)
        bundle.write_bytes(subprocess.check_output([*program, "bundle", "show", *reach]))
        agent = [
            *program,
            "agent",
            "run",
            "--trust-domain",
            str(TRUST_DOMAIN),
            "--server",
            f"127.0.0.1:{port}",
        ]
        agent += ["--data-dir", f"{directory}/agent", "--socket", f"{directory}/agent.sock"]
        agent += ["--admin-socket", f"{directory}/admin.sock", "--join-token-file", str(token)]
        running.append(subprocess.Popen([*agent, "--trust-bundle", str(bundle)], stdout=log, stderr=log))
        until((directory / "agent.sock").exists, "the agent")
        yield Deployment(directory, running[0].pid, running[1].pid)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


async def create_entries(mesh: Deployment, count: int) -> list[str]:
    """Entries that match our own user, under the agent; the answer is their ids."""
    agent_id = ""
    while not agent_id:
        agent_id = (await mesh.agent_status()).spiffe_id
        await asyncio.sleep(0.02)
    parent = SpiffeId.parse(agent_id)
    entries = [
        types_pb2.Entry(
            spiffe_id=types_pb2.SPIFFEID(trust_domain=str(TRUST_DOMAIN), path=f"/ns/bench/sa/s{number}"),
            parent_id=types_pb2.SPIFFEID(trust_domain=str(TRUST_DOMAIN), path=parent.path),
            selectors=[types_pb2.Selector(type="unix", value=f"uid:{os.getuid()}")],
        )
        for number in range(count)
    ]
    request = entry_pb2.BatchCreateEntryRequest(entries=entries)
    answer = await mesh.call("server.sock", ENTRY, "BatchCreateEntry", request)
    assert all(result.status.code == 0 for result in answer.results)
    ids = [str(result.entry.id) for result in answer.results]
    await everyone_new(mesh, {}, count)
    return ids


async def everyone_new(mesh: Deployment, before: dict[str, str], count: int) -> None:
    """Wait until the agent holds ``count`` SVIDs, none with a serial of before."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        now = await mesh.serials()
        if len(now) == count and all(before.get(entry) != serial for entry, serial in now.items()):
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"not every SVID was renewed within {WITHIN:.0f} s")


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
