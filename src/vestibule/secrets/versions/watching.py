"""Who waits for a secret to change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vestibule.secrets.versions.codes import TOO_MANY_WAITING

MOST_WAITING: Final = 2048
"""In one server; each is an open request, and the proxy in front has connections for these and some hundred more."""

MOST_WAITING_EACH: Final = 256
"""Of one identity."""


class Waiter:
    """One who waits; told of changes since it was last asked."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Something changed, or nobody should wait any longer."""
        self._told.set()

    async def wait(self, deadline: float | None) -> bool:
        """Until told, or until the loop's time is ``deadline``; which of both."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        return True


class Watching:
    """Waiters by path; ``waiting`` is how many there are, which is bounded."""

    def __init__(self, most: int = MOST_WAITING, most_each: int = MOST_WAITING_EACH) -> None:
        self.is_closed = False
        self._most = most
        self._most_each = most_each
        self._waiters: dict[str, set[Waiter]] = {}
        self._by_identity: Counter[str] = Counter()
        self.waiting = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """What is waited for."""
        return tuple(self._waiters)

    def notice(self, path: str) -> None:
        """Tell who waits for ``path`` that it may have changed."""
        for each in self._waiters.get(path, ()):
            each.tell()

    def close(self) -> None:
        """Nobody waits any longer: for servers that stop."""
        self.is_closed = True
        for path in self._waiters:
            self.notice(path)

    @contextmanager
    def waiter(self, path: str, who: str) -> Iterator[Waiter]:
        """Hear of changes of ``path`` from here on.  Raises: VST5108."""
        if self.waiting >= self._most:
            raise TOO_MANY_WAITING.error(f"{self._most} requests already wait for secrets to change")
        if self._by_identity[who] >= self._most_each:
            raise TOO_MANY_WAITING.error(f"{self._most_each} requests of {who} already wait")
        waiter = Waiter()
        self.waiting += 1
        self._by_identity[who] += 1
        self._waiters.setdefault(path, set()).add(waiter)
        try:
            yield waiter
        finally:
            self._leave(path, who, waiter)

    def _leave(self, path: str, who: str, waiter: Waiter) -> None:
        self.waiting -= 1
        self._by_identity[who] -= 1
        if not self._by_identity[who]:
            del self._by_identity[who]
        self._waiters[path].discard(waiter)
        if not self._waiters[path]:
            del self._waiters[path]
