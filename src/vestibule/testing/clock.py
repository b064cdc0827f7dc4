"""A clock that stands still until it is told to go on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A ``Clock`` whose time moves only by ``advance``; sleepers wake when their instant is reached."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._sleepers: dict[asyncio.Event, datetime] = {}
        self._slept = asyncio.Event()

    def now(self) -> datetime:
        """The instant that was last set."""
        return self._now

    async def sleep_until(self, instant: datetime) -> None:
        """Wait until ``advance`` reaches ``instant``."""
        if instant <= self._now:
            await asyncio.sleep(0)
            return
        wake = asyncio.Event()
        self._sleepers[wake] = instant
        self._slept.set()
        try:
            await wake.wait()
        finally:
            del self._sleepers[wake]

    def advance(self, by: timedelta | float) -> None:
        """Move on by a duration, or by seconds, and wake whose instant has come."""
        self.set(self._now + (by if isinstance(by, timedelta) else timedelta(seconds=by)))

    def set(self, now: datetime) -> None:
        """Set the time, and wake whose instant has come."""
        self._now = now
        for wake, instant in self._sleepers.items():
            if instant <= now:
                wake.set()

    @property
    def next_wake(self) -> datetime | None:
        """The earliest instant that somebody sleeps until."""
        return min((at for wake, at in self._sleepers.items() if not wake.is_set()), default=None)

    async def until_asleep(self, sleepers: int = 1) -> None:
        """Wait until at least so many tasks sleep on this clock, so that ``advance`` can not come too early."""
        while sum(not wake.is_set() for wake in self._sleepers) < sleepers:
            self._slept.clear()
            await self._slept.wait()
