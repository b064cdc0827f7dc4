"""The processes of one supervisor, written down so that the next start can end what a ``kill -9`` left behind.

The kernel kills our direct children when we die; their own children live on.  A ledger therefore holds every
child by pid and start time, and gives each a mark in its environment that its offspring inherits.  Whoever
starts next in the same place sweeps: ledgers whose owner no longer holds the lock are cleaned, and nothing else
is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from vestibule.processes import procfs
from vestibule.processes.child import Child, Command
from vestibule.processes.codes import DIRECTORY_IN_USE, NOT_WRITABLE
from vestibule.processes.directories import is_private, private_directory

LINEAGE: Final = "VESTIBULE_LINEAGE"
"""The environment variable with the mark; it names who started a process and is no secret."""

_FILE: Final = "ledger.json"
_LOCK: Final = "lock"
_POLL: Final = 0.01
# A sweep that found our directory a moment too early holds it for no longer than it takes to remove an empty one.
_PATIENCE: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One child."""

    name: str
    pid: int
    start_time: int


class Ledger:
    """Starts children and keeps the record of them in ``directory``, which it owns while it is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Below the mark of whoever started us, so that its sweep finds our offspring too.
        self._mark = os.environ.get(LINEAGE, "") + secrets.token_hex(8)
        self._entries: dict[int, Entry] = {}
        self._lock: int | None = None

    def open(self) -> None:
        """Take the directory, after cleaning up after its last owner.  Raises: VST7003, VST7004, VST7006."""
        private_directory(self.directory)
        try:
            self._lock = _own(self.directory)
            if self._lock is None:
                raise DIRECTORY_IN_USE.error(f"{self.directory} is in use by another running process")
            _end_recorded(self.directory)
            self._write()
        except OSError as error:
            self.close(remove=True)
            raise NOT_WRITABLE.error(f"cannot write in {self.directory}: {error.strerror}") from error

    def start(self, name: str, command: Command, *, output: int | None = None) -> Child:
        """Start a child that is in the record from its first moment.  Raises: VST7000."""
        env = {**(os.environ if command.env is None else command.env), LINEAGE: self._mark_of(name)}
        child = Child.start(replace(command, env=env), output=output)
        self._entries[child.pid] = Entry(name, child.pid, child.start_time)
        self._update()
        return child

    def forget(self, child: Child) -> None:
        """The child ended and was reaped."""
        if self._entries.pop(child.pid, None):
            self._update()

    def family(self, name: str) -> set[int]:
        """The processes of the child of this name: descendants, and others that carry its mark."""
        roots = [entry.pid for entry in self._entries.values() if entry.name == name]
        return procfs.descendants(*roots) | procfs.carrying(LINEAGE, self._mark_of(name))

    def end_strays(self, name: str, *, grace: float = 0.0) -> None:
        """End what a child left behind when it ended (processes that had left its group).  Blocks ≤ ``grace``."""
        _end(lambda: _known(procfs.carrying(LINEAGE, self._mark_of(name))), grace)

    def close(self, *, remove: bool = False) -> None:
        """Give the directory back, and remove it if asked to."""
        if self._lock is None:
            return
        if remove:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            (self.directory / _FILE).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def _mark_of(self, name: str) -> str:
        # The closing slash keeps one name from being the beginning of another.
        return f"{self._mark}/{name}/"

    def _update(self) -> None:
        # A full disk must not end what runs.  What is lost is little: the mark, by which a sweep finds every child
        # that still carries it, has been in the file since it was opened.
        try:
            self._write()
        except OSError as error:
            _log.warning("cannot write in %s: %s", self.directory, error.strerror)

    def _write(self) -> None:
        document = {
            "boot": procfs.boot_id(),
            "mark": self._mark,
            "processes": [asdict(entry) for entry in self._entries.values()],
        }
        partial = self.directory / f"{_FILE}.partial"
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(self.directory / _FILE)


def sweep(parent: Path, *, grace: float = 1.0) -> list[str]:
    """Clean and remove every ledger directly below ``parent`` whose owner is gone.

    Returns what was ended, in words.  Blocks for at most ``grace`` seconds per ledger.
    """
    ended: list[str] = []
    for directory in sorted(path for path in parent.glob("*") if (path / _LOCK).exists()):
        if not is_private(directory) or (lock := _lock(directory)) is None:
            continue
        try:
            ended += _end_recorded(directory, grace)
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(lock)
    return ended


def _own(directory: Path) -> int | None:
    """The lock of a directory that may be new; ``None`` when a running process owns it.  Raises: OSError, VST7003.

    Somebody's sweep may meet a new directory between its making and its locking, and take it for a dead owner's.
    It then holds the lock, or removes the directory: both pass, and what tells an owner is the record.
    """
    deadline = time.monotonic() + _PATIENCE
    while (lock := _lock(private_directory(directory), create=True)) is None:
        if (directory / _FILE).exists() or time.monotonic() > deadline:
            return None
        time.sleep(_POLL)
    return lock


def _lock(directory: Path, *, create: bool = False) -> int | None:
    """The lock, if it is free and is still the one that stands in the directory."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        lock = os.open(directory / _LOCK, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(directory / _LOCK)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _end_recorded(directory: Path, grace: float = 1.0) -> list[str]:
    """End what the ledger of a dead owner names.  Start times are compared, so a reused pid is safe."""
    try:
        document = json.loads((directory / _FILE).read_text(encoding="utf-8"))
        boot, mark = str(document["boot"]), str(document["mark"])
        entries = [Entry(**entry) for entry in document["processes"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("ignoring the unreadable ledger in %s: %s", directory, error)
        return []
    if boot != procfs.boot_id() or not mark:
        return []

    def leftovers() -> set[tuple[int, int]]:
        recorded = {(entry.pid, entry.start_time) for entry in entries}
        return recorded | _known(procfs.carrying(LINEAGE, f"{mark}/"))

    return _end(leftovers, grace)


def _known(pids: set[int]) -> set[tuple[int, int]]:
    return {(pid, started) for pid in pids if (started := procfs.start_time(pid)) is not None}


def _end(find: Callable[[], set[tuple[int, int]]], grace: float) -> list[str]:
    """SIGTERM to all that ``find`` finds, SIGKILL after ``grace``, until it finds no more."""
    ended: dict[tuple[int, int], str] = {}
    patience = time.monotonic() + grace
    while alive := {process for process in find() if procfs.is_running(*process)}:
        late = time.monotonic() >= patience
        for process in alive:
            if late or process not in ended:
                ended.setdefault(process, procfs.command_line(process[0]))
                _signal(process, signal.SIGKILL if late else signal.SIGTERM)
        if late and time.monotonic() >= patience + 5:
            # Uninterruptible (a dead network mount, say): nobody can end it, and we must go on.
            _log.warning("cannot end %s", ", ".join(procfs.command_line(pid) for pid, _ in alive))
            break
        time.sleep(_POLL)
    return [f"{words} (pid {pid})" for (pid, _), words in ended.items()]


def _signal(process: tuple[int, int], signum: int) -> None:
    """Signal the very process: the descriptor is taken first, then its start time is compared."""
    pid, started = process
    with contextlib.suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(pid)
        try:
            if procfs.is_running(pid, started):
                signal.pidfd_send_signal(pidfd, signum)
        finally:
            os.close(pidfd)
