"""SQLite: one file, a write lock of its own, a thread for each connection (aiosqlite)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import aiosqlite
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from vestibule.errors import VestibuleError
from vestibule.store.codes import STORE_UNUSABLE
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
    connections = _Connections(path)
    return _SqliteDatabase(
        path,
        writer=_engine(connections, size=1, begin="BEGIN IMMEDIATE"),
        readers=_engine(connections, size=READERS, begin="BEGIN", extra="query_only = ON"),
        connections=connections,
        same_file=_SameFile(path),
    )


class _SqliteDatabase(Database):
    """A ``Database`` that answers what is read in a moment by itself, on a connection of its own without a thread.

    A row that is found by its key takes a few microseconds, of which the way to another thread and back, and through
    SQLAlchemy, would make several hundred.  Readers never wait for the writer here, so all that may hold the caller up
    is the disk, for what is not in memory.
    """

    def __init__(
        self,
        path: Path,
        *,
        writer: AsyncEngine,
        readers: AsyncEngine,
        connections: _Connections,
        same_file: _SameFile,
    ) -> None:
        super().__init__(writer=writer, readers=readers, translated=same_file.translated)
        self._path = path
        self._connections = connections
        self._same_file = same_file
        self._direct: sqlite3.Connection | None = None

    async def quick(self, query: str, parameters: Mapping[str, str | int]) -> Sequence[Sequence[Any]]:
        """At once, except where SQLite says that somebody else has the file for a moment."""
        began = time.monotonic()
        try:
            self._same_file.check()
            if self._direct is None:
                self._direct = _direct(self._path)
            rows = self._direct.execute(query, parameters).fetchall()
        except (sqlite3.Error, VestibuleError) as error:
            if _is_busy(error):
                return await super().quick(query, parameters)
            with self._observed("read"), translated():
                raise
        self.observe("read", time.monotonic() - began, "")
        return rows

    async def close(self) -> None:
        """Close all connections."""
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        await super().close()
        await self._connections.close()


def _is_busy(error: sqlite3.Error | VestibuleError) -> bool:
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _direct(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    for pragma in ("trusted_schema = OFF", "query_only = ON", "busy_timeout = 0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class _Connection(aiosqlite.Connection):
    """A connection whose thread is stopped once.

    SQLAlchemy closes the connection of a transaction that is cancelled, and stops it when it is cancelled again while
    that goes on.  ``close`` then stops it a second time, which aiosqlite queues for a thread that has ended: nobody
    would ever answer, and a server that was told to stop would wait for it for ever.
    """

    _stopped: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """Close the database and end the thread, after what is queued."""
        if self._stopped is None:
            self._stopped = super().stop()
        return self._stopped


class _Connections:
    """All connections to one file, so that none outlives the database that it was made for.

    SQLAlchemy closes those of its pools that nobody uses at that moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: WeakSet[_Connection] = WeakSet()

    async def made(self, pragmas: Sequence[str]) -> _Connection:
        """Another connection; its transactions begin where we say."""

        def connect() -> sqlite3.Connection:
            raw = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            try:
                for pragma in pragmas:
                    raw.execute(f"PRAGMA {pragma}")
            except BaseException:
                raw.close()
                raise
            return raw

        connection = _Connection(connect, 64)
        connection._thread.daemon = True
        self._open.add(connection)
        await connection
        return connection

    async def close(self) -> None:
        """End them all, with their threads."""
        for each in list(self._open):
            if (stopped := each.stop()) is not None:
                await stopped


class _SameFile:
    """Whoever has a deleted file open can go on writing to it, and all of that is lost with the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: os.stat_result | None = None

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Every transaction looks first.  Raises: VST8000, and the errors of SQLite in our words."""
        self.check()
        with translated():
            yield

    def check(self) -> None:
        """Raises: VST8000."""
        try:
            named = os.stat(self._path)  # noqa: PTH116 - with every read, and half as long as Path's
        except OSError as error:
            if self._opened is None:
                return  # the first transaction makes it
            raise STORE_UNUSABLE.error(
                f"{self._path} is gone: {error.strerror}",
                advice="Put the file back where it was, with its -wal and -shm, and all goes on; or stop the server, "
                "restore the last backup and start it.",
            ) from error
        self._opened = self._opened or named
        if not os.path.samestat(named, self._opened):
            raise STORE_UNUSABLE.error(
                f"{self._path} is another file than the one that was opened",
                advice="Start the server anew, to go on with this file.",
            )


def _engine(connections: _Connections, *, size: int, begin: str, extra: str = "") -> AsyncEngine:
    pragmas = (*_PRAGMAS, extra) if extra else _PRAGMAS
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(connections.path)),
        async_creator=lambda: connections.made(pragmas),
        pool_size=size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
    )
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine
