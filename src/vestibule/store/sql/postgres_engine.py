"""PostgreSQL: connections, the write lock, and what a transaction tells the other servers.

Writing is as with SQLite: one transaction at a time, here over all servers of a database.  An advisory lock, taken
first in every writing transaction, is that lock; PostgreSQL lets go of it with the transaction, however it ends, also
when a server is killed in the middle.  What is read under it stays true, so the rest of the store needs to know
nothing of isolation levels.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection as PsycopgConnection
from psycopg import IsolationLevel
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vestibule.store.changes import KINDS
from vestibule.store.sql.database import QUIET, Database
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_failures import translated
from vestibule.store.sql.schema import KIND

BUSY_SECONDS: Final = 10
READERS: Final = 4
CHANNEL: Final = "vestibule_changes"

# Advisory locks are known by number: "VSTB", and what for.
WRITE_LOCK: Final = 0x56535442_00000001
MIGRATION_LOCK: Final = 0x56535442_00000002
LEADER_LOCK: Final = 0x56535442_00000003

# A server that hangs, or a machine that is gone without a farewell, lets go of the write lock in the end.
_SESSION: Final = f"""
SET lock_timeout = '{BUSY_SECONDS}s';
SET statement_timeout = '{3 * BUSY_SECONDS}s';
SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""
_TOUCHED: Final = "vestibule_touched"

Raw: TypeAlias = "PsycopgConnection[Any]"
Connect: TypeAlias = Callable[[], Awaitable[Raw]]


class PostgresDatabase(Database):
    """A ``Database`` whose writing transactions tell the other servers, at their commit, what they changed."""

    def __init__(self, address: PostgresAddress, origin: str) -> None:
        """``origin`` marks what this store tells, which so does not come back to it as news."""
        super().__init__(
            writer=_writer(address),
            readers=_engine(_reading(address), size=READERS),
            translated=translated,
        )
        self._origin = origin
        self._quick = _QuickReads(address)
        event.listen(self._writer.sync_engine, "after_execute", _note_change)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """See ``Database.write``.  With the commit, and only then, the other servers are told."""
        async with super().write() as connection:
            touched: set[str] = set()
            connection.sync_connection.info[_TOUCHED] = touched  # type: ignore[union-attr]
            yield connection
            if touched:
                news = {"channel": CHANNEL, "payload": f"{self._origin} {','.join(sorted(touched))}"}
                await connection.execute(text("SELECT pg_notify(:channel, :payload)"), news)

    async def quick(self, query: str, parameters: Mapping[str, str | int]) -> Sequence[Sequence[Any]]:
        """On connections of their own, prepared and without transactions or SQLAlchemy: a tenth of the cost."""
        with self._observed("read"), self._translated():
            return await self._quick.rows(query, parameters)

    async def close(self) -> None:
        """Close all connections."""
        await self._quick.close()
        await super().close()


class _QuickReads:
    """A few connections that each answer one question at a time, of the last commit."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._turns = asyncio.Semaphore(READERS)
        self._idle: list[Raw] = []

    async def rows(self, query: str, parameters: Mapping[str, str | int]) -> Sequence[Sequence[Any]]:
        async with self._turns:
            if self._idle:
                connection = self._idle.pop()
                try:
                    return await self._asked(connection, query, parameters)
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
                    await self.close()  # the database was restarted, most likely under all of them
            return await self._asked(await self._opened(), query, parameters)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _asked(self, connection: Raw, query: str, parameters: Mapping[str, str | int]) -> Sequence[Any]:
        try:
            cursor = connection.cursor(binary=True)
            await cursor.execute(_placed(query), parameters, prepare=True)
            rows = await cursor.fetchall()
        except BaseException:  # cancelled, too: nobody knows in which state it is
            await connection.close()
            raise
        self._idle.append(connection)
        return rows

    async def _opened(self) -> Raw:
        connection = await opened(self._address)
        await connection.set_autocommit(True)
        await connection.set_read_only(True)
        return connection


@lru_cache(maxsize=64)
def _placed(query: str) -> bytes:
    """A query with psycopg's placeholders in place of ``:name``."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", query).encode()


def heard(payload: str, origin: str) -> tuple[str, ...]:
    """The kinds of change that a notification tells of; none for our own, all for one that is not understood."""
    teller, _, kinds = payload.partition(" ")
    if teller == origin:
        return ()
    known = tuple(kind for kind in kinds.split(",") if kind in KINDS)
    return known or KINDS


def _note_change(
    connection: Connection,
    statement: Any,
    _multi: object,
    _params: object,
    options: Mapping[str, Any],
    result: Any,
) -> None:
    # Every statement that changes rows passes here, so that no aggregate can forget to tell.
    if not getattr(statement, "is_dml", False) or options.get(QUIET) or result.rowcount == 0:
        return
    kind = statement.table.info.get(KIND)
    if kind is not None:
        connection.info.setdefault(_TOUCHED, set()).add(kind)


def _writer(address: PostgresAddress) -> AsyncEngine:
    async def connect() -> Raw:
        connection = await opened(address)
        # Each statement sees what was committed before it began; the first one waits for the lock.
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        return connection

    engine = _engine(connect, size=1)
    lock = f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(lock))
    return engine


def _reading(address: PostgresAddress) -> Connect:
    async def connect() -> Raw:
        connection = await opened(address)
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        return connection

    return connect


def _engine(connect: Connect, *, size: int) -> AsyncEngine:
    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        pool_size=size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        pool_pre_ping=True,  # a database that was restarted costs nobody an error
        hide_parameters=True,  # what we write is nobody's business in an error
    )


async def opened(address: PostgresAddress) -> Raw:
    """A connection as all of ours are; autocommit is off."""
    connection = await PsycopgConnection.connect(**address.parameters)
    try:
        await connection.set_autocommit(True)
        await connection.execute(_SESSION)
        await connection.set_autocommit(False)
    except BaseException:
        await connection.close()
        raise
    return connection
