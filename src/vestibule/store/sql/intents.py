"""The history of intents in SQL."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.records import KeptIntent, RolloutRecord
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import intents as table
from vestibule.store.sql.schema import rollout
from vestibule.store.sql.upserts import upsert

_THE_ONE: Final = 1
_FIELDS: Final = tuple(field.name for field in fields(KeptIntent))
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)
_LISTED: Final = tuple(column for column in _COLUMNS if column is not table.c.files)


class SqlIntentHistory:
    """``store.ports.IntentHistory``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def record(self, state: RolloutRecord, *intents: KeptIntent) -> bool:
        """Keep a state, and with it intents."""
        async with self._database.write() as connection:
            if await _revision(connection) != state.revision - 1:
                return False
            for each in intents:
                await _keep(connection, each)
            row = {"id": _THE_ONE, "revision": state.revision, "document": state.document}
            await connection.execute(upsert(connection, rollout, row, key=["id"]))
        self._changes.publish("rollout")
        return True

    async def state(self) -> RolloutRecord | None:
        """How far the rollout is."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(rollout.c.revision, rollout.c.document))).one_or_none()
        return None if row is None else RolloutRecord(**row._mapping)

    async def all(self) -> list[KeptIntent]:
        """All intents, the newest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(*_LISTED).order_by(table.c.number.desc()))
            return [KeptIntent(**row._mapping) for row in rows]

    async def latest(self, version: str) -> KeptIntent | None:
        """The newest intent of this version."""
        query = select(*_COLUMNS).where(table.c.version == version).order_by(table.c.number.desc()).limit(1)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else KeptIntent(**row._mapping)

    async def prune(self, keep: int, spare: AbstractSet[str]) -> int:
        """Forget old ones."""
        newest = select(table.c.number).order_by(table.c.number.desc()).limit(keep)
        statement = delete(table).where(
            table.c.number.not_in(newest.scalar_subquery()), table.c.version.not_in(sorted(spare))
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount


async def _revision(connection: AsyncConnection) -> int:
    return (await connection.execute(select(rollout.c.revision))).scalar_one_or_none() or 0


async def _keep(connection: AsyncConnection, intent: KeptIntent) -> None:
    if intent.number:
        values: dict[str, Any] = {
            "outcome": intent.outcome,
            "reason": intent.reason,
            "ended_at": intent.ended_at,
        }
        await connection.execute(update(table).where(table.c.number == intent.number).values(values))
        return
    # We hold the write lock, so nobody else takes the next number.
    last = (await connection.execute(select(func.max(table.c.number)))).scalar_one_or_none() or 0
    values = {name: getattr(intent, name) for name in _FIELDS} | {"number": last + 1}
    await connection.execute(insert(table).values(values))
