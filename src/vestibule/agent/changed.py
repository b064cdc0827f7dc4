"""Telling any number of waiting tasks that something changed, without remembering who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Changed:
    """A counter of changes that can be waited for.

    A waiter names the version it has seen, so no change is lost between looking and waiting.
    """

    def __init__(self) -> None:
        self.version = 0
        self._next = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something changed."""
        self.version += 1
        event, self._next = self._next, asyncio.Event()
        event.set()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def after(self, version: int) -> int:
        """Return the current version once it is not ``version`` any more."""
        while self.version == version:
            await self._next.wait()
        return self.version

    @contextmanager
    def telling(self, future: asyncio.Future[None], version: int) -> Iterator[None]:
        """Complete ``future`` as soon as the version is not ``version`` any more, for as long as the block lasts.

        For who waits for several things at once: it costs no task.
        """
        if self.version != version and not future.done():
            future.set_result(None)
        self._waiting.add(future)
        try:
            yield
        finally:
            self._waiting.discard(future)
