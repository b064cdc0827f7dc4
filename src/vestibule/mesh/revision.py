"""A number that grows with every change, and can be waited for."""

from __future__ import annotations

import asyncio


class Revision:
    """Counts changes.  Whoever remembers the number misses none, and sees several at once as one."""

    def __init__(self) -> None:
        self._value = 1
        self._next: asyncio.Event | None = None

    @property
    def value(self) -> int:
        return self._value

    def bump(self) -> None:
        """Something changed."""
        self._value += 1
        if self._next is not None:
            self._next.set()
            self._next = None

    async def changed(self, since: int) -> int:
        """Wait until the number differs from ``since``; returns it."""
        while self._value == since:
            if self._next is None:
                self._next = asyncio.Event()
            await self._next.wait()
        return self._value


async def first_change(*seen: tuple[Revision, int]) -> None:
    """Wait until any of several revisions differs from what was seen of it."""
    waiting = [asyncio.ensure_future(revision.changed(since)) for revision, since in seen]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
