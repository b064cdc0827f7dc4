"""The access log on disk: bounded, rotating files of JSON lines, and counts for a glance.

Access logs are evidence but not a gate: when the disk is full, traffic goes on and records wait in memory.  What
finds no room there either is dropped; the number dropped is kept and reported.  Only whole lines are ever left in
the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.errors import VestibuleError, Where
from vestibule.observe.access_record import AccessRecord
from vestibule.observe.codes import LOG_NOT_WRITTEN, LOG_UNREADABLE

FILE_BYTES: Final = 16 * 1024 * 1024
FILES_KEPT: Final = 4
QUEUE_LIMIT: Final = 50_000
QUEUE_CHARACTERS: Final = 64 * 1024 * 1024
"""Of all lines that wait: whoever calls a service chooses how long the paths are."""
EDGES_KEPT: Final = 10_000
OTHERS: Final = "others"
"""Whom calls count for that would need one edge more."""
RETRY_SECONDS: Final = 1.0
"""How often a log that could not be written is tried again."""
_BATCH: Final = 2_000
_LONGEST_LINE: Final = 256 * 1024  # characters
_BYTES_OF_A_CHARACTER: Final = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One line of the service map: who called whom, and how it went."""

    source: str
    destination: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Denial:
    """What a denial counts for: the called service, the rule (empty if none allowed it) and the error code."""

    service: str
    rule: str
    code: str


@dataclass(frozen=True, slots=True)
class AccessLine:
    """One record as a line of JSON (without the newline), and the edge that it counts for, if any.

    A call is logged by both its proxies; the callee's is the one that counts.  ``by_break_glass``: nothing else would
    have allowed it.  ``tokens`` gives the claims of the tokens that were verified, by their issuers' names.  ``denial``
    is there if the proxy denied it.
    """

    text: str
    edge: Edge | None
    by_break_glass: bool = False
    tokens: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None
    denial: Denial | None = None


class AccessLog:
    """Takes records from any number of proxies and writes them in batches, off the event loop."""

    name = "access log"

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES, files_kept: int = FILES_KEPT) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files_kept = files_kept
        self._queue: deque[str] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._sound = False  # whether the file is known to end with a whole line
        self._dropped_before = 0
        self.dropped = 0
        self.problem: VestibuleError | None = None
        """Why records wait, while they do."""
        self.edges: Counter[Edge] = Counter()

    def append(self, lines: Iterable[AccessLine]) -> None:
        """Queue lines.  Never waits: what finds the queue full is dropped and counted."""
        for line in lines:
            if line.edge is not None:
                self._count(line.edge)
            size = len(line.text)
            full = len(self._queue) >= QUEUE_LIMIT or self._queued + size > QUEUE_CHARACTERS
            if full or size > _LONGEST_LINE:
                self.dropped += 1
                continue
            self._queue.append(line.text)
            self._queued += size
        self._arrived.set()

    def _count(self, edge: Edge) -> None:
        if edge not in self.edges and len(self.edges) >= EDGES_KEPT:
            edge = Edge(OTHERS, OTHERS, edge.verdict)
        self.edges[edge] += 1

    async def run(self) -> None:
        """Write what arrives, until cancelled; what is queued then is still written."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                await self._flush()
        finally:
            self._write_the_rest()

    async def _flush(self) -> None:
        while batch := self._take():
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, batch))
            try:
                await asyncio.shield(writing)
            finally:
                # Also when cancelled: a thread goes on, and what it did not write must not be lost.
                rest = batch[await writing :]
                self._queue.extendleft(reversed(rest))
                self._queued += sum(map(len, rest))
            if rest:
                await asyncio.sleep(RETRY_SECONDS)

    def _write_the_rest(self) -> None:
        while batch := self._take():
            if rest := len(batch) - self._write(batch):
                self.dropped += rest + len(self._queue)
                self._queue.clear()
                self._queued = 0
                _log.warning("%s: %d records were dropped", self.name, self.dropped)

    def _take(self) -> list[str]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        self._queued -= sum(map(len, batch))
        return batch

    def _write(self, batch: list[str]) -> int:
        """Append lines; how many of them are in the file, whole."""
        data = "".join(f"{line}\n" for line in batch).encode()
        done = 0
        try:
            self._rotate_for(len(data))
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = self._whole_lines(file)
                self._sound = False
                try:
                    while done < len(data):
                        done += os.write(file, data[done:])
                except OSError:
                    done = data.rfind(b"\n", 0, done) + 1
                    with suppress(OSError):
                        os.ftruncate(file, size + done)
                        self._sound = True
                    raise
                self._sound = True
            finally:
                os.close(file)
        except OSError as error:
            self._complain(error)
            return data.count(b"\n", 0, done)
        self._recovered()
        return len(batch)

    def _whole_lines(self, file: int) -> int:
        """The size of the file, from which what a killed agent wrote of its last line is removed."""
        size = os.fstat(file).st_size
        if not self._sound and size:
            start = max(0, size - _BYTES_OF_A_CHARACTER * _LONGEST_LINE)
            end = start + os.pread(file, size - start, start).rfind(b"\n") + 1
            if end < size:
                os.ftruncate(file, end)
                self.dropped += 1
            return end
        return size

    def _complain(self, error: OSError) -> None:
        if self.problem is None:
            self._dropped_before = self.dropped
            self.problem = LOG_NOT_WRITTEN.error(
                f"the {self.name} {self._path} cannot be written: {error.strerror}"
            )
            _log.error("%s (%s)", self.problem, self.problem.advice)

    def _recovered(self) -> None:
        if self.problem is not None:
            self.problem = None
            dropped = self.dropped - self._dropped_before
            _log.info("the %s is written again; %d records were dropped meanwhile", self.name, dropped)

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

    Raises: VST8200, as ``read_file``.
    """
    rotated = [file for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdecimal()]
    for file in [*sorted(rotated, key=lambda file: -int(file.suffix[1:])), path]:
        if file.exists():
            yield from read_file(file)


def read_file(path: Path) -> Iterator[AccessRecord]:
    """The records of one file; a last line that is still being written is left out.

    Raises: VST8200 for a file that cannot be read, and, with its place, for any other broken line.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            yield from _records(path, lines)
    except OSError as error:
        advice = "Name an agent's access.jsonl, as a user who may read it."
        raise LOG_UNREADABLE.error(f"{path} cannot be read: {error.strerror}", advice=advice) from error


def _records(path: Path, lines: Iterable[str]) -> Iterator[AccessRecord]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield AccessRecord.from_json(line)
        except VestibuleError as error:
            if not line.endswith("\n"):
                return
            where = Where(file=str(path), line=number)
            raise error.code.error(error.message, advice=error.advice, where=where) from error


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
