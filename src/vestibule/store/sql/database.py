"""Connections and transactions of one SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

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


class Database:
    """One connection that writes, a few that read; each connection has a thread of its own (aiosqlite)."""

    def __init__(self, path: Path) -> None:
        self._writer = _engine(path, size=1, begin="BEGIN IMMEDIATE")
        self._readers = _engine(path, size=READERS, begin="BEGIN", extra="query_only = ON")

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true.

        Committed, durably, at the end; rolled back by any exception.  Transactions queue, first come, first served.
        """
        with translated():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the last commit."""
        with translated():
            async with self._readers.begin() as connection:
                yield connection

    async def close(self) -> None:
        """Close all connections and end their threads."""
        await self._readers.dispose()
        await self._writer.dispose()


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
