"""Connections and transactions, whichever database there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

QUIET: Final = "vestibule_quiet"
"""An execution option of a statement: what it changes is nothing that other servers need to be told of."""


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

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true.

        Committed, durably, at the end; rolled back by any exception.  Transactions queue, first come, first served.
        """
        with self._translated():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the last commit."""
        with self._translated():
            async with self._readers.begin() as connection:
                yield connection

    async def close(self) -> None:
        """Close all connections and end their threads."""
        await self._readers.dispose()
        await self._writer.dispose()
