"""Bringing a database file to the current schema, before anybody uses it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from vestibule.store.codes import STORE_DAMAGED, STORE_NEWER, STORE_UNUSABLE
from vestibule.store.sql.failures import translated
from vestibule.store.sql.schema import REVISIONS, metadata, version

SCRIPTS: Final = Path(__file__).parent / "migrations"


def prepare(path: Path, scripts: Path = SCRIPTS, revisions: Sequence[str] = REVISIONS) -> None:
    """Make the database, or migrate it, or find it current; several processes may do so at once.

    A new database gets the current tables directly.  An older one is copied to ``PATH.REVISION.bak`` and then
    migrated in one transaction; only this needs (and imports) Alembic.
    Raises: VST8000 (can not be opened), VST8003 (not ours), VST8004 (of a newer version).
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(path)
        with _locked(path), translated():
            _bring_up(path, scripts, revisions)
    except OSError as error:
        raise STORE_UNUSABLE.error(f"{path} can not be opened: {error.strerror}") from error


def _bring_up(path: Path, scripts: Path, revisions: Sequence[str]) -> None:
    current = read_revision(path)
    if current == revisions[-1]:
        return
    if current and current not in revisions:
        raise STORE_NEWER.error(
            f"{path} has the schema {current}; this version knows {revisions[-1]} at most"
        )
    with _engine(path) as engine:
        if not current:
            with engine.begin() as connection:
                create(connection, revisions[-1])
            return
        _back_up(path, path.with_name(f"{path.name}.{current}.bak"))
        with engine.begin() as connection:
            migrate(connection, scripts, revisions[-1])


def read_revision(path: Path) -> str:
    """The schema's version, empty for an empty database.  Raises: VST8003 when the tables are not ours."""
    with closing(sqlite3.connect(path)) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        if not tables:
            return ""
        rows = (
            connection.execute("SELECT version_num FROM alembic_version").fetchall()
            if version.name in tables
            else []
        )
    if len(rows) != 1:
        raise STORE_DAMAGED.error(f"{path} is a database, but not one of Vestibule's")
    return str(rows[0][0])


def create(connection: Connection, revision: str) -> None:
    """The current tables, in an empty database."""
    metadata.create_all(connection)
    connection.execute(version.insert().values(version_num=revision))


def migrate(connection: Connection, scripts: Path, head: str) -> None:
    """From whatever version the database has to ``head``; needs (and imports) Alembic."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory(str(scripts))
    context = MigrationContext.configure(
        connection, opts={"fn": lambda revision, _: directory._upgrade_revs(head, revision)}
    )
    with Operations.context(context):
        context.run_migrations()


def _back_up(path: Path, copy: Path) -> None:
    _make_private(copy)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _make_private(path: Path) -> None:
    # SQLite gives its journals the mode of the database file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _engine(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _leave_transactions_to_us)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield engine
    finally:
        engine.dispose()


def _leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
    # Python's driver commits before DDL unless told to keep out of transactions.
    connection.isolation_level = None
