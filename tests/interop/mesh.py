"""A server and an agent as processes of their own, for clients that other people wrote."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.ports import free_port

from vestibule.calls.unix import unix_channel
from vestibule.doors.agent_admin import SERVICE as AGENT_ADMIN
from vestibule.net.grpc import Client
from vestibule.wire.gen.spire import entry_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

VESTIBULE: Final = [sys.executable, "-m", "vestibule"]
STATUS: Final = admin_pb2.GetAgentStatusRequest()
ME: Final = f"unix:uid:{os.geteuid()}"


@dataclass
class Mesh:
    """A server and an agent as their own processes."""

    directory: Path
    port: int
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    agent_id: str = ""

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def server_socket(self) -> Path:
        return self.directory / "r" / "server.sock"

    def command(self, *words: str) -> Any:
        done = subprocess.run(
            [*VESTIBULE, *words, "--server-socket", str(self.server_socket), "--output", "json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["data"]

    def start(self, name: str, *words: str) -> str:
        """Start a long-lived part; its ready line."""
        with (self.directory / f"{name}.log").open("a") as log:
            process = subprocess.Popen([*VESTIBULE, *words], stdout=subprocess.PIPE, stderr=log, text=True)
        self.running[name] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready" in line, (self.directory / f"{name}.log").read_text()
        return line

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.communicate()

    def start_server(self) -> None:
        self.start(
            "server", "server", "run", "--trust-domain", "example.org", "--data-dir", str(self.directory / "server"),
            "--socket", str(self.server_socket), "--bind", f"127.0.0.1:{self.port}", "--health", "off",
        )  # fmt: skip

    def start_agent(self, *first: str) -> None:
        line = self.start(
            "agent", "agent", "run", "--trust-domain", "example.org", "--server", f"127.0.0.1:{self.port}",
            "--data-dir", str(self.directory / "agent"), "--socket", str(self.socket),
            "--admin-socket", str(self.directory / "admin.sock"), *first,
        )  # fmt: skip
        self.agent_id = line.split()[2]

    def entry(self, spiffe_id: str, selector: str = ME, ttl: str = "0s") -> str:
        created = self.command(
            "entry", "create", "--spiffe-id", spiffe_id, "--parent-id", self.agent_id,
            "--selector", selector, "--x509-svid-ttl", ttl,
        )  # fmt: skip
        return str(created["id"])

    def client(self, program: str, *words: str) -> Any:
        """Run a foreign client to its end and read its JSON."""
        command = [sys.executable, "-c", program, str(self.socket), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def started() -> Iterator[Mesh]:
    """A mesh of its own."""
    directory = Path(tempfile.mkdtemp(prefix="vi", dir="/tmp"))
    port = free_port()
    mesh = Mesh(directory, port)
    try:
        mesh.start_server()
        token, bundle = directory / "token", directory / "bundle.pem"
        mesh.command("token", "generate", "--write", str(token))
        shown = subprocess.run(
            [*VESTIBULE, "bundle", "show", "--server-socket", str(mesh.server_socket)],
            capture_output=True,
            check=True,
        )
        bundle.write_bytes(shown.stdout)
        mesh.start_agent("--join-token-file", str(token), "--trust-bundle", str(bundle))
        yield mesh
    finally:
        for name in reversed(list(mesh.running)):
            mesh.stop(name)
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def shared() -> Iterator[Mesh]:
    with started() as mesh:
        yield mesh


@pytest.fixture
def mesh(shared: Mesh) -> Iterator[Mesh]:
    """One for all tests of a module; none finds an identity that another had."""
    yield shared
    asyncio.run(_without_entries(shared))


@pytest.fixture
def own_mesh() -> Iterator[Mesh]:
    """For a test that leaves marks."""
    with started() as mesh:
        yield mesh


async def _without_entries(mesh: Mesh) -> None:
    server, agent = unix_channel(mesh.server_socket), unix_channel(mesh.directory / "admin.sock")
    try:
        entries = Client(server, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        found = await entries.unary("ListEntries", entry_pb2.ListEntriesRequest())
        ids = [each.id for each in found.entries]
        await entries.unary("BatchDeleteEntry", entry_pb2.BatchDeleteEntryRequest(ids=ids))
        async with asyncio.timeout(60):
            while (await Client(agent, AGENT_ADMIN).unary("GetStatus", STATUS)).svids:
                await asyncio.sleep(0.05)
    finally:
        server.close()
        agent.close()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
