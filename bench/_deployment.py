"""A server and an agent as processes, what an operator asks of them, and entries for this user's programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _server import ENTRY, TRUST_DOMAIN, entry_for, free_port, until

from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

AGENT_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AgentAdmin"]
WITHIN = 120.0


@dataclass
class Deployment:
    """The two processes, and how to ask them."""

    directory: Path
    server: int
    agent: int

    @property
    def selector(self) -> str:
        """The value of the ``unix`` selector that this user's programs have."""
        return f"uid:{os.getuid()}"

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
    entries = [entry_for(parent, f"/ns/bench/sa/s{number}", mesh.selector) for number in range(count)]
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
