"""A PostgreSQL of the tests' own: on loopback, as an unprivileged user, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from tests.ports import free_port

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # what it keeps need not outlive the machine
    "shared_buffers": "16MB",
    "max_connections": "100",
}


def binaries() -> Path | None:
    """The directory of the newest PostgreSQL server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """A running cluster with a superuser ``tests`` whose password is ``secret``."""

    def __init__(self, bin_: Path, directory: Path, port: int) -> None:
        self.port = port
        self._bin = bin_
        self._data = directory / "data"
        self._log = directory / "log"
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def conninfo(self, database: str = "postgres", password: str = "secret") -> str:
        return f"postgresql://tests:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template0") -> str:
        """The name of a database that nobody else uses."""
        name = f"db{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    @contextmanager
    def connected(self, database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """A connection of the test's own."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            yield connection

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def initialise(self) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._data.parent) as password:
            password.write("secret")
            password.flush()
            os.chmod(password.name, 0o644)  # noqa: PTH101
            how = f"-A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync -U tests --pwfile={password.name}"
            self._run("initdb", "-D", str(self._data), *how.split())

    def start(self) -> None:
        settings = [f"-c{name}={value}" for name, value in (*_SETTINGS.items(), ("port", self.port))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *settings],
                stdout=log,
                stderr=log,
                **unprivileged(),
            )
        for _ in range(2400):
            if self._answers():
                return
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once, as when its machine is switched off: clients are cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments], check=True, capture_output=True, timeout=120, **unprivileged()
        )


def unprivileged() -> dict[str, Any]:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return {}
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("no unprivileged account")


@contextmanager
def running(bin_: Path) -> Iterator[Postgres]:
    """A new cluster, until the end of the block."""
    directory = Path(tempfile.mkdtemp(prefix="vst-pg-"))
    try:
        if os.geteuid() == 0:
            account = _account()
            os.chown(directory, account.pw_uid, account.pw_gid)
        cluster = Postgres(bin_, directory, free_port())
        cluster.initialise()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
