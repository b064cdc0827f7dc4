"""``INSERT … ON CONFLICT``, which both databases have and SQLAlchemy spells once for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def upsert(
    connection: AsyncConnection,
    table: Table,
    values: Mapping[str, Any],
    *,
    key: Sequence[str],
    change: Mapping[str, Any] | None = None,
) -> sqlite.Insert:
    """Insert a row, or, where one of this ``key`` exists, set ``change`` (default: all values) in it."""
    statement = inserting(connection, table).values(dict(values))
    return statement.on_conflict_do_update(
        index_elements=list(key), set_=dict(values if change is None else change)
    )


async def insert_new(connection: AsyncConnection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key exists; whether it was inserted."""
    statement = inserting(connection, table).values(dict(values)).on_conflict_do_nothing()
    return (await connection.execute(statement.returning(text("1")))).first() is not None


def inserting(connection: AsyncConnection, table: Table) -> sqlite.Insert:
    """An ``INSERT`` that may be told what to do about a conflict."""
    if connection.dialect.name == "postgresql":
        # The two classes have the methods used here in common, but no type that says so.
        return cast("sqlite.Insert", postgresql.insert(table))
    return sqlite.insert(table)  # noqa: TID251 - this is the place for it
