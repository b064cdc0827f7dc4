"""Files that somebody else replaces, looked at from time to time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

LOOK_SECONDS: Final = 1.0

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp(paths: Sequence[Path]) -> Stamp:
    """Changes when a file is replaced, rewritten, removed or made."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


async def versions(paths: Sequence[Path], read: Callable[[], T]) -> AsyncIterator[T]:
    """What ``read`` makes of the files: now, and after every change.  Raises: what ``read`` raises."""
    seen: Stamp | None = None
    while True:
        now = stamp(paths)
        if now != seen:
            # The stamp is of before the reading: a change in the middle is seen at the next look.
            seen = now
            yield read()
        await asyncio.sleep(LOOK_SECONDS)
