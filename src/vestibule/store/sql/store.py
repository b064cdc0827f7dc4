"""Everything that is kept, in tables."""

from __future__ import annotations

from collections.abc import Callable

from vestibule.clock import Clock
from vestibule.store.changes import Changes
from vestibule.store.sql.administrators import SqlAdministrators
from vestibule.store.sql.agents import SqlAgents
from vestibule.store.sql.bundles import SqlBundles
from vestibule.store.sql.database import Database
from vestibule.store.sql.emergencies import SqlEmergencies
from vestibule.store.sql.entries import SqlEntries
from vestibule.store.sql.instances import SqlInstances
from vestibule.store.sql.intents import SqlIntentHistory
from vestibule.store.sql.join_tokens import SqlJoinTokens
from vestibule.store.sql.relationships import SqlRelationships
from vestibule.store.sql.revocations import SqlAgentMarks, SqlCrls, SqlLowerAuthorities, SqlRevocations
from vestibule.store.sql.schema import published_wit_keys, wit_keys
from vestibule.store.sql.sealed_rows import SqlSealedRows
from vestibule.store.sql.trust import (
    SqlAppendedAuthorities,
    SqlAuthorities,
    SqlJwtKeys,
    SqlPublishedJwtKeys,
    SqlUpstreamRoots,
)


class SqlStore:
    """The aggregates of ``store.ports.Store``, the same for every database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.changes = Changes()
        self.entries = SqlEntries(database, self.changes, clock)
        self.agents = SqlAgents(database, self.changes)
        self.join_tokens = SqlJoinTokens(database)
        self.authorities = SqlAuthorities(database, self.changes)
        self.jwt_keys = SqlJwtKeys(database, self.changes)
        self.upstream_roots = SqlUpstreamRoots(database, self.changes)
        self.published_jwt_keys = SqlPublishedJwtKeys(database, self.changes)
        self.wit_keys = SqlJwtKeys(database, self.changes, wit_keys)
        self.published_wit_keys = SqlPublishedJwtKeys(database, self.changes, published_wit_keys)
        self.appended_authorities = SqlAppendedAuthorities(database, self.changes)
        self.bundles = SqlBundles(database, self.changes)
        self.relationships = SqlRelationships(database, self.changes)
        self.instances = SqlInstances(database, self.changes)
        self.revocations = SqlRevocations(database, self.changes)
        self.agent_marks = SqlAgentMarks(database)
        self.lower_authorities = SqlLowerAuthorities(database)
        self.crls = SqlCrls(database)
        self.administrators = SqlAdministrators(database, self.changes)
        self.intents = SqlIntentHistory(database, self.changes)
        self.emergencies = SqlEmergencies(database, self.changes)
        self.sealed_rows = SqlSealedRows(database, self.changes)

    def observe(self, observer: Callable[[str, float, str], None]) -> None:
        """Tell of every transaction from now on; see ``Database.observe``."""
        self.database.observe = observer

    async def close(self) -> None:
        """End the change feed and close the database."""
        self.changes.close()
        await self.database.close()
