"""Engines that are open, each as long as its database's configuration is what it was opened with."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.addresses import address_of
from vestibule.secrets.dynamic.catalog import Catalog, Kept
from vestibule.secrets.dynamic.codes import DATABASE_REFUSES, MALFORMED_DATABASE, NO_SUCH_DATABASE
from vestibule.secrets.dynamic.ports import CredentialEngine
from vestibule.secrets.dynamic.records import POSTGRESQL, Database
from vestibule.store.codes import CONFLICT

Open: TypeAlias = Callable[[Database, str], Awaitable[CredentialEngine]]
"""Opens an engine for a database with a password; connecting may wait until it is used."""

_log = logging.getLogger(__name__)


async def open_postgres_engine(database: Database, password: str) -> CredentialEngine:
    """Raises: VST5410, VST8008."""
    # Here, since loading it takes a good part of the time in which a server starts.
    from vestibule.secrets.dynamic.postgres import PostgresEngine, PostgresSettings

    settings = PostgresSettings(
        size=database.max_open_connections,
        lifetime=database.max_connection_lifetime.total_seconds(),
        hashed=database.hashed,
    )
    return PostgresEngine(address_of(database, password), settings)


ENGINES: Final[Mapping[str, Open]] = {POSTGRESQL: open_postgres_engine}
"""By ``plugin_name``."""


class Engines:
    """Opens them when they are needed; other servers' changes count from the next use on."""

    def __init__(self, catalog: Catalog, kinds: Mapping[str, Open] = ENGINES) -> None:
        self._catalog = catalog
        self._kinds = kinds
        self._open: dict[str, tuple[int, CredentialEngine]] = {}

    async def of(self, name: str) -> CredentialEngine:
        """The engine of a configured database.

        Raises: VST5411, what opening raises; and errors of the database only while its password is being changed.
        """
        kept = await self._catalog.databases.get(name)
        if kept is None:
            raise NO_SUCH_DATABASE.error(f"there is no database {name}")
        known = self._open.get(name)
        if known is not None and known[0] == kept.revision and not kept.value.next_password:
            return known[1]
        revision, engine = await self._opened(name, kept)
        if (older := self._open.pop(name, None)) is not None:
            await older[1].close()
        self._open[name] = revision, engine
        return engine

    async def opened(self, database: Database, password: str) -> CredentialEngine:
        """An engine that nobody else uses.  Raises: VST5410, VST8008."""
        kind = self._kinds.get(database.plugin)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise MALFORMED_DATABASE.error(f"there is no plugin of this name; {known} is known")
        return await kind(database, password)

    async def reset(self, name: str) -> None:
        """Close the connections; the next use opens new ones."""
        if (known := self._open.pop(name, None)) is not None:
            await known[1].close()

    async def close(self) -> None:
        """Close all."""
        for name in list(self._open):
            await self.reset(name)

    async def _opened(self, name: str, kept: Kept[Database]) -> tuple[int, CredentialEngine]:
        database = kept.value
        engine = await self.opened(database, database.password)
        if not database.next_password:
            return kept.revision, engine
        # The password was being changed when something ended: one of the two is right.
        try:
            await engine.verify()
        except VestibuleError as error:
            await engine.close()
            if error.code is not DATABASE_REFUSES:
                raise
        else:
            return kept.revision, engine
        engine = await self.opened(database, database.next_password)
        try:
            await engine.verify()
        except BaseException:
            await engine.close()
            raise
        _log.info("the changed password of database %s is in force", name)
        settled = replace(database, password=database.next_password, next_password="")
        try:
            kept = await self._catalog.databases.put(name, settled, kept)
        except VestibuleError as error:
            # Somebody else has settled it.
            if error.code is not CONFLICT:
                raise
        return kept.revision, engine
