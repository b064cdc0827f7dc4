"""Signing authorities and trust bundles in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from vestibule.records import Authority
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import authorities, bundles

_FIELDS: Final = tuple(field.name for field in fields(Authority))


class SqlAuthorities:
    """``store.ports.Authorities``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def all(self) -> list[Authority]:
        """All of them, oldest first."""
        order = (authorities.c.not_before, authorities.c.not_after, authorities.c.id)
        query = select(*(authorities.c[name] for name in _FIELDS)).order_by(*order)
        async with self._database.read() as connection:
            return [Authority(**row._mapping) for row in await connection.execute(query)]

    async def put(self, *authorities_: Authority) -> None:
        """Keep them in one step."""
        async with self._database.write() as connection:
            for authority in authorities_:
                values: dict[str, Any] = {name: getattr(authority, name) for name in _FIELDS}
                statement = insert(authorities).values(values)
                await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
        self._changes.publish("authorities")

    async def delete(self, authority_id: str) -> bool:
        """Forget one."""
        statement = delete(authorities).where(authorities.c.id == authority_id)
        async with self._database.write() as connection:
            known = (await connection.execute(statement)).rowcount > 0
        if known:
            self._changes.publish("authorities")
        return known


class SqlBundles:
    """``store.ports.Bundles``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def get(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The latest bundle of a trust domain."""
        query = select(bundles).where(bundles.c.trust_domain == trust_domain)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return TrustBundle(
            trust_domain=row.trust_domain,
            x509_authorities=row.x509_authorities,
            sequence=int(row.sequence),
            refresh_hint=row.refresh_hint,
        )

    async def put(self, bundle: TrustBundle) -> None:
        """Keep a trust domain's bundle in place of the one before."""
        values: dict[str, Any] = {
            "trust_domain": bundle.trust_domain,
            "x509_authorities": bundle.x509_authorities,
            "sequence": str(bundle.sequence),
            "refresh_hint": bundle.refresh_hint,
        }
        statement = insert(bundles).values(values)
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["trust_domain"], set_=values)
            )
        self._changes.publish("bundle")
