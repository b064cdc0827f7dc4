"""How far a scan has come, on standard error, for one that takes over a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from vestibule.cli.output import complaints

FIRST: Final = 1.0
"""Seconds in which nothing is said."""
NEXT: Final = 0.5
"""Seconds between two words on a terminal, where they replace each other."""
NEXT_LINE: Final = 5.0
"""The same elsewhere, where each is a line."""


@asynccontextmanager
async def progress(total: int) -> AsyncIterator[Callable[[], None]]:
    """While the block is entered, it is told how many of ``total`` endpoints are done; call what is given for each."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1

    task = asyncio.create_task(_tell(lambda: f"scanned {done} of {total} endpoints"), name="scan-progress")
    try:
        yield step
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tell(text: Callable[[], str]) -> None:
    await asyncio.sleep(FIRST)
    live = complaints.is_terminal
    try:
        while True:
            if live:
                complaints.file.write(f"\r{text()} ")
                complaints.file.flush()
            else:
                complaints.print(text())
            await asyncio.sleep(NEXT if live else NEXT_LINE)
    finally:
        if live:
            complaints.file.write("\r\x1b[K")
            complaints.file.flush()
