"""Telling any number of waiting tasks that something changed, without remembering who they are."""

from __future__ import annotations

import asyncio


class Changed:
    """A counter of changes that can be waited for.

    A waiter names the version it has seen, so no change is lost between looking and waiting.
    """

    def __init__(self) -> None:
        self.version = 0
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self.version += 1
        event, self._next = self._next, asyncio.Event()
        event.set()

    async def after(self, version: int) -> int:
        """Return the current version once it is not ``version`` any more."""
        while self.version == version:
            await self._next.wait()
        return self.version
