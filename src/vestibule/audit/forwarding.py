"""Carrying the records of a log to somewhere else, in their order, each at least once.

The log on disk is the queue: what is carried is read from it, and how far that got is kept beside it.  So a place that
is away for a day gets the day's records afterwards, and nothing waits for it meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from vestibule.audit.chain import decode
from vestibule.audit.files import last_of, segments
from vestibule.errors import VestibuleError

MOST_RECORDS: Final = 200
MOST_BYTES: Final = 512 * 1024
FIRST_RETRY: Final = 0.5
LONGEST_RETRY: Final = 30.0

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """A place for records."""

    async def send(self, lines: Sequence[bytes]) -> None:
        """Take the lines of whole records; when this returns, they are there.  Raises: OSError, VestibuleError."""
        ...


class Forwarder:
    """Carries one log's records to one place."""

    def __init__(self, log: Path, sink: Sink, position: Path, name: str) -> None:
        """``position`` is the file that says how far it got; ``name`` is how the place is called, without secrets."""
        self._log = log
        self._sink = sink
        self._position = position
        self._tail = Tail(log)
        self._more = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.name = name
        self.sent = 0
        """The number of the last record that is there."""
        self.failing = ""
        """Why the place takes nothing now; empty if it does."""

    def appended(self, _lines: bytes) -> None:
        """There is something new; called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._more.set)

    async def run(self) -> None:
        """Carry, until cancelled."""
        self._loop = asyncio.get_running_loop()
        self.sent = await asyncio.to_thread(self._kept)
        self._tail.seek(self.sent)
        retry = FIRST_RETRY
        while True:
            self._more.clear()
            try:
                while await self._carry():
                    retry = FIRST_RETRY
            except (OSError, VestibuleError) as error:
                self._failed(error)
                self._tail.seek(self.sent)
                await asyncio.sleep(retry)
                retry = min(retry * 2, LONGEST_RETRY)
                continue
            self._recovered()
            await self._more.wait()

    async def _carry(self) -> bool:
        """Carry some; whether there was anything."""
        batch = await asyncio.to_thread(self._tail.next_batch)
        if not batch:
            return False
        await self._sink.send([line for _, line in batch])
        self._recovered()
        self.sent = batch[-1][0]
        await asyncio.to_thread(self._keep, self.sent)
        return True

    def _failed(self, error: OSError | VestibuleError) -> None:
        if not self.failing:
            _log.error("audit records wait, for %s takes none: %s", self.name, error)
        self.failing = str(error)

    def _recovered(self) -> None:
        if self.failing:
            _log.warning("%s takes audit records again", self.name)
        self.failing = ""

    def _kept(self) -> int:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(self._position.read_bytes())["sent"])
        return 0

    def _keep(self, sent: int) -> None:
        """A crash or a full disk costs at most that some records are sent twice."""
        with suppress(OSError):
            self._position.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._position.with_name(f"{self._position.name}.new")
            fresh.write_text(json.dumps({"to": self.name, "sent": sent}), "utf-8")
            fresh.replace(self._position)


class Tail:
    """Reads a log that grows, from a record on, through its files."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._after = 0
        self._inode = 0
        self._offset = 0

    def seek(self, after: int) -> None:
        """Go on behind record ``after``."""
        self._after, self._inode = after, 0

    def next_batch(self) -> list[tuple[int, bytes]]:
        """The next records, with their numbers; none if there are no more now.  Raises: OSError."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        for number, line in self._lines():
            batch.append((number, line))
            size += len(line)
            if len(batch) >= MOST_RECORDS or size >= MOST_BYTES:
                break
        return batch

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        last: int | None = 0
        while last is not None and (opened := self._next_file()) is not None:
            file, last = opened
            with file:
                for line in self._left_of(file):
                    if not line.endswith(b"\n"):
                        break  # it is being written; or a crash came, and nothing follows in this file
                    self._offset += len(line)
                    if (found := self._taken(line[:-1])) is not None:
                        yield found, line[:-1]
            # Whatever a former file lacks, it has nothing more.
            self._after = max(self._after, last or 0)

    def _next_file(self) -> tuple[BinaryIO, int | None] | None:
        """The oldest file with records behind the last one, and its own last record's number: None while it grows.

        The file that grows may be renamed at any moment, and another one stand in its place.  So it is opened first,
        and counts only if there is no former file then that comes before it.
        """
        with ExitStack() as stack:
            grows = self._opened(self._log)
            if grows is not None:
                stack.enter_context(grows)
            for former in segments(self._log):
                if last_of(former) > self._after and (file := self._opened(former)) is not None:
                    return file, last_of(former)
            stack.pop_all()
        return None if grows is None else (grows, None)

    @staticmethod
    def _opened(file: Path) -> BinaryIO | None:
        """None if it was removed, or is just being renamed."""
        try:
            return file.open("rb")
        except FileNotFoundError:
            return None

    def _left_of(self, file: BinaryIO) -> BinaryIO:
        """What was not read of it; it may have been renamed since."""
        facts = os.fstat(file.fileno())
        if facts.st_ino != self._inode or facts.st_size < self._offset:
            self._inode, self._offset = facts.st_ino, 0
        file.seek(self._offset)
        return file

    def _taken(self, line: bytes) -> int | None:
        record: dict[str, Any] | None = decode(line)
        if record is None or record["seq"] <= self._after:
            return None
        self._after = record["seq"]
        return self._after
