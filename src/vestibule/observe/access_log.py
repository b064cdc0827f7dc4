"""The access log on disk: bounded, rotating files of JSON lines, and counts for a glance.

Access logs are evidence but not a gate: when the disk is full, traffic goes on, records are dropped, and the
number dropped is kept and reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.observe.access_record import AccessRecord

FILE_BYTES: Final = 16 * 1024 * 1024
FILES_KEPT: Final = 4
QUEUE_LIMIT: Final = 50_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One line of the service map: who called whom, and how it went."""

    source: str
    destination: str
    verdict: str


@dataclass(frozen=True, slots=True)
class AccessLine:
    """One record as a line of JSON (without the newline), and the edge that it counts for, if any.

    A call is logged by both its proxies; the callee's is the one that counts.
    """

    text: str
    edge: Edge | None


class AccessLog:
    """Takes records from any number of proxies and writes them in batches, off the event loop."""

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES, files_kept: int = FILES_KEPT) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files_kept = files_kept
        self._queue: deque[str] = deque()
        self._arrived = asyncio.Event()
        self.dropped = 0
        self.edges: Counter[Edge] = Counter()

    def append(self, lines: Iterable[AccessLine]) -> None:
        """Queue lines.  Never waits: what finds the queue full is dropped and counted."""
        for line in lines:
            if line.edge is not None:
                self.edges[line.edge] += 1
            if len(self._queue) >= QUEUE_LIMIT:
                self.dropped += 1
                continue
            self._queue.append(line.text)
        self._arrived.set()

    async def run(self) -> None:
        """Write what arrives, until cancelled; what is queued then is still written."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                await self._flush()
        finally:
            self._write(self._take())

    async def _flush(self) -> None:
        while batch := self._take():
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, batch))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # a thread cannot be cancelled; what it holds must not be lost
                raise

    def _take(self) -> list[str]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), 2_000))]

    def _write(self, batch: list[str]) -> None:
        if not batch:
            return
        text = "\n".join(batch) + "\n"
        try:
            self._rotate_for(len(text))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self.dropped += len(batch)
            _log.warning("access log: %d records dropped: %s", len(batch), error.strerror)

    def _rotate_for(self, incoming: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + incoming <= self._file_bytes:
            return
        _numbered(self._path, self._files_kept).unlink(missing_ok=True)
        for number in range(self._files_kept - 1, 0, -1):
            older = _numbered(self._path, number)
            if older.exists():
                older.replace(_numbered(self._path, number + 1))
        self._path.replace(_numbered(self._path, 1))


def read(path: Path) -> Iterator[AccessRecord]:
    """All kept records, oldest first, from the rotated files and the current one.

    A last line that is still being written is left out.  Raises: VST8200 for any other broken line.
    """
    rotated = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix.lstrip(".")))
    for file in [*rotated, path]:
        if not file.exists():
            continue
        lines = file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                yield AccessRecord.from_json(line)
            except VestibuleError:
                if number == len(lines) - 1:
                    return
                raise


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
