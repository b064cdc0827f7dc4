"""Forgetting what has ended: tokens and wrapped answers have an end in what is kept of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.store.barrier import Barrier, Remove

SWEEP_EVERY: Final = timedelta(minutes=10)


async def sweeping(barrier: Barrier, clock: Clock, sweep: Callable[[], Awaitable[int]]) -> None:
    """Sweep now and then, whenever the barrier is open; until cancelled."""
    while True:
        await clock.sleep_until(clock.now() + SWEEP_EVERY)
        if not barrier.is_sealed:
            await sweep()


async def swept(barrier: Barrier, space: str, now: datetime, end: Callable[[bytes], datetime]) -> int:
    """Forget what has ended in a space; of how many."""
    count, after = 0, ""
    while keys := await barrier.keys(space, after=after, limit=500):
        after = keys[-1]
        for key in keys:
            item = await barrier.get(space, key)
            if item is not None and end(item.value) <= now:
                count += await _removed(barrier, Remove(space=space, key=key, expected=item.revision))
    return count


async def _removed(barrier: Barrier, remove: Remove) -> bool:
    try:
        await barrier.apply([remove])
    except VestibuleError:
        return False  # somebody has changed it meanwhile: the next round looks again
    return True
