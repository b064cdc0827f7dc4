"""Signing authorities and trust bundles in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.sqlite import insert

from vestibule.records import Authority, JwtKey
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import authorities, bundles, jwt_keys

R = TypeVar("R", Authority, JwtKey)


class _SqlSigners(Generic[R]):
    """Records with a state and a life, one table of them."""

    def __init__(self, database: Database, changes: Changes, table: Table, kind: type[R]) -> None:
        self._database = database
        self._changes = changes
        self._table = table
        self._kind: type[R] = kind
        self._fields = tuple(field.name for field in fields(kind))

    async def all(self) -> list[R]:
        """All of them, oldest first."""
        columns = self._table.c
        order = (columns.not_before, columns.not_after, columns.id)
        query = select(*(columns[name] for name in self._fields)).order_by(*order)
        async with self._database.read() as connection:
            return [self._kind(**row._mapping) for row in await connection.execute(query)]

    async def put(self, *signers: R) -> None:
        """Keep them in one step."""
        async with self._database.write() as connection:
            for signer in signers:
                values: dict[str, Any] = {name: getattr(signer, name) for name in self._fields}
                statement = insert(self._table).values(values)
                await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
        self._changes.publish("authorities")

    async def delete(self, signer_id: str) -> bool:
        """Forget one."""
        statement = delete(self._table).where(self._table.c.id == signer_id)
        async with self._database.write() as connection:
            known = (await connection.execute(statement)).rowcount > 0
        if known:
            self._changes.publish("authorities")
        return known


class SqlAuthorities(_SqlSigners[Authority]):
    """``store.ports.Authorities``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        super().__init__(database, changes, authorities, Authority)


class SqlJwtKeys(_SqlSigners[JwtKey]):
    """``store.ports.JwtKeys``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        super().__init__(database, changes, jwt_keys, JwtKey)


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
            jwt_authorities=row.jwt_authorities,
            sequence=int(row.sequence),
            refresh_hint=row.refresh_hint,
        )

    async def put(self, bundle: TrustBundle) -> None:
        """Keep a trust domain's bundle in place of the one before."""
        values: dict[str, Any] = {
            "trust_domain": bundle.trust_domain,
            "x509_authorities": bundle.x509_authorities,
            "jwt_authorities": bundle.jwt_authorities,
            "sequence": str(bundle.sequence),
            "refresh_hint": bundle.refresh_hint,
        }
        statement = insert(bundles).values(values)
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["trust_domain"], set_=values)
            )
        self._changes.publish("bundle")
