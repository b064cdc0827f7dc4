"""Administrators in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import delete, select

from vestibule.records import Administrator
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import administrators as table
from vestibule.store.sql.upserts import upsert

_FIELDS: Final = tuple(field.name for field in fields(Administrator))
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)


class SqlAdministrators:
    """``store.ports.Administrators``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def all(self) -> list[Administrator]:
        """All of them, by ID."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(*_COLUMNS).order_by(table.c.id))
            return [Administrator(**row._mapping) for row in rows]

    async def put(self, administrator: Administrator) -> None:
        """Keep one."""
        values: dict[str, Any] = {name: getattr(administrator, name) for name in _FIELDS}
        async with self._database.write() as connection:
            await connection.execute(upsert(connection, table, values, key=["id"]))
        self._changes.publish("administrators")

    async def delete(self, administrator_id: str) -> bool:
        """Forget one."""
        async with self._database.write() as connection:
            statement = delete(table).where(table.c.id == administrator_id)
            known = (await connection.execute(statement)).rowcount > 0
        if known:
            self._changes.publish("administrators")
        return known
