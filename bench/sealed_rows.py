"""What a read of one sealed row costs in processor time, directly and on the way that all other reads take.

    python -m bench.sealed_rows [--rows 20000]

Also what a change costs, and a look at all rows.  SQLite in a temporary directory; about half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.keyring import new_key
from vestibule.store.barrier import Put
from vestibule.store.sql.database import Database
from vestibule.store.sql.sealed_rows import _GET
from vestibule.store.sqlite import open_store

READS = 5000
SLOW_READS = 500
CHANGES = 100
AT_ONCE = 500


class _Nobody:
    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Nothing is found here."""


async def _cost(number: int, act: Callable[[int], Awaitable[object]]) -> float:
    """Microseconds of processor time for each."""
    began = time.process_time()
    for each in range(number):
        await act(each)
    return (time.process_time() - began) / number * 1e6


async def measure(rows: int) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        store = await open_store(Path(directory) / "vestibule.db", SystemClock())
        barrier = SealedBarrier(store.sealed_rows, store.changes, _Nobody())
        await barrier.create(new_key(), b"seal")
        keys = [f"team/{number:07}" for number in range(rows)]
        for start in range(0, rows, AT_ONCE):
            some = keys[start : start + AT_ONCE]
            await barrier.apply([Put(space="kv", key=key, value=b"x" * 200) for key in some])

        def place(number: int) -> dict[str, str | int]:
            return {"space": "kv", "key": keys[number * 7919 % rows]}

        slow = await _cost(SLOW_READS, lambda number: Database.quick(store.database, _GET, place(number)))
        quick = await _cost(READS, lambda number: barrier.get("kv", keys[number * 7919 % rows]))
        change = await _cost(
            CHANGES, lambda number: barrier.apply([Put(space="kv", key=keys[number], value=b"y")])
        )
        began = time.process_time()
        assert await barrier.verify() == ([], [])
        verified = (time.process_time() - began) / rows * 1e6
        await store.close()
    print(f"{rows} rows, in microseconds of processor time")
    print(f"a read, decrypted              {quick:8.1f}")
    print(f"a row through SQLAlchemy       {slow:8.1f}   {slow / quick:.1f}x")
    print(f"a change                       {change:8.1f}")
    print(f"the look at all rows, each row {verified:8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    asyncio.run(measure(parser.parse_args().rows))
