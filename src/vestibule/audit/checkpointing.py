"""Making checkpoints of a log that is being written.

The hash of each record's line is remembered as it is written.  Every minute, or 1,000 records, whichever is first, the
hashes go to ``audit.jsonl.leaves`` and a signed checkpoint to ``audit.jsonl.checkpoints``.  What a crash takes of that
is made anew from the log.  Records that are removed to bound the disk keep their place in the tree.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from vestibule.audit import checkpoints
from vestibule.audit.chain import decode
from vestibule.audit.checkpoints import LEAVES, SUFFIX, Checkpoint
from vestibule.audit.codes import AUDIT_UNAVAILABLE, CHECKPOINT_CONFLICT
from vestibule.audit.files import all_files, last_of
from vestibule.audit.merkle import Edge, leaf_hash
from vestibule.audit.notes import NoteSigner
from vestibule.clock import Clock

EVERY_SECONDS: Final = 60.0
FIRST_SECONDS: Final = 2.0
MOST_RECORDS: Final = 1000
LARGEST_FILE: Final = 4 * 2**20
HASH_BYTES: Final = 32
GONE: Final = leaf_hash(b"")
"""Stands for a record that was removed before checkpoints were made."""

_log = logging.getLogger(__name__)


class Checkpointer:
    """Follows one log: ``open`` when that is open, ``take`` what is appended from then on, ``run`` until the end."""

    def __init__(self, log: Path, signer: NoteSigner, clock: Clock) -> None:
        self._log = log
        self._signer = signer
        self._clock = clock
        self._edge = Edge()
        self._fresh: list[bytes] = []
        self._many = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.latest: Checkpoint | None = None
        """The newest checkpoint."""
        self.failing = ""
        """Why checkpoints can not be written now; empty if they can."""
        self.publish: Callable[[Checkpoint], None] = lambda _made: None
        """Told of every checkpoint."""

    async def open(self, last: int) -> None:
        """Catch up with a log that ends with record ``last``.

        Raises: VST8100, VST8103 when a checkpoint that we signed tells of another log.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._catch_up, last)
        except OSError as error:
            raise AUDIT_UNAVAILABLE.error(f"{error.filename}: {error.strerror}") from error

    def take(self, lines: bytes) -> None:
        """Lines that are durable now, in their order; called from any thread, one call at a time."""
        self._fresh += (leaf_hash(line) for line in lines.splitlines() if line)
        if len(self._fresh) >= MOST_RECORDS and self._loop is not None:
            self._loop.call_soon_threadsafe(self._many.set)

    async def run(self) -> None:
        """Make a checkpoint whenever one is due; the first soon, for a server that fell has left records without."""
        seconds = FIRST_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._many.wait()
            self._many.clear()
            await self.checkpoint()
            seconds = EVERY_SECONDS

    async def checkpoint(self) -> None:
        """Make one now, if there is anything new.  A failure is told, and tried again."""
        try:
            made = await asyncio.to_thread(self._checkpoint)
        except OSError as error:
            self.failing = str(error.strerror)
            _log.error("no checkpoint of the audit log can be written: %s", error.strerror)
            return
        self.failing = ""
        if made is not None:
            self.publish(made)

    def _checkpoint(self) -> Checkpoint | None:
        self._keep_leaves()
        if self._edge.size == (self.latest.size if self.latest else 0):
            return None
        made = checkpoints.made(self._signer, self._edge.size, self._edge.root, self._clock.now())
        self._bound()
        _append(self._beside(SUFFIX), f"{made}\n".encode())
        self.latest = made
        return made

    def _keep_leaves(self) -> None:
        leaves = self._fresh[:]
        _write_at(self._beside(LEAVES), self._edge.size * HASH_BYTES, b"".join(leaves))
        for leaf in leaves:
            self._edge.append(leaf)
        del self._fresh[: len(leaves)]

    def _bound(self) -> None:
        """The newer half of the checkpoints is kept: each tells of everything before it."""
        path = self._beside(SUFFIX)
        if not path.exists() or path.stat().st_size < LARGEST_FILE:
            return
        known = checkpoints.read(path)
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        _append(fresh, "".join(f"{each}\n" for each in known[len(known) // 2 :]).encode())
        fresh.replace(path)

    def _catch_up(self, last: int) -> None:
        """1. What was signed is still there.  2. It has the root that was signed.  3. The rest is read from the log."""
        known = [each for each in checkpoints.read(self._beside(SUFFIX)) if each.is_by(self._signer.verifier)]
        self.latest = known[-1] if known else None
        signed = self.latest.size if self.latest else 0
        if last < signed:
            raise CHECKPOINT_CONFLICT.error(
                f"{self._log} ends with record {last}, and a checkpoint of {signed} records was signed"
            )
        for leaf in read_leaves(self._beside(LEAVES))[:last]:
            self._edge.append(leaf)
            if self._edge.size == signed:
                self._check_root()
        if self._edge.size < signed:
            self._conflict(signed)
        self._fresh = list(_leaves_behind(self._log, self._edge.size))

    def _check_root(self) -> None:
        if self.latest is not None and self.latest.root != self._edge.root:
            self._conflict(self.latest.size)

    def _conflict(self, size: int) -> None:
        raise CHECKPOINT_CONFLICT.error(
            f"{self._beside(LEAVES)} is not what the checkpoint of {size} records has signed"
        )

    def _beside(self, suffix: str) -> Path:
        return self._log.with_name(f"{self._log.name}{suffix}")


def read_leaves(path: Path) -> list[bytes]:
    """The hashes in a file of leaves; none where it is not there.  Raises: OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = len(data) - len(data) % HASH_BYTES  # a crash may have left a part of one
    return [data[at : at + HASH_BYTES] for at in range(0, whole, HASH_BYTES)]


def _leaves_behind(log: Path, size: int) -> Iterator[bytes]:
    """The hashes of the records after number ``size``."""
    expected = size + 1
    *former, newest = all_files(log)
    for file in (*(each for each in former if last_of(each) > size), newest):
        if not file.exists():
            continue
        with file.open("rb") as lines:
            for line in lines:
                record = decode(line.removesuffix(b"\n"))
                if record is None or record["seq"] < expected:
                    continue
                yield from (GONE for _ in range(record["seq"] - expected))
                yield leaf_hash(line.removesuffix(b"\n"))
                expected = record["seq"] + 1


def _append(path: Path, data: bytes) -> None:
    _write(path, None, data)


def _write_at(path: Path, position: int, data: bytes) -> None:
    """Write behind what is known to be good, whatever a crash or a full disk left there."""
    _write(path, position, data)


def _write(path: Path, position: int | None, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.seek(*((0, os.SEEK_END) if position is None else (position, os.SEEK_SET)))
        file.write(data)
        file.truncate()
        file.flush()
        os.fdatasync(file.fileno())
