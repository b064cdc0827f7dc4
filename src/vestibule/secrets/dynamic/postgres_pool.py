"""A bounded number of connections to somebody's PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import psycopg

from vestibule.secrets.dynamic.codes import DATABASE_BUSY
from vestibule.secrets.dynamic.postgres_failures import connecting
from vestibule.store.sql.postgres_address import PostgresAddress

CONNECT_SECONDS: Final = 8.0
WAIT_SECONDS: Final = 15.0
# Ours end well before a lease is given up; a template's backslashes mean what they mean to us.
_OPTIONS: Final = (
    "-c statement_timeout=15s -c lock_timeout=10s -c idle_in_transaction_session_timeout=20s "
    "-c standard_conforming_strings=on"
)

Connection: TypeAlias = "psycopg.AsyncConnection[Any]"


@dataclass(slots=True)
class _Idle:
    connection: Connection
    opened: float


class ConnectionPool:
    """Opens connections when they are needed, up to ``size``, and keeps them for the next."""

    def __init__(self, address: PostgresAddress, *, size: int, lifetime: float = 0) -> None:
        """``lifetime`` in seconds: a connection that is older is not used again; 0 for ever."""
        given = str(address.parameters.get("options", ""))
        self._parameters = address.parameters | {"options": f"{_OPTIONS} {given}".strip()}
        self._lifetime = lifetime
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Idle] = []
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One that works, in autocommit mode.  Raises: VST5415, VST5417, VST5422."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise DATABASE_BUSY.error("no connection to the database became free in time") from error
        try:
            each = await self._working()
            try:
                yield each.connection
            except BaseException:
                await _closed(each.connection)
                raise
            await self._put_back(each)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for each in idle:
            await _closed(each.connection)

    async def _working(self) -> _Idle:
        while self._idle:
            each = self._idle.pop()
            if self._lifetime and time.monotonic() - each.opened > self._lifetime:
                await _closed(each.connection)
            elif await _lives(each.connection):
                return each
            else:
                await _closed(each.connection)
        return _Idle(await self._opened(), opened=time.monotonic())

    async def _opened(self) -> Connection:
        with connecting():
            async with asyncio.timeout(CONNECT_SECONDS):
                return await psycopg.AsyncConnection.connect(
                    **self._parameters, autocommit=True, prepare_threshold=None
                )

    async def _put_back(self, each: _Idle) -> None:
        try:
            # A template may have changed the session's role or settings.
            await each.connection.execute("DISCARD ALL")
        except psycopg.Error:
            await _closed(each.connection)
            return
        except BaseException:
            await _closed(each.connection)
            raise
        if self._closed:
            await _closed(each.connection)
            return
        self._idle.append(each)


async def _lives(connection: Connection) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.execute("SELECT 1")
    except (psycopg.Error, TimeoutError):
        return False
    except BaseException:
        await _closed(connection)
        raise
    return True


async def _closed(connection: Connection) -> None:
    with suppress(psycopg.Error, OSError):
        await connection.close()
