"""A process that writes secrets while it rotates data keys without end, until it is killed.

    python -m tests.crash.rotating DATABASE ROOT_KEY_FILE

It says on standard output, a line each, what is kept for certain: a key and what its value is.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.secrets.barrier import SealedBarrier
from vestibule.store.barrier import Put, Remove
from vestibule.store.sqlite import open_store


class _Nobody:
    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Not what this is about."""


async def _rotate(barrier: SealedBarrier) -> None:
    while True:
        await barrier.rotate()
        while await barrier.reencrypt() is not None:
            pass


async def _write(barrier: SealedBarrier, start: int) -> None:
    for number in count(start):
        key, value = f"{number % 150}", f"value-{number}"
        if number % 7:
            await barrier.apply([Put(space="kv", key=key, value=value.encode())])
        else:
            await barrier.apply([Remove(space="kv", key=key)])
            value = ""
        sys.stdout.write(f"{number} {key} {value}\n")
        sys.stdout.flush()


async def _main(database: Path, root_key: Path, start: int) -> None:
    store = await open_store(database, SystemClock())
    barrier = SealedBarrier(store.sealed_rows, store.changes, _Nobody())
    await barrier.unlock(root_key.read_bytes())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_rotate(barrier))
        tasks.create_task(_write(barrier, start))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
