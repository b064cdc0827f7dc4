"""The marks of agents: how all that was issued through one is told apart, however much it is."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime

from vestibule.clock import Clock
from vestibule.records import AgentMark
from vestibule.spiffe import SpiffeId
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.store import Store


class Marks:
    """Gives each agent a random mark, and a new one after its revocation.

    A mark says nothing about the agent to those who see it in a serial number, except that two certificates came
    through the same one.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._current: dict[SpiffeId, int] = {}
        self._known: dict[SpiffeId, list[AgentMark]] = {}
        self._making = asyncio.Lock()

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of the store."""
        await self._read()

    async def of(self, agent_id: SpiffeId) -> int:
        """The agent's mark; a new one is kept before it is used.  Raises: errors of the store."""
        if (mark := self._current.get(agent_id)) is not None:
            return mark
        async with self._making:
            if (mark := self._current.get(agent_id)) is not None:
                return mark
            # One bit less than there is room for: serial numbers are positive, and stay within 16 octets.
            number = secrets.randbits(MARK_BITS - 1) or 1
            made = AgentMark(mark=number, agent_id=agent_id, since=self._clock.now())
            await self._store.agent_marks.add(made)
            self._take(made)
            return number

    def all_of(self, agent_id: SpiffeId) -> tuple[AgentMark, ...]:
        """Its current mark and its former ones."""
        return tuple(self._known.get(agent_id, ()))

    async def retire(self, agent_id: SpiffeId) -> None:
        """Whatever is issued through the agent from now on has another mark.  Raises: errors of the store."""
        async with self._making:
            await self._store.agent_marks.retire(agent_id, self._clock.now())
            self._current.pop(agent_id, None)

    async def refresh(self) -> None:
        """Read what is kept again: other servers of this database give marks, too.  Raises: errors of the store."""
        async with self._making:
            await self._read()

    async def prune(self, before: datetime) -> None:
        """Forget marks that were retired before this instant.  Raises: errors of the store."""
        async with self._making:
            if await self._store.agent_marks.prune(before):
                await self._read()

    async def _read(self) -> None:
        kept = await self._store.agent_marks.all()
        self._known.clear()
        self._current.clear()
        for mark in kept:
            self._take(mark)

    def _take(self, mark: AgentMark) -> None:
        self._known.setdefault(mark.agent_id, []).append(mark)
        if mark.retired_at is None:
            self._current[mark.agent_id] = mark.mark
