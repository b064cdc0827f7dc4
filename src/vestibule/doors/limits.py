"""Limits per source: an address, for what anonymous callers may do; an agent, for what it may have signed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from vestibule.net.codes import TOO_MANY_ATTEMPTS

MAX_SOURCES: Final = 4096


class PerSource:
    """Lets each source through ``rate`` times per second after a burst; others wait, at most ``patience`` seconds."""

    def __init__(self, *, rate: float, burst: int, patience: float) -> None:
        self._interval = 1.0 / rate
        self._credit = burst * self._interval
        self._patience = patience
        self._free_at: OrderedDict[str, float] = OrderedDict()

    async def pass_through(self, source: str, turns: int = 1) -> None:
        """Wait for this source's turn, or for several.  Raises: VST2325 when that would take too long."""
        wait = self.turn(source, asyncio.get_running_loop().time(), turns)
        if wait > 0:
            await asyncio.sleep(wait)

    def turn(self, source: str, now: float, turns: int = 1) -> float:
        """Take the next turns; seconds until the last of them comes.  Raises: VST2325."""
        free_at = max(self._free_at.get(source, 0.0), now) + self._interval * turns
        wait = free_at - now - self._credit
        if wait > self._patience:
            raise TOO_MANY_ATTEMPTS.error(f"too many attempts from {source}")
        self._free_at[source] = free_at
        self._free_at.move_to_end(source)
        while len(self._free_at) > MAX_SOURCES:
            self._free_at.popitem(last=False)
        return wait
