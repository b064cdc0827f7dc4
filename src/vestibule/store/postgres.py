"""The store of several servers, in one PostgreSQL database."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.store.changes import KINDS
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_engine import (
    BUSY_SECONDS,
    CHANNEL,
    LEADER_LOCK,
    PostgresDatabase,
    Raw,
    heard,
    opened,
)
from vestibule.store.sql.postgres_failures import translated
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sql.store import SqlStore

ELECTION_SECONDS: Final = 2.0
"""How often a server asks for the lead, and whether the connection that would tell it of changes still lives."""
RECONNECT_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class PostgresStore(SqlStore):
    """``store.ports.Store``.  While ``run`` runs, its change feed also tells of what other servers changed.

    One connection listens for changes and holds the lock of the one server that leads; when it breaks, the lead is
    lost with it.  Whatever was changed meanwhile is made good by telling that everything may have changed.
    """

    def __init__(self, address: PostgresAddress, clock: Clock) -> None:
        self._address = address
        self._origin = secrets.token_hex(8)
        self._leads = False
        super().__init__(PostgresDatabase(address, self._origin), clock)

    @property
    def leads(self) -> bool:
        """Whether this is the one server of all on this database that does what has to be done once."""
        return self._leads

    async def run(self) -> None:
        """Listen for other servers' changes and stand for the lead, over any number of broken connections."""
        while True:
            try:
                with translated():
                    await self._follow()
            except VestibuleError as error:
                _log.warning("no news of the database: %s", error)
            except TimeoutError:
                _log.warning("no news of the database: it does not answer")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _follow(self) -> None:
        connection = await opened(self._address)
        try:
            await connection.set_autocommit(True)
            await connection.execute(f"LISTEN {CHANNEL}")
            # From here on nothing is missed; what was before is not known.
            self._tell(KINDS)
            while True:
                await self._stand_for_the_lead(connection)
                async with aclosing(connection.notifies(timeout=ELECTION_SECONDS)) as notices:
                    async for notice in notices:
                        self._tell(heard(notice.payload, self._origin))
        finally:
            self._leads = False
            await connection.close()

    async def _stand_for_the_lead(self, connection: Raw) -> None:
        # Of the connection that holds the lock the same statement asks for a sign of life.
        question = "SELECT true" if self._leads else f"SELECT pg_try_advisory_lock({LEADER_LOCK})"
        async with asyncio.timeout(BUSY_SECONDS):
            row = await (await connection.execute(question)).fetchone()
        if not self._leads and row is not None and row[0]:
            _log.info("this server leads")
            self._leads = True

    def _tell(self, kinds: tuple[str, ...]) -> None:
        for kind in kinds:
            self.changes.publish(kind)


async def open_postgres(address: PostgresAddress, clock: Clock) -> PostgresStore:
    """Open the database, making or migrating its tables first where that is needed.

    ``run`` must run while the store is used; ``close`` it when done.
    Raises: VST8003 (tables of others), VST8004 (of a newer version), VST8006 (cannot be reached), VST8007 (refuses).
    """
    await asyncio.to_thread(prepare, address)
    store = PostgresStore(address, clock)
    try:
        async with store.database.write():
            return store
    except BaseException:
        await store.close()
        raise
