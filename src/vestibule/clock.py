"""Time as a dependency.  Everywhere else "now" is an argument, so a test of a 24-hour rotation is instant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

LONGEST_SLEEP: Final = 10.0
"""Seconds after which the wall clock is looked at again."""

SET_BACK: Final = 5.0
"""Seconds by which it has to fall behind for that."""


TIME_ZONES: Final = Path("/usr/share/zoneinfo")
"""Where machines have the data of time zones."""


def time_zones(usual: Path = TIME_ZONES) -> Path | None:
    """Where the data of time zones lies, if not in the ``usual`` place and the package ``tzdata`` is installed.

    Conditions of rules ask for time zones, and both who evaluate them, Envoy and CEL's own library, look only in the
    usual place unless ``TZDIR`` names another.  Without data the question is an error: what denies then denies, what
    permits does not.
    """
    if usual.is_dir():
        return None
    package = find_spec("tzdata")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "zoneinfo"


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The current instant, timezone-aware, in UTC."""
        ...

    async def sleep_until(self, instant: datetime) -> None:
        """Return once ``instant`` is reached, at once if it lies in the past; early, if the clock is set back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, instant: datetime) -> None:
        # The wall clock may step while we sleep (NTP, suspend), so no single sleep is trusted for long.
        began, wall = time.monotonic(), self.now()
        while (remaining := (instant - self.now()).total_seconds()) > 0:
            await asyncio.sleep(min(remaining, LONGEST_SLEEP))
            if (self.now() - wall).total_seconds() < time.monotonic() - began - SET_BACK:
                # Set back: what was planned by the old time has to be planned anew.
                return


async def steps(clock: Clock) -> AsyncIterator[timedelta]:
    """Each time that the wall clock was set while this runs: by how much, forward or back."""
    while True:
        began, wall = time.monotonic(), clock.now()
        await asyncio.sleep(SET_BACK)
        step = clock.now() - wall - timedelta(seconds=time.monotonic() - began)
        if abs(step) > timedelta(seconds=SET_BACK):
            yield step
