"""Instances of services in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, select, update

from vestibule.records import Instance
from vestibule.store.changes import Changes
from vestibule.store.sql.database import QUIET, Database
from vestibule.store.sql.schema import instances as table
from vestibule.store.sql.upserts import upsert

_FIELDS: Final = tuple(field.name for field in fields(Instance))
_AT_ONCE: Final = 500
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)


class SqlInstances:
    """``store.ports.Instances``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def put(self, instance: Instance) -> None:
        """Keep an instance; a mere renewal of its lease is no change that anybody is told of."""
        values = {name: getattr(instance, name) for name in _FIELDS}
        query = select(*_COLUMNS).where(table.c.id == instance.id)
        async with self._database.write() as connection:
            before = (await connection.execute(query)).one_or_none()
            changed = before is None or _without_lease(_instance(before)) != _without_lease(instance)
            statement = upsert(connection, table, values, key=["id"])
            await connection.execute(statement, execution_options={QUIET: not changed})
        if changed:
            self._changes.publish("instances")

    async def delete(self, instance_id: str) -> bool:
        """Forget one."""
        async with self._database.write() as connection:
            known = (await connection.execute(delete(table).where(table.c.id == instance_id))).rowcount > 0
        if known:
            self._changes.publish("instances")
        return known

    async def all(self) -> list[Instance]:
        """All of them, by ID."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(*_COLUMNS).order_by(table.c.id))
            return [_instance(row) for row in rows]

    async def extend_leases(self, until: datetime) -> None:
        """Let no lease end before ``until``."""
        statement = update(table).where(table.c.lease_expires_at < until).values(lease_expires_at=until)
        async with self._database.write() as connection:
            await connection.execute(statement, execution_options={QUIET: True})

    async def renew(self, instance_ids: Sequence[str], until: datetime) -> None:
        """Let the leases of these run until then."""
        async with self._database.write() as connection:
            for start in range(0, len(instance_ids), _AT_ONCE):
                some = table.c.id.in_(instance_ids[start : start + _AT_ONCE])
                statement = update(table).where(some).values(lease_expires_at=until)
                await connection.execute(statement, execution_options={QUIET: True})

    async def expire(self, now: datetime) -> list[Instance]:
        """Forget the instances whose leases are over."""
        over = table.c.lease_expires_at <= now
        async with self._database.read() as connection:
            # Mostly there is nothing to do, and then nothing is written.
            if (await connection.execute(select(table.c.id).where(over).limit(1))).first() is None:
                return []
        async with self._database.write() as connection:
            rows = (await connection.execute(delete(table).where(over).returning(*_COLUMNS))).all()
        if rows:
            self._changes.publish("instances")
        return sorted((_instance(row) for row in rows), key=lambda instance: instance.id)


def _without_lease(instance: Instance) -> Instance:
    return replace(instance, lease_expires_at=None)


def _instance(row: Row[Any]) -> Instance:
    return Instance(**row._mapping)
