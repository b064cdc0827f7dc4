"""That something changed, for whoever waits for it."""

from __future__ import annotations

import asyncio


class News:
    """A number that grows with each change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.revision = 0

    def tell(self) -> None:
        """Something changed."""
        self.revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, since: int) -> int:
        """Return once ``revision`` is another than ``since``; which."""
        while self.revision == since:
            await self._changed.wait()
        return self.revision
