"""SQLite: one file, a write lock of its own, a thread for each connection (aiosqlite)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from vestibule.store.sql.database import Database
from vestibule.store.sql.failures import translated

BUSY_SECONDS: Final = 10
READERS: Final = 2

_PRAGMAS: Final = (
    f"busy_timeout = {BUSY_SECONDS * 1000}",
    "journal_mode = WAL",  # readers see the last commit and never wait for the writer
    "synchronous = FULL",  # a commit is on disk when it returns
    "foreign_keys = ON",
    "trusted_schema = OFF",
)


def sqlite_database(path: Path) -> Database:
    """The database in the file at ``path``, which is prepared already."""
    return Database(
        writer=_engine(path, size=1, begin="BEGIN IMMEDIATE"),
        readers=_engine(path, size=READERS, begin="BEGIN", extra="query_only = ON"),
        translated=translated,
    )


def _engine(path: Path, *, size: int, begin: str, extra: str = "") -> AsyncEngine:
    url = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(url, pool_size=size, max_overflow=0, pool_timeout=BUSY_SECONDS)
    pragmas = (*_PRAGMAS, extra) if extra else _PRAGMAS

    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, below
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", configure)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine
