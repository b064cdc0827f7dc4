"""Many who ask the same question at the same time get one answer, read after all of them had asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

AT_ONCE: Final = 4
"""Reads under way at the same time: more would only wait for one another in the store."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedReads(Generic[K, V]):
    """Reads by key.  An answer is never older than its question: who asks while a read is under way gets the next."""

    def __init__(self, read: Callable[[K], Awaitable[V]]) -> None:
        self._read = read
        self._waiting: dict[K, asyncio.Task[V]] = {}
        self._under_way: dict[K, asyncio.Task[V]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def get(self, key: K) -> V:
        """The answer, read from now on.  Raises: what reading raises."""
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._answer(key), name="shared read")
            task.add_done_callback(_known)
        # Who leaves does not take the answer away from the others.
        return await asyncio.shield(task)

    async def _answer(self, key: K) -> V:
        if (before := self._under_way.get(key)) is not None:
            await asyncio.wait([before])
        async with self._slots:
            self._under_way[key] = self._waiting.pop(key)
            try:
                return await self._read(key)
            finally:
                del self._under_way[key]


def _known(task: asyncio.Task[object]) -> None:
    """A failure that nobody waits for any more is nobody's."""
    if not task.cancelled():
        task.exception()
