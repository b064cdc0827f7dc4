"""Permissions of break-glass in SQL."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update

from vestibule.records import Emergency
from vestibule.store.changes import Changes
from vestibule.store.sql.database import QUIET, Database
from vestibule.store.sql.schema import emergencies as table

_FIELDS: Final = tuple(field.name for field in fields(Emergency))
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)


class SqlEmergencies:
    """``store.ports.Emergencies``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def all(self) -> list[Emergency]:
        """All of them, oldest first."""
        query = select(*_COLUMNS).order_by(table.c.opened_at, table.c.id)
        async with self._database.read() as connection:
            return [Emergency(**row._mapping) for row in await connection.execute(query)]

    async def add(self, emergency: Emergency) -> None:
        """Keep a new one."""
        values: dict[str, Any] = {name: getattr(emergency, name) for name in _FIELDS}
        async with self._database.write() as connection:
            await connection.execute(insert(table).values(values))
        self._changes.publish("emergencies")

    async def close(self, emergency_id: str, at: datetime, by: str) -> Emergency | None:
        """End one that is open."""
        is_open = (table.c.id == emergency_id) & table.c.closed_at.is_(None)
        statement = update(table).where(is_open).values(closed_at=at, closed_by=by).returning(*_COLUMNS)
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        self._changes.publish("emergencies")
        return Emergency(**row._mapping)

    async def used(self, emergency_id: str, count: int) -> bool:
        """Add to the number of its uses; a mere count is no change that anybody is told of."""
        statement = update(table).where(table.c.id == emergency_id).values(uses=table.c.uses + count)
        async with self._database.write() as connection:
            return (await connection.execute(statement, execution_options={QUIET: True})).rowcount > 0

    async def prune(self, before: datetime) -> int:
        """Forget those that ended before this instant."""
        ended = func.coalesce(table.c.closed_at, table.c.expires_at) < before
        async with self._database.write() as connection:
            return (await connection.execute(delete(table).where(ended))).rowcount
