"""Connections and transactions, whichever database there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from vestibule.errors import VestibuleError

QUIET: Final = "vestibule_quiet"
"""An execution option of a statement: what it changes is nothing that other servers need to be told of."""

CONNECTING_SECONDS: Final = 5.0
"""How long ``close`` waits for connections that nobody waits for any more."""


Observer: TypeAlias = Callable[[str, float, str], None]


def _nobody(_operation: str, _seconds: float, _failure: str) -> None:
    """Nobody looks."""


class Database:
    """One connection that writes, a few that read."""

    def __init__(
        self,
        *,
        writer: AsyncEngine,
        readers: AsyncEngine,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``writer`` begins its transactions with the database's write lock; ``translated`` turns errors into ours."""
        self._writer = writer
        self._readers = readers
        self._translated = translated
        self._connecting: set[asyncio.Task[Any]] = set()
        self.observe: Observer = _nobody
        """Told of every transaction: ``read`` or ``write``, how long it took, and the code of its failure or none."""

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true.

        Committed, durably, at the end; rolled back by any exception.  Transactions queue, first come, first served.
        """
        with self._observed("write"), self._translated():
            async with self._transaction(self._writer) as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the last commit."""
        with self._observed("read"), self._translated():
            async with self._transaction(self._readers) as connection:
                yield connection

    async def quick(self, query: str, parameters: Mapping[str, str | int]) -> Sequence[Sequence[Any]]:
        """The few rows that one query finds, ``:name`` standing for each parameter, at the least cost there is."""
        async with self.read() as connection:
            return (await connection.execute(text(query), dict(parameters))).all()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            connection = await self._connected(engine)
            stack.push_async_exit(connection)
            await stack.enter_async_context(connection.begin())
            yield connection

    async def _connected(self, engine: AsyncEngine) -> AsyncConnection:
        """A connection of the engine's.

        One that is interrupted while it is made is lost to SQLAlchemy's pool, and stays open with its thread.  So it
        is made in a task of its own, and goes back to the pool if nobody waits for it any more.
        """
        making = asyncio.create_task(engine.connect().start(), name="connect to the database")
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._connecting.add(making)
            making.add_done_callback(self._not_wanted)
            raise

    def _not_wanted(self, making: asyncio.Task[AsyncConnection]) -> None:
        self._connecting.discard(making)
        if not making.cancelled() and making.exception() is None:
            closing = asyncio.create_task(making.result().close(), name="disconnect from the database")
            self._connecting.add(closing)
            closing.add_done_callback(self._connecting.discard)

    @contextmanager
    def _observed(self, operation: str) -> Iterator[None]:
        began, outcome = time.monotonic(), ""
        try:
            yield
        except VestibuleError as error:
            outcome = error.code.code if error.code.code.startswith("VST800") else ""
            raise
        finally:
            self.observe(operation, time.monotonic() - began, outcome)

    async def close(self) -> None:
        """Close all connections and end their threads."""
        ends = asyncio.get_running_loop().time() + CONNECTING_SECONDS
        while self._connecting and (left := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._connecting, timeout=left)
        await self._readers.dispose()
        await self._writer.dispose()
