"""Attested agents in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Row, delete, func, select, update

from vestibule.records import AgentRecord
from vestibule.spiffe import Selector, SpiffeId
from vestibule.store.changes import Changes
from vestibule.store.filters import AgentFilter
from vestibule.store.ports import Page
from vestibule.store.sql.database import Database
from vestibule.store.sql.paging import decode_token, matching, page
from vestibule.store.sql.schema import agents as table
from vestibule.store.sql.upserts import upsert

_FIELDS: Final = tuple(field.name for field in fields(AgentRecord))
_COLUMNS: Final = tuple(table.c[name] for name in _FIELDS)
_ALL: Final = select(*_COLUMNS)


class SqlAgents:
    """``store.ports.Agents``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def put(self, agent: AgentRecord) -> AgentRecord:
        """Keep an attested agent; a ban stays."""
        async with self._database.write() as connection:
            # One statement, so that no ban is lost between reading and writing.
            kept = upsert(connection, table, _values(agent), key=["spiffe_id"], change=_renewable(agent))
            row = (await connection.execute(kept.returning(*_COLUMNS))).one()
        self._changes.publish("agents")
        return _agent(row)

    async def update(self, agent: AgentRecord) -> AgentRecord | None:
        """Keep what changed of an agent that is known and not banned."""
        wanted = (table.c.spiffe_id == agent.spiffe_id) & ~table.c.banned
        statement = update(table).where(wanted).values(_renewable(agent)).returning(*_COLUMNS)
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        self._changes.publish("agents")
        return _agent(row)

    async def get(self, spiffe_id: SpiffeId) -> AgentRecord | None:
        """The agent of this SPIFFE ID."""
        async with self._database.read() as connection:
            row = (await connection.execute(_ALL.where(table.c.spiffe_id == spiffe_id))).one_or_none()
        return None if row is None else _agent(row)

    async def banned(self) -> dict[SpiffeId, bool]:
        """Of each agent, whether it is banned."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(table.c.spiffe_id, table.c.banned))
            return {row[0]: bool(row[1]) for row in rows}

    async def selectors(self) -> dict[SpiffeId, frozenset[Selector]]:
        """What was attested of the nodes of agents that are not banned, where anything was."""
        wanted = select(table.c.spiffe_id, table.c.selectors).where(~table.c.banned)
        async with self._database.read() as connection:
            return {row[0]: row[1] for row in await connection.execute(wanted) if row[1]}

    async def page(self, filter: AgentFilter, size: int, token: str = "") -> Page[AgentRecord]:  # noqa: A002
        """Up to ``size`` agents by SPIFFE ID."""
        after = decode_token(token)
        async with self._database.read() as connection:
            found = matching(connection, _ALL, table.c.spiffe_id, _agent, after)
            return await page(found, filter.admits, size)

    async def count(self, filter: AgentFilter) -> int:  # noqa: A002
        """How many agents there are."""
        async with self._database.read() as connection:
            if filter == AgentFilter():
                return (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            found = matching(connection, _ALL, table.c.spiffe_id, _agent)
            return len((await page(found, filter.admits, 0)).items)

    async def set_banned(self, spiffe_id: SpiffeId, banned: bool = True) -> bool:
        """Ban an agent, or lift its ban."""
        statement = update(table).where(table.c.spiffe_id == spiffe_id).values(banned=banned)
        return await self._change(statement)

    async def delete(self, spiffe_id: SpiffeId) -> bool:
        """Forget an agent."""
        return await self._change(delete(table).where(table.c.spiffe_id == spiffe_id))

    async def _change(self, statement: Any) -> bool:
        async with self._database.write() as connection:
            known = (await connection.execute(statement)).rowcount > 0
        if known:
            self._changes.publish("agents")
        return known


def _values(agent: AgentRecord) -> dict[str, Any]:
    return {name: getattr(agent, name) for name in _FIELDS}


def _renewable(agent: AgentRecord) -> dict[str, Any]:
    return {name: value for name, value in _values(agent).items() if name not in ("spiffe_id", "banned")}


def _agent(row: Row[Any]) -> AgentRecord:
    return AgentRecord(**row._mapping)
