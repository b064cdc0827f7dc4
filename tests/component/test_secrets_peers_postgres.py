"""Two server processes on one PostgreSQL: the one that is unsealed unseals the other, without shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.component.server_lab import short_directory
from tests.e2e.front_door import Program, until, vestibule
from tests.ports import free_port
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(180)
PATIENCE = 60.0


@contextmanager
def server(directory: Path, database: Path, port: int, peer: int) -> Iterator[Path]:
    """One of the two; the socket at which operators reach it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    words = (
        *("server", "run", "--trust-domain", "example.org", "--data-dir", directory / "data"),
        *("--socket", directory / "s.sock", "--bind", f"127.0.0.1:{port}", "--health", "off"),
        *("--database", f"file:{database}", "--secrets", f"127.0.0.1:{free_port()}"),
        *("--secrets-seal", "peers", "--secrets-peer", f"127.0.0.1:{peer}", "--output", "json"),
    )
    program = Program(directory, "server", words)
    try:
        program.ready(PATIENCE)
        yield directory / "s.sock"
        program.stop()
    finally:
        program.kill()


def is_sealed(socket: Path) -> bool:
    return bool(vestibule("secret status", "--server-socket", socket).envelope["data"]["sealed"])


def test_a_server_that_starts_is_unsealed_by_the_other_and_reads_what_that_one_wrote(
    postgres: Postgres,
) -> None:
    ports = free_port(), free_port()
    with short_directory() as directory:
        database, password = directory / "database", directory / "password"
        for path, text in ((database, postgres.conninfo(postgres.new_database())), (password, "swordfish")):
            path.touch(mode=0o600)
            path.write_text(text)
        with server(directory / "a", database, *ports) as a:
            made = vestibule("secret init", "--shares", 3, "--threshold", 2, "--server-socket", a)
            assert (made.code, len(made.envelope["data"]["keys"])) == (0, 3), made
            vestibule("secret put", "payments/database", f"password=@{password}", "--server-socket", a)
            with server(directory / "b", database, *reversed(ports)) as b:
                until(lambda: not is_sealed(b), lambda: vestibule("secret status", "--server-socket", b).out)
                got = vestibule("secret get", "payments/database", "--server-socket", b)
                assert "swordfish" in got.out, got
            # Whoever was given the key, and who gave it, is on record at both.
            told = (directory / "a" / "data" / "audit.jsonl").read_text()
            assert "secrets.unseal-peer" in told
            assert "swordfish" not in told
