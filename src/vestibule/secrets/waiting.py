"""Waiting for a time, or for news, whichever comes first."""

from __future__ import annotations

import asyncio
from datetime import datetime

from vestibule.clock import Clock


async def until(clock: Clock, instant: datetime, woken: asyncio.Event) -> None:
    """Return when it is time, or when the event is set."""
    waits = (asyncio.create_task(clock.sleep_until(instant)), asyncio.create_task(woken.wait()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
