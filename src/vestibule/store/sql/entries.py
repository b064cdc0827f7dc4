"""Registration entries in SQL."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, Row, Select, Text, delete, func, insert, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.codes import ENTRY_ID_TAKEN, NO_SUCH_ENTRY, SIMILAR_ENTRY, UNKNOWN_FEDERATION
from vestibule.store.filters import EntryFilter
from vestibule.store.ports import Page
from vestibule.store.sql.columns import compact
from vestibule.store.sql.database import Database
from vestibule.store.sql.paging import decode_token, matching, page
from vestibule.store.sql.schema import bundles
from vestibule.store.sql.schema import entries as table

_FIELDS: Final = tuple(field.name for field in fields(Entry))
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)
_MARKS: Final = select(table.c.id, table.c.revision, type_coerce(table.c.created_at, BigInteger))
_AT_ONCE: Final = 500
"""Entries that are read one by one; of more, all are."""

_Mark: TypeAlias = tuple[int, int]
"""Revision and time of creation."""


class SqlEntries:
    """``store.ports.Entries``."""

    def __init__(self, database: Database, changes: Changes, clock: Clock) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._read: dict[str, tuple[_Mark, Entry]] = {}

    async def create(self, entry: Entry) -> tuple[Entry, bool]:
        """Keep a new entry, or find the similar one."""
        (result,) = await self.create_many((entry,))
        if isinstance(result, VestibuleError):
            raise result
        return result

    async def create_many(self, entries: Sequence[Entry]) -> list[tuple[Entry, bool] | VestibuleError]:
        """``create`` for each, in one transaction."""
        now = self._clock.now()
        async with self._database.write() as connection:
            results = [await _create(connection, entry, now) for entry in entries]
        if any(not isinstance(result, VestibuleError) and result[1] for result in results):
            self._changes.publish("entries")
        return results

    async def update(self, entry: Entry) -> Entry:
        """Replace an entry."""
        (result,) = await self.update_many((entry,))
        if isinstance(result, VestibuleError):
            raise result
        return result

    async def update_many(self, entries: Sequence[Entry]) -> list[Entry | VestibuleError]:
        """``update`` for each, in one transaction."""
        async with self._database.write() as connection:
            results = [await _update(connection, entry) for entry in entries]
        if any(isinstance(result, Entry) for result in results):
            self._changes.publish("entries")
        return results

    async def delete(self, entry_id: str) -> bool:
        """Forget an entry."""
        async with self._database.write() as connection:
            known = (await connection.execute(delete(table).where(table.c.id == entry_id))).rowcount > 0
        self._read.pop(entry_id, None)
        if known:
            self._changes.publish("entries")
        return known

    async def get(self, entry_id: str) -> Entry | None:
        """The entry of this ID."""
        async with self._database.read() as connection:
            return await _one(connection, table.c.id == entry_id)

    async def all(self) -> list[Entry]:
        """All entries, by ID.  Of those that were read before, only what has changed is read again.

        Every change of an entry counts its revision up, and an ID that is used again has another time of creation.
        """
        async with self._database.read() as connection:
            marks = {row[0]: (row[1], row[2]) for row in await connection.execute(_MARKS)}
            known = {id_: self._read[id_] for id_, mark in marks.items() if self._is_current(id_, mark)}
            missing = [id_ for id_ in marks if id_ not in known]
            if len(missing) > _AT_ONCE:
                found = list(await connection.execute(select(*_COLUMNS)))
            elif missing:
                found = list(await connection.execute(select(*_COLUMNS).where(table.c.id.in_(missing))))
            else:
                found = []
        for row in found:
            entry = _entry(row)
            known[entry.id] = marks[entry.id], entry
        self._read = known
        return [known[id_][1] for id_ in sorted(known)]

    def _is_current(self, entry_id: str, mark: _Mark) -> bool:
        known = self._read.get(entry_id)
        return known is not None and known[0] == mark

    async def page(self, filter: EntryFilter, size: int, token: str = "") -> Page[Entry]:  # noqa: A002
        """Up to ``size`` entries by ID."""
        after = decode_token(token)
        async with self._database.read() as connection:
            found = matching(connection, _narrowed(filter), table.c.id, _entry, after)
            return await page(found, filter.admits, size)

    async def count(self, filter: EntryFilter) -> int:  # noqa: A002
        """How many entries there are."""
        async with self._database.read() as connection:
            if filter == EntryFilter():
                return (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            found = matching(connection, _narrowed(filter), table.c.id, _entry)
            return len((await page(found, filter.admits, 0)).items)


def similarity(entry: Entry) -> bytes:
    """Equal for similar entries, and for no others."""
    selectors = [[selector.type, selector.value] for selector in sorted(entry.selectors)]
    compared: list[object] = [str(entry.spiffe_id), str(entry.parent_id), selectors]
    if entry.is_template:  # whose SPIFFE ID is only the beginning of what it gives
        compared.append(entry.path_template)
    return hashlib.sha256(compact(compared).encode()).digest()


async def _update(connection: AsyncConnection, entry: Entry) -> Entry | VestibuleError:
    if (kept := await _one(connection, table.c.id == entry.id)) is None:
        return NO_SUCH_ENTRY.error(f"there is no entry {entry.id}")
    similar = await _one(connection, table.c.similarity == similarity(entry))
    if similar is not None and similar.id != entry.id:
        return SIMILAR_ENTRY.error(f"entry {similar.id} has the same SPIFFE ID, parent ID and selectors")
    begun = set(entry.federates_with) - set(kept.federates_with)
    if (error := await _unknown_federation(connection, begun)) is not None:
        return error
    new = replace(entry, revision=kept.revision + 1, created_at=kept.created_at)
    await connection.execute(update(table).where(table.c.id == entry.id).values(_values(new)))
    return new


async def _create(
    connection: AsyncConnection, entry: Entry, now: datetime
) -> tuple[Entry, bool] | VestibuleError:
    # We hold the write lock, so what these two look-ups find can not change before the insertion.
    if (similar := await _one(connection, table.c.similarity == similarity(entry))) is not None:
        return similar, False
    if entry.id and await _one(connection, table.c.id == entry.id) is not None:
        return ENTRY_ID_TAKEN.error(f"another entry has the ID {entry.id}")
    if (error := await _unknown_federation(connection, entry.federates_with)) is not None:
        return error
    new = replace(entry, id=entry.id or str(uuid.uuid4()), revision=0, created_at=now)
    await connection.execute(insert(table), _values(new))
    return new, True


async def _unknown_federation(
    connection: AsyncConnection, trust_domains: Iterable[str]
) -> VestibuleError | None:
    wanted = {TrustDomain.parse(name) for name in trust_domains}
    if not wanted:
        return None
    query = select(bundles.c.trust_domain).where(bundles.c.trust_domain.in_(wanted))
    missing = wanted - set((await connection.execute(query)).scalars())
    if not missing:
        return None
    shown = ", ".join(sorted(map(str, missing)))
    return UNKNOWN_FEDERATION.error(f"unable to find federated bundle {shown}")


async def _one(connection: AsyncConnection, condition: Any) -> Entry | None:
    row = (await connection.execute(select(*_COLUMNS).where(condition))).one_or_none()
    return None if row is None else _entry(row)


async def federating(connection: AsyncConnection, trust_domain: TrustDomain) -> list[Entry]:
    """The entries that federate with a trust domain; for whoever changes them in the same transaction."""
    name = str(trust_domain)
    # A first selection; whether the name is in the list is asked of the list.
    query = select(*_COLUMNS).where(type_coerce(table.c.federates_with, Text).contains(name, autoescape=True))
    rows = await connection.execute(query.order_by(table.c.id))
    return [entry for entry in map(_entry, rows) if name in entry.federates_with]


async def dissociate(
    connection: AsyncConnection, entries: Iterable[Entry], trust_domain: TrustDomain
) -> None:
    """Let entries federate with a trust domain no longer."""
    for entry in entries:
        left = tuple(name for name in entry.federates_with if name != str(trust_domain))
        values = {"federates_with": left, "revision": entry.revision + 1}
        await connection.execute(update(table).where(table.c.id == entry.id).values(values))


async def remove(connection: AsyncConnection, entries: Iterable[Entry]) -> None:
    """Forget entries."""
    for entry in entries:
        await connection.execute(delete(table).where(table.c.id == entry.id))


def _narrowed(filter: EntryFilter) -> Select[Any]:  # noqa: A002
    # What the indexes can do; the filter itself decides on the rest.
    query = select(*_COLUMNS)
    if filter.spiffe_id is not None:
        query = query.where(table.c.spiffe_id == filter.spiffe_id)
    if filter.parent_id is not None:
        query = query.where(table.c.parent_id == filter.parent_id)
    if filter.template_id is not None:
        query = query.where(table.c.template_id == filter.template_id)
    return query


def _values(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in _FIELDS} | {"similarity": similarity(entry)}


def _entry(row: Row[Any]) -> Entry:
    return Entry(**dict(zip(_FIELDS, row, strict=True)))
