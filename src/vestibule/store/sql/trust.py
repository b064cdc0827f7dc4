"""Signing authorities in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlalchemy import Table, delete, select

from vestibule.records import AppendedAuthority, Authority, JwtKey, PublishedJwtKey, UpstreamRoot
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import (
    appended_authorities,
    authorities,
    jwt_keys,
    published_jwt_keys,
    upstream_roots,
)
from vestibule.store.sql.upserts import upsert

R = TypeVar("R", Authority, JwtKey, UpstreamRoot, PublishedJwtKey, AppendedAuthority)


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
                await connection.execute(upsert(connection, self._table, values, key=["id"]))
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
    """``store.ports.JwtKeys``, for tokens of either kind."""

    def __init__(self, database: Database, changes: Changes, table: Table = jwt_keys) -> None:
        super().__init__(database, changes, table, JwtKey)


class SqlUpstreamRoots(_SqlSigners[UpstreamRoot]):
    """``store.ports.UpstreamRoots``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        super().__init__(database, changes, upstream_roots, UpstreamRoot)


class SqlPublishedJwtKeys(_SqlSigners[PublishedJwtKey]):
    """``store.ports.PublishedJwtKeys``, for tokens of either kind."""

    def __init__(self, database: Database, changes: Changes, table: Table = published_jwt_keys) -> None:
        super().__init__(database, changes, table, PublishedJwtKey)


class SqlAppendedAuthorities(_SqlSigners[AppendedAuthority]):
    """``store.ports.AppendedAuthorities``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        super().__init__(database, changes, appended_authorities, AppendedAuthority)
