"""The server and the agent as programs that can be killed at any moment and started again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0
PYTHON = [sys.executable, "-m", "vestibule"]
FOREIGN = ("VESTIBULE_", "SPIFFE_")


@dataclass
class Program:
    """One command that says it is ready on standard output."""

    name: str
    words: list[str]
    ready: str
    log: Path
    started: int = 0
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    _mark: int = field(default=0, repr=False)

    def start(self) -> None:
        """Begin; ``until_ready`` waits for it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self._mark = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*PYTHON, *self.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self.environment,
            )
        self.started += 1

    async def until_ready(self) -> None:
        """Raises: AssertionError when it ends, or is not ready in time."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while self.ready.encode() not in self._said():
            assert self.process.poll() is None, f"{self.name} ended: {self._said()[-2000:].decode()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready: {self._said()[-2000:].decode()}"
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def _said(self) -> bytes:
        with self.log.open("rb") as log:
            log.seek(self._mark)
            return log.read()


@dataclass(frozen=True)
class Field:
    """Where everything is, for one run."""

    directory: Path
    port: int
    lifetimes: tuple[str, ...] = ("--ca-ttl", "4m", "--default-x509-svid-ttl", "4s", "--agent-ttl", "8s")
    """Certificates of seconds, so that something is renewed at every moment, and authorities of minutes."""

    @property
    def data(self) -> Path:
        return self.directory / "server"

    @property
    def socket(self) -> Path:
        return self.directory / "server.sock"

    @property
    def agent_socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    def server(self) -> Program:
        words = ["server", "run", "--trust-domain", "example.org", "--data-dir", str(self.data)]
        words += ["--socket", str(self.socket), "--bind", f"127.0.0.1:{self.port}", "--health", "off"]
        words += self.lifetimes
        return Program("server", words, "vestibule server ready:", self.directory / "server.log")

    def agent(self, token: Path, bundle: Path) -> Program:
        words = ["agent", "run", "--trust-domain", "example.org", "--server", f"127.0.0.1:{self.port}"]
        words += ["--data-dir", str(self.directory / "agent"), "--socket", str(self.agent_socket)]
        words += ["--admin-socket", str(self.admin_socket), "--join-token-file", str(token)]
        words += ["--trust-bundle", str(bundle)]
        return Program("agent", words, "agent ready:", self.directory / "agent.log")

    def integrity(self) -> str:
        """SQLite's own verdict about the database as the crash left it; ``ok`` if it is whole."""
        with tempfile.TemporaryDirectory(dir=self.directory, ignore_cleanup_errors=True) as scratch:
            for each in self.data.glob("server.db*"):
                if ".bak" not in each.name:
                    shutil.copy(each, scratch)
            connection = sqlite3.connect(Path(scratch) / "server.db")
            try:
                rows = connection.execute("PRAGMA integrity_check").fetchall()
            finally:
                connection.close()
        return ", ".join(str(row[0]) for row in rows)

    def audit_records(self) -> list[dict[str, Any]]:
        """The records of the audit log; lines that a crash left unfinished are accounted for by later ones."""
        found = []
        for line in (self.data / "audit.jsonl").read_bytes().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [each for each in found if isinstance(each, dict) and "action" in each]
