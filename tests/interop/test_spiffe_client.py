"""The ``spiffe`` package from PyPI (py-spiffe) against our agent: every part its own process.

It is not importable beside our generated types in general, and is the strictest client there is: a stream that
ends with OK or CANCELLED stops it for good.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
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

VESTIBULE: Final = [sys.executable, "-m", "vestibule"]
ME: Final = f"unix:uid:{os.geteuid()}"

CONTEXT: Final = """
import json, sys
from spiffe import TrustDomain, WorkloadApiClient
with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    context = client.fetch_x509_context()
    bundles = client.fetch_x509_bundles()
    svid = context.default_svid
    print(json.dumps({
        "ids": [str(each.spiffe_id) for each in context.x509_svids],
        "serial": str(svid.leaf.serial_number),
        "chain": len(svid.cert_chain),
        "authorities": len(bundles.get_bundle_for_trust_domain(TrustDomain("example.org")).x509_authorities),
        "same": context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("example.org"))
            == bundles.get_bundle_for_trust_domain(TrustDomain("example.org")),
    }))
"""

DENIED: Final = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    try:
        client.fetch_x509_context()
        print(json.dumps({"error": ""}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""

SOURCE: Final = """
import json, sys, threading
from spiffe import WorkloadApiClient, X509Source
wanted = int(sys.argv[2])
changed, serials, lock = threading.Event(), [], threading.Lock()
def note():
    with lock:
        serial = str(source.svid.leaf.serial_number)
        if serial not in serials:
            serials.append(serial)
            print(serial, flush=True)
        if len(serials) >= wanted:
            changed.set()
client = WorkloadApiClient("unix://" + sys.argv[1])
source = X509Source(client, timeout_in_seconds=20)
source.subscribe_for_updates(note)
note()
done = changed.wait(40)
source.close()
sys.exit(0 if done else 1)
"""


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
        return str(created)

    def client(self, program: str, *words: str) -> Any:
        """Run a foreign client to its end and read its JSON."""
        command = [sys.executable, "-c", program, str(self.socket), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    directory = Path(tempfile.mkdtemp(prefix="vi", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


@contextmanager
def source(mesh: Mesh, serials: int) -> Iterator[subprocess.Popen[str]]:
    """An X509Source that prints each new serial and ends after so many."""
    command = [sys.executable, "-c", SOURCE, str(mesh.socket), str(serials)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def test_a_foreign_client_reads_its_identity_and_bundles(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web")
    mesh.entry("spiffe://example.org/someone-else", "unix:uid:4000001")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    found = mesh.client(CONTEXT)
    assert found["ids"] == ["spiffe://example.org/web"]
    assert found["chain"] == 1
    assert found["authorities"] == 1
    assert found["same"]


def test_a_foreign_client_that_no_entry_matches_fails_clearly(mesh: Mesh) -> None:
    error = mesh.client(DENIED)["error"]
    assert "no identity issued" in error


def test_an_x509_source_sees_rotations(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web", ttl="3s")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    with source(mesh, serials=3) as process:
        output, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
    assert len(set(output.split())) == 3


def test_an_x509_source_survives_an_agent_restart_while_the_server_is_down(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    with source(mesh, serials=2) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        mesh.stop("server")
        mesh.stop("agent")
        mesh.start_agent()
        assert mesh.client(CONTEXT)["ids"] == ["spiffe://example.org/web"]
        mesh.start_server()
        entries = mesh.command("entry", "show")
        entry_id = next(each["id"] for each in entries if each["spiffe_id"].endswith("/web"))
        # A new lifetime means a new certificate: the source must have come back to see it.
        mesh.command("entry", "update", entry_id, "--x509-svid-ttl", "30m")
        output, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
        assert output.strip()
