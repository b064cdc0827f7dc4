"""A server and an agent as processes of their own, for clients that other people wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.ports import free_port

VESTIBULE: Final = [sys.executable, "-m", "vestibule"]
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
            timeout=30,
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
            process.wait(15)
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
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


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
