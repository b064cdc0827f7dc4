"""The store of one server, in one SQLite file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vestibule.clock import Clock
from vestibule.store.sql.preparation import prepare
from vestibule.store.sql.sqlite_engine import sqlite_database
from vestibule.store.sql.store import SqlStore


class SqliteStore(SqlStore):
    """``store.ports.Store``.  Its change feed tells of changes made through this object only."""

    @property
    def leads(self) -> bool:
        """Always: there is no other server."""
        return True

    async def run(self) -> None:
        """Nobody else changes what is kept, so there is nothing to follow."""


async def open_store(path: Path, clock: Clock) -> SqliteStore:
    """Open the database at ``path``, making or migrating it first where that is needed.

    The file is private (0600).  Close the store when done: its connections have threads.
    Raises: VST8000 (can not be opened), VST8003 (not a Vestibule database), VST8004 (of a newer version).
    """
    await asyncio.to_thread(prepare, path)
    store = SqliteStore(sqlite_database(path), clock)
    try:
        async with store.database.write():  # the first connection tells whether the file can be written
            return store
    except BaseException:
        await store.close()
        raise
