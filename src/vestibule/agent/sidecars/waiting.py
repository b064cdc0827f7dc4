"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio


async def first_of(*events: asyncio.Event, timeout: float | None) -> bool:
    """Wait for the first of the events, at most so long; whether one came."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return bool(done)
