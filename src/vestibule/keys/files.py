"""Secrets as files: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Final

TEMPORARY: Final = ".tmp-"
"""How the names of unfinished files begin; none of them is ever read."""


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Put ``data`` at ``path``, mode 0600, so that a crash leaves the old file or the new one, on disk.

    With ``replace=False`` an existing file wins.  Raises: OSError (FileExistsError in that case).
    """
    descriptor, name = mkstemp(prefix=TEMPORARY, dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, this fails if somebody was faster
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(path.parent)


async def written(write: Callable[[], None]) -> None:
    """Run a write in a thread, to its end: also where the caller is cancelled meanwhile.  Raises: what ``write`` does.

    A thread that is left alone by a cancelled caller may never begin, and is overtaken by whoever reads or writes next.
    """
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        writing.exception()  # nobody waits to be told of it
        raise cancelled
    writing.result()


def read_private(path: Path, limit: int) -> bytes:
    """Read at most ``limit`` bytes of a file that is ours alone: regular, owned by us, nothing for others.

    Raises: OSError; PermissionError with the reason when it is not ours alone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        # Of the open file, not of the path: nobody can swap it between the check and the reading.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError("it is not a regular file")
        if status.st_uid != os.geteuid():
            raise PermissionError(f"it belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
        if status.st_mode & 0o077:
            raise PermissionError(f"its mode {stat.S_IMODE(status.st_mode):04o} lets others in")
        return file.read(limit)


def make_private_directory(path: Path) -> None:
    """Make the directory, mode 0700, if it is not there; then take from others what they may do in it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def sync_directory(path: Path) -> None:
    """Make renames and removals in the directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
