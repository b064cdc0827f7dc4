"""Federation relationships in SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.records import FederationRelationship
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.codes import KNOWN_RELATIONSHIP, NO_SUCH_RELATIONSHIP
from vestibule.store.ports import Page
from vestibule.store.sql.bundles import write_bundle
from vestibule.store.sql.database import QUIET, Database
from vestibule.store.sql.paging import decode_token, matching, page
from vestibule.store.sql.schema import relationships as table

_FIELDS: Final = tuple(field.name for field in fields(FederationRelationship))
_ALL: Final = select(*(table.c[name] for name in _FIELDS))


class SqlRelationships:
    """``store.ports.Relationships``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def all(self) -> list[FederationRelationship]:
        """All of them, by trust domain."""
        return list((await self.page(0)).items)

    async def get(self, trust_domain: TrustDomain) -> FederationRelationship | None:
        """The relationship with a trust domain."""
        async with self._database.read() as connection:
            return await _one(connection, trust_domain)

    async def page(self, size: int, token: str = "") -> Page[FederationRelationship]:
        """Up to ``size`` of them by trust domain."""
        after = decode_token(token)
        async with self._database.read() as connection:
            found = matching(connection, _ALL, table.c.trust_domain, _relationship, after)
            return await page(found, lambda _: True, size)

    async def create(self, relationship: FederationRelationship, bundle: TrustBundle | None = None) -> None:
        """Keep a new one."""
        async with self._database.write() as connection:
            if await _one(connection, relationship.trust_domain) is not None:
                raise KNOWN_RELATIONSHIP.error(
                    f"there is a federation relationship with {relationship.trust_domain}"
                )
            await connection.execute(insert(table).values(_values(relationship)))
            if bundle is not None:
                await write_bundle(connection, bundle)
        self._tell(bundle)

    async def revise(
        self,
        trust_domain: TrustDomain,
        change: Callable[[FederationRelationship], FederationRelationship],
        bundle: TrustBundle | None = None,
    ) -> FederationRelationship:
        """Keep what ``change`` makes of one."""
        async with self._database.write() as connection:
            kept = await _one(connection, trust_domain)
            if kept is None:
                raise NO_SUCH_RELATIONSHIP.error(f"there is no federation relationship with {trust_domain}")
            revised = change(kept)
            statement = update(table).where(table.c.trust_domain == trust_domain)
            await connection.execute(statement.values(_values(revised)))
            if bundle is not None:
                await write_bundle(connection, bundle)
        self._tell(bundle)
        return revised

    async def fetched(self, trust_domain: TrustDomain, at: datetime) -> None:
        """Note when the bundle was last fetched."""
        statement = update(table).where(table.c.trust_domain == trust_domain).values(fetched_at=at)
        async with self._database.write() as connection:
            await connection.execute(statement, execution_options={QUIET: True})

    async def delete(self, trust_domain: TrustDomain) -> bool:
        """Forget one."""
        statement = delete(table).where(table.c.trust_domain == trust_domain)
        async with self._database.write() as connection:
            known = (await connection.execute(statement)).rowcount > 0
        if known:
            self._changes.publish("relationships")
        return known

    def _tell(self, bundle: TrustBundle | None) -> None:
        if bundle is not None:
            self._changes.publish("bundle")
        self._changes.publish("relationships")


async def _one(connection: AsyncConnection, trust_domain: TrustDomain) -> FederationRelationship | None:
    row = (await connection.execute(_ALL.where(table.c.trust_domain == trust_domain))).one_or_none()
    return None if row is None else _relationship(row)


def _values(relationship: FederationRelationship) -> dict[str, Any]:
    return {name: getattr(relationship, name) for name in _FIELDS}


def _relationship(row: Row[Any]) -> FederationRelationship:
    return FederationRelationship(**row._mapping)
