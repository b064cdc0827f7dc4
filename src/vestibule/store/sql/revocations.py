"""What is revoked, the marks that agents' certificates carry, and the last CRL of each authority, in SQL."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from vestibule.records import AgentMark, LowerAuthority, PublishedCrl
from vestibule.spiffe import Reason, Revocation, RevokedIdentity, SpiffeId
from vestibule.spiffe.revocations import parse_target
from vestibule.store.changes import Changes
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import agent_marks, crls, lower_authorities, revocations
from vestibule.store.sql.upserts import inserting, upsert


class SqlRevocations:
    """``store.ports.RevocationList``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def all(self) -> list[Revocation]:
        """All of them, oldest version first."""
        order = (revocations.c.version, revocations.c.id)
        async with self._database.read() as connection:
            return [
                _revocation(row) for row in await connection.execute(select(revocations).order_by(*order))
            ]

    async def version(self) -> int:
        """The highest version."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(revocations.c.version)))).scalar() or 0

    async def put(self, *changes: Revocation) -> None:
        """Keep them in one step; one that is known with a higher version stays."""
        if not changes:
            return
        async with self._database.write() as connection:
            statement = inserting(connection, revocations)
            newer = statement.excluded
            kept = statement.on_conflict_do_update(
                index_elements=["id"],
                set_={column.name: newer[column.name] for column in revocations.c if column.name != "id"},
                where=revocations.c.version < newer.version,
            )
            await connection.execute(kept, [_row(each) for each in changes])
        self._changes.publish("revocations")

    async def prune(self, now: datetime) -> int:
        """Forget those that are over."""
        over = delete(revocations).where(revocations.c.expires_at <= now)
        async with self._database.write() as connection:
            return (await connection.execute(over)).rowcount


def _row(each: Revocation) -> dict[str, Any]:
    target = each.target
    return {
        "id": each.id,
        "kind": target.kind,
        "name": target.name,
        "issued_before": target.issued_before if isinstance(target, RevokedIdentity) else None,
        "reason": each.reason,
        "note": each.note,
        "actor": each.actor,
        "at": each.at,
        "expires_at": each.expires_at,
        "version": each.version,
    }


def _revocation(row: Row[Any]) -> Revocation:
    return Revocation(
        target=parse_target(row.kind, row.name, row.issued_before),
        at=row.at,
        reason=row.reason or Reason.UNSPECIFIED,
        note=row.note,
        actor=row.actor,
        expires_at=row.expires_at,
        version=row.version,
    )


class SqlAgentMarks:
    """``store.ports.AgentMarks``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[AgentMark]:
        """All of them, oldest first."""
        query = select(agent_marks).order_by(agent_marks.c.since, agent_marks.c.mark)
        async with self._database.read() as connection:
            return [_mark(row) for row in await connection.execute(query)]

    async def add(self, mark: AgentMark) -> None:
        """Keep a new one."""
        values = {
            "mark": f"{mark.mark:016x}",
            "agent_id": mark.agent_id,
            "since": mark.since,
            "retired_at": mark.retired_at,
        }
        async with self._database.write() as connection:
            await connection.execute(insert(agent_marks).values(values))

    async def retire(self, agent_id: SpiffeId, at: datetime) -> None:
        """No mark of this agent is its current one any more."""
        current = (agent_marks.c.agent_id == agent_id) & agent_marks.c.retired_at.is_(None)
        async with self._database.write() as connection:
            await connection.execute(update(agent_marks).where(current).values(retired_at=at))

    async def prune(self, before: datetime) -> int:
        """Forget those that were retired before this instant."""
        async with self._database.write() as connection:
            statement = delete(agent_marks).where(agent_marks.c.retired_at < before)
            return (await connection.execute(statement)).rowcount


def _mark(row: Row[Any]) -> AgentMark:
    return AgentMark(
        mark=int(row.mark, 16), agent_id=row.agent_id, since=row.since, retired_at=row.retired_at
    )


class SqlLowerAuthorities:
    """``store.ports.LowerAuthorities``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[LowerAuthority]:
        """All that are kept, the first to end first."""
        table = lower_authorities
        query = select(table).order_by(table.c.not_after, table.c.fingerprint)
        async with self._database.read() as connection:
            rows = [row._mapping for row in await connection.execute(query)]
        return [LowerAuthority(**{**row, "mark": int(row["mark"], 16)}) for row in rows]

    async def put(self, authority: LowerAuthority, now: datetime) -> None:
        """Keep one, and forget those that ended before ``now``."""
        table = lower_authorities
        values = {each.name: getattr(authority, each.name) for each in fields(LowerAuthority)}
        values["mark"] = f"{authority.mark:016x}"
        async with self._database.write() as connection:
            await connection.execute(delete(table).where(table.c.not_after < now))
            await connection.execute(upsert(connection, table, values, key=["fingerprint"]))


class SqlCrls:
    """``store.ports.Crls``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[PublishedCrl]:
        """The last one of each authority."""
        async with self._database.read() as connection:
            return [_crl(row) for row in await connection.execute(select(crls).order_by(crls.c.authority_id))]

    async def put(self, crl: PublishedCrl) -> None:
        """Keep an authority's list in place of the one before."""
        values: dict[str, Any] = {
            "authority_id": crl.authority_id,
            "number": str(crl.number),
            "der": crl.der,
            "this_update": crl.this_update,
            "next_update": crl.next_update,
            "list_version": crl.list_version,
        }
        async with self._database.write() as connection:
            await connection.execute(upsert(connection, crls, values, key=["authority_id"]))

    async def prune(self, now: datetime) -> int:
        """Forget those whose time is over."""
        async with self._database.write() as connection:
            return (await connection.execute(delete(crls).where(crls.c.next_update <= now))).rowcount


def _crl(row: Row[Any]) -> PublishedCrl:
    return PublishedCrl(
        authority_id=row.authority_id,
        number=int(row.number),
        der=row.der,
        this_update=row.this_update,
        next_update=row.next_update,
        list_version=row.list_version,
    )
