"""What the secret manager keeps, in SQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, LargeBinary, and_, case, delete, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.records import Place, SealedRow
from vestibule.store.changes import Changes
from vestibule.store.ports import Rewrite
from vestibule.store.sql.database import QUIET, Database
from vestibule.store.sql.schema import sealed_rows as table
from vestibule.store.sql.upserts import inserting

_COLUMNS: Final = (table.c.space, table.c.key, table.c.revision, table.c.key_id, table.c.body)
_AT_ONCE: Final = 100
_WITHOUT_BODIES: Final = 2000
_FIRST_LOOK: Final = 64
_FURTHER_LOOK: Final = 1024
_BEHIND_SLASH: Final = chr(ord("/") + 1)

_GET: Final = "SELECT revision, key_id, body FROM sealed_rows WHERE space = :space AND key = :key"
_FROM: Final = "SELECT key FROM sealed_rows WHERE space = :space AND key >= :key ORDER BY key LIMIT :limit"
_BEHIND: Final = "SELECT key FROM sealed_rows WHERE space = :space AND key > :key ORDER BY key LIMIT :limit"
_OLDER: Final = "SELECT space, key FROM sealed_rows WHERE key_id > 0 AND key_id < :key_id LIMIT :limit"


class SqlSealedRows:
    """``store.ports.SealedRows``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def get(self, space: str, key: str) -> SealedRow | None:
        """The row at a place."""
        for revision, key_id, body in await self._database.quick(_GET, {"space": space, "key": key}):
            return SealedRow(space=space, key=key, revision=revision, key_id=key_id, body=body)
        return None

    async def keys(self, space: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys that begin with ``prefix``."""
        found = await self._looked(
            space, _Start(after) if after >= prefix else _Start(prefix, at=True), limit
        )
        return [key for key in found if key.startswith(prefix)]

    async def children(self, space: str, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """The next segments below ``prefix``."""
        found: list[str] = []
        start, look = _behind(prefix, after), _FIRST_LOOK
        while len(found) < limit:
            keys = await self._looked(space, start, look)
            for key in filter(start.admits, keys):
                if not key.startswith(prefix):
                    return found[:limit]
                if start.admits(key):
                    segment, slash, _ = key[len(prefix) :].partition("/")
                    found.append(segment + slash)
                    start = _behind(prefix, segment + slash)
            if len(keys) < look:
                break
            # Where much lies below each segment, a long look reads what is skipped.
            look = _FIRST_LOOK if start.at else min(2 * look, _FURTHER_LOOK)
        return found[:limit]

    async def revise(self, places: Sequence[Place], change: Rewrite, *, quiet: bool = False) -> None:
        """Read, change and write in one transaction."""
        async with self._database.write() as connection:
            there = {row.place: row async for row in _at(connection, places)}
            changed = change(there)
            await _write(connection, changed, quiet=quiet)
        if changed and not quiet:
            self._changes.publish("secrets")

    async def sealed_before(self, key_id: int, limit: int) -> list[Place]:
        """Places of rows that an older key sealed."""
        found = await self._database.quick(_OLDER, {"key_id": key_id, "limit": limit})
        return [(space, key) for space, key in found]

    async def snapshot(self, *, bodies_of: str | None = None) -> AsyncGenerator[SealedRow, None]:
        """All rows, by place, in one reading transaction."""
        body: ColumnElement[bytes] = table.c.body
        if bodies_of is not None:
            body = case((table.c.space == bodies_of, table.c.body), else_=literal(b"", LargeBinary)).label(
                "body"
            )
        size = _AT_ONCE if bodies_of is None else _WITHOUT_BODIES
        query = select(*_COLUMNS[:-1], body).order_by(table.c.space, table.c.key).limit(size)
        after: Place = ("", "")
        async with self._database.read() as connection:
            while True:
                behind = tuple_(table.c.space, table.c.key) > tuple_(*map(literal, after))
                rows = [_row(row) for row in await connection.execute(query.where(behind))]
                for row in rows:
                    yield row
                if not rows:
                    return
                after = rows[-1].place

    async def replace_all(self, rows: AsyncIterable[SealedRow], *, overwrite: bool) -> bool:
        """Keep these rows in place of all."""
        async with self._database.write() as connection:
            if not overwrite and (await connection.execute(select(table.c.key).limit(1))).first() is not None:
                return False
            await connection.execute(delete(table))
            batch: list[SealedRow] = []
            async for row in rows:
                batch.append(row)
                if len(batch) == _AT_ONCE:
                    await _write(connection, batch)
                    batch = []
            await _write(connection, batch)
        self._changes.publish("secrets")
        return True

    async def _looked(self, space: str, start: _Start, limit: int) -> list[str]:
        query = _FROM if start.at else _BEHIND
        rows = await self._database.quick(query, {"space": space, "key": start.key, "limit": limit})
        # SQLite keeps what is no text behind all texts, if somebody puts it there.
        return [key for (key,) in rows if isinstance(key, str)]


class _Start(NamedTuple):
    """Where a listing goes on: behind a key, or at it."""

    key: str
    at: bool = False

    def admits(self, key: str) -> bool:
        """Whether the listing still comes to this key."""
        return key >= self.key if self.at else key > self.key


def _behind(prefix: str, child: str) -> _Start:
    """Behind a child and all that is below it."""
    if child.endswith("/"):
        return _Start(prefix + child[:-1] + _BEHIND_SLASH, at=True)
    return _Start(prefix + child)


async def _at(connection: AsyncConnection, places: Sequence[Place]) -> AsyncIterator[SealedRow]:
    for start in range(0, len(places), _AT_ONCE):
        some = (
            and_(table.c.space == space, table.c.key == key)
            for space, key in places[start : start + _AT_ONCE]
        )
        for row in await connection.execute(select(*_COLUMNS).where(or_(*some))):
            yield _row(row)


async def _write(
    connection: AsyncConnection, changed: Iterable[SealedRow | Place], *, quiet: bool = False
) -> None:
    options = {QUIET: quiet}
    rows = [each for each in changed if isinstance(each, SealedRow)]
    for each in changed:
        if not isinstance(each, SealedRow):
            gone = (table.c.space == each[0]) & (table.c.key == each[1])
            await connection.execute(delete(table).where(gone), execution_options=options)
    if rows:
        statement = inserting(connection, table)
        new = {name: statement.excluded[name] for name in ("revision", "key_id", "body")}
        statement = statement.on_conflict_do_update(index_elements=["space", "key"], set_=new)
        values = [{column.name: getattr(row, column.name) for column in _COLUMNS} for row in rows]
        await connection.execute(statement, values, execution_options=options)


def _row(row: Any) -> SealedRow:
    return SealedRow(space=row.space, key=row.key, revision=row.revision, key_id=row.key_id, body=row.body)
