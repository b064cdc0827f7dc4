"""A number that grows, and a way to wait until it has."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Beacon:
    """Wakes any number of waiters at every change; none can miss one, because each says what it last saw."""

    def __init__(self) -> None:
        self._value = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> int:
        """How many changes there have been."""
        return self._value

    def advance(self) -> None:
        """Count a change and wake whoever waits."""
        self._value += 1
        # An event per change: whoever comes later waits for the next one.
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    async def changed(self, since: int) -> int:
        """Wait until the value differs from ``since``; returns it."""
        while self._value == since:
            await self._changed.wait()
        return self._value


async def first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of several waits is over; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
