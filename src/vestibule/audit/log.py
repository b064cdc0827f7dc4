"""The audit log: one file that only grows, each line chained to the one before."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from vestibule.audit.chain import Link, decode, discarded_event, encode, follows, torn_event
from vestibule.audit.codes import AUDIT_DAMAGED, AUDIT_IN_USE, AUDIT_UNAVAILABLE
from vestibule.audit.files import segment_path, segments
from vestibule.audit.ports import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError

MAX_BYTES: Final = 64 * 2**20
MAX_FILES: Final = 32
_LONGEST_LINE: Final = 1024 * 1024
_NUMBER_BYTES: Final = 20
_ROUNDS: Final = 3
"""Of the event loop, between two flushes.  Whoever hears of the first one can then ask again, and shares the second:
half as many flushes where much is asked, and no time at all where little is."""


Observer: TypeAlias = Callable[[Sequence[AuditEvent], float, bool], None]


def _nobody(_events: Sequence[AuditEvent], _seconds: float, _kept: bool) -> None:
    """Nobody looks."""


def _nothing(_lines: bytes) -> None:
    """Nobody follows."""


class _Call:
    """One call of ``record`` and what became of it."""

    __slots__ = ("done", "error", "events", "over")

    def __init__(self, events: Sequence[AuditEvent], over: asyncio.Future[None]) -> None:
        self.events = events
        self.done = False
        self.error: BaseException | None = None
        self.over = over

    def settle(self, error: BaseException | None) -> None:
        """What became of it; its caller goes on."""
        self.done, self.error = True, error
        if not self.over.done():  # else the caller is cancelled, and may have gone
            self.over.set_result(None)


class AuditLog:
    """``audit.Audit`` on a file of its own (mode 0600).

    A call that returned is on disk, whole.  A call that failed has left nothing, unless the machine stopped in
    the middle: then the unfinished line stays where it is and the next ``open`` records that it is there.
    """

    def __init__(
        self, path: Path, clock: Clock, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
    ) -> None:
        """A file larger than ``max_bytes`` makes way for a new one; the oldest beyond ``max_files`` are removed.

        What is removed, is on record: how far it went and the hash of its end.  ``max_files`` of 0 keeps all.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        self._file = -1
        self._size = 0
        self._unclean = False
        self._waiting: list[_Call] = []
        self._link = Link()
        self.observe: Observer = _nobody
        """Told of every call of ``record`` that was not empty: its events, how long it took, whether they are kept."""
        self.appended: Callable[[bytes], None] = _nothing
        """Given every line that is durable now, from the thread that wrote it."""
        self.found_torn = False
        """Whether ``open`` found a line that a crash had left unfinished."""

    @property
    def path(self) -> Path:
        """Where its newest file is."""
        return self._path

    @property
    def end(self) -> Link:
        """The last record's number and hash."""
        return self._link

    async def open(self) -> None:
        """Find the end of the log, or begin one; no other process may write to it until ``close``.

        Reads only the last line: checking the whole chain is ``verify``'s.
        Raises: VST8100 (unusable), VST8101 (the last line is no record of ours), VST8102 (in use).
        """
        try:
            await asyncio.to_thread(self._open)
        except BaseException:
            self._close()
            raise

    async def close(self) -> None:
        """Let go of the file, after what is being written."""
        await self._idle.wait()
        self._close()

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Keep all events, or none.  Raises: VST8100; then the caller does not act.

        Calls that wait for the disk at the same time share its next flush.
        """
        if not events:
            return
        _check_sizes(events)  # before others share a flush with it, and its failure
        loop, began = asyncio.get_running_loop(), time.monotonic()
        call = _Call(events, loop.create_future())
        self._waiting.append(call)
        if self._idle.is_set():
            self._idle.clear()
            loop.call_soon(self._go_on, loop, 0)  # behind all who record something in this very moment
        try:
            await call.over
        except asyncio.CancelledError:
            await self._given_up(call)
            raise
        finally:
            self.observe(events, time.monotonic() - began, call.done and call.error is None)
        if call.error is not None:
            message = (
                call.error.message if isinstance(call.error, VestibuleError) else "a record can not be made"
            )
            raise AUDIT_UNAVAILABLE.error(message) from call.error

    async def _given_up(self, call: _Call) -> None:
        """Nothing is left of it, or it is on disk before its caller, who is cancelled, goes on."""
        if call in self._waiting:  # nobody has begun to write it
            self._waiting.remove(call)
            return
        while not call.done:
            call.over = call.over.get_loop().create_future()  # the one before is cancelled, too
            with suppress(asyncio.CancelledError):
                await call.over

    def _go_on(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        if rounds:
            loop.call_soon(self._go_on, loop, rounds - 1)
        else:
            self._write(loop)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write all that waits: in a thread, and one at a time, for the chain has one end."""
        calls, self._waiting = self._waiting, []
        if not calls:
            self._idle.set()
            return
        events = [event for call in calls for event in call.events]
        try:
            writing = loop.run_in_executor(None, self._record, events)
        except RuntimeError as error:  # the loop's threads have ended, and it is about to
            self._written(calls, error, loop)
            return
        writing.add_done_callback(lambda writing: self._written(calls, writing.exception(), loop))

    def _written(
        self, calls: Sequence[_Call], error: BaseException | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        for call in calls:
            call.settle(error)
        self._go_on(loop, _ROUNDS)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _flush_directory(self._path.parent)
            self._find_end()
        except BlockingIOError as error:
            raise AUDIT_IN_USE.error(f"another process writes to {self._path}") from error
        except OSError as error:
            raise AUDIT_UNAVAILABLE.error(f"{self._path} can not be opened: {error.strerror}") from error

    def _find_end(self) -> None:
        self._size = os.fstat(self._file).st_size
        if not self._size:
            self._find_former_end()
            return
        *lines, unfinished = self._last_lines()
        if lines and decode(lines[-1]) is None:
            # A crash while an earlier crash was being recorded: the unfinished line has got its end, but not
            # yet the record that accounts for it.  What there is of that record is replaced.
            self._size -= len(unfinished)
            self._take_back()
            self._find_link(lines[:-1])
            self._account_for(lines[-1], ended=True)
        else:
            self._find_link(lines)
            self._account_for(unfinished, ended=False)

    def _find_former_end(self) -> None:
        """A new file goes on where the one before it ended."""
        if former := segments(self._path):
            self._link = end_of(former[-1])

    def _last_lines(self) -> list[bytes]:
        """The last lines of the file, of which the very last has no end and is mostly empty."""
        length = min(self._size, 3 * _LONGEST_LINE)
        lines = os.pread(self._file, length, self._size - length).split(b"\n")
        if length < self._size:
            lines = lines[1:]  # most likely a part of one
            if len(lines) < 3:
                raise AUDIT_DAMAGED.error(f"the end of {self._path} is longer than any record")
        return lines

    def _find_link(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        if (record := decode(lines[-1])) is None:
            raise AUDIT_DAMAGED.error(f"the end of {self._path} is not a record")
        self._link = Link(seq=record["seq"], hash=record["hash"])

    def _account_for(self, fragment: bytes, *, ended: bool) -> None:
        if not fragment:
            return
        record = decode(fragment)
        if record is not None and follows(record, self._link):
            # Only the end of the line is missing.
            self._append(b"\n", Link(seq=record["seq"], hash=record["hash"]))
            return
        # The line is ended, not removed: what was once in the log stays in it.
        self.found_torn = True
        lines, link = encode([torn_event(fragment)], self._link, self._clock.now())
        self._append(lines if ended else b"\n" + lines, link)

    def _record(self, events: Sequence[AuditEvent]) -> None:
        self._make_room()
        self._append(*encode(events, self._link, self._clock.now()))

    def _append(self, lines: bytes, link: Link) -> None:
        try:
            self._check_file()
            if self._unclean:
                self._take_back()
            self._unclean = True
            _write_all(self._file, lines)
            os.fdatasync(self._file)
        except OSError as error:
            self._try_to_take_back()
            raise AUDIT_UNAVAILABLE.error(f"{self._path} can not be written: {error.strerror}") from error
        self._unclean = False
        self._size += len(lines)
        self._link = link
        self.appended(lines)

    def _make_room(self) -> None:
        """Begin a new file if this one is full.  A failure leaves the log as it was, or as ``open`` can go on with."""
        if self._size < self._max_bytes or self._unclean:
            return
        try:
            self._check_file()
            self._begin_file()
            doomed = segments(self._path)[: -self._max_files + 1 or None] if self._max_files else ()
        except OSError as error:
            raise AUDIT_UNAVAILABLE.error(f"{self._path} can not be renewed: {error.strerror}") from error
        for segment in doomed:
            self._discard(segment)

    def _begin_file(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.rename(segment_path(self._path, self._link.seq))
            fresh.rename(self._path)
            _flush_directory(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._file)
        self._file, self._size = descriptor, 0

    def _discard(self, segment: Path) -> None:
        """Remove an old file; that, and how it ended, is on record before."""
        end = end_of(segment)
        lines, link = encode([discarded_event(end)], self._link, self._clock.now())
        self._append(lines, link)
        with suppress(OSError):  # it is tried again with the next file
            segment.unlink()

    def _check_file(self) -> None:
        if self._file < 0:
            raise OSError(errno.EBADF, "it is not open")
        try:
            named = self._path.lstat()
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "it was deleted; restart to begin a new one") from None
        # Records that nobody will find are no records.
        if not os.path.samestat(named, os.fstat(self._file)):
            raise OSError(errno.ESTALE, "it was replaced; restart to go on with the new one")

    def _take_back(self) -> None:
        # Nobody was told that these bytes are in the log, so they are not part of it.
        os.ftruncate(self._file, self._size)
        os.fdatasync(self._file)
        self._unclean = False

    def _try_to_take_back(self) -> None:
        if not self._unclean:
            return
        try:
            self._take_back()
        except OSError:
            return  # tried again before the next record, which fails unless it works then

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _check_sizes(events: Sequence[AuditEvent]) -> None:
    for event in events:
        longest = len(event.actor) + len(event.action) + len(event.subject) + len(event.outcome)
        for name, value in event.details.items():
            longest += len(name) + len(value if type(value) is str else str(value))
        # Few are so long that it pays to look closely: a character takes at most 12 bytes of JSON.
        if longest * 12 > _LONGEST_LINE // 2 and _length(event) > _LONGEST_LINE:
            raise AUDIT_UNAVAILABLE.error("an event is too large to be recorded")


def _length(event: AuditEvent) -> int:
    return len(encode([event], Link(), datetime.max.replace(tzinfo=UTC))[0]) + _NUMBER_BYTES


def end_of(segment: Path) -> Link:
    """The last record of a former file.  Raises: VST8101, OSError."""
    with segment.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 3 * _LONGEST_LINE))
        lines = file.read().split(b"\n")
    record = decode(lines[-2]) if len(lines) > 1 and not lines[-1] else None
    if record is None:
        raise AUDIT_DAMAGED.error(f"the end of {segment} is not a record")
    return Link(seq=record["seq"], hash=record["hash"])


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _flush_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
