"""Connections and transactions, whichever database there is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from vestibule.errors import VestibuleError

QUIET: Final = "vestibule_quiet"
"""An execution option of a statement: what it changes is nothing that other servers need to be told of."""


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
        self.observe: Observer = _nobody
        """Told of every transaction: ``read`` or ``write``, how long it took, and the code of its failure or none."""

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true.

        Committed, durably, at the end; rolled back by any exception.  Transactions queue, first come, first served.
        """
        with self._observed("write"), self._translated():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the last commit."""
        with self._observed("read"), self._translated():
            async with self._readers.begin() as connection:
                yield connection

    async def quick(self, query: str, parameters: Mapping[str, str | int]) -> Sequence[Sequence[Any]]:
        """The few rows that one query finds, ``:name`` standing for each parameter, at the least cost there is."""
        async with self.read() as connection:
            return (await connection.execute(text(query), dict(parameters))).all()

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
        await self._readers.dispose()
        await self._writer.dispose()
