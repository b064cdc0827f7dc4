"""What ``/proc`` says about processes.

A pid alone names nothing for long; a pid with its start time is never reused within one boot.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PARENT: Final = 1
_STATE: Final = 0
_START_TIME: Final = 19
"""Positions in ``stat`` after the command's closing parenthesis (fields 4, 3 and 22 of proc(5))."""


def boot_id() -> str:
    """Names this boot of the machine; start times are comparable only within it."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """Field 22 of ``/proc/PID/stat``, in clock ticks since boot; ``None`` if there is no such process."""
    fields = _stat(pid)
    return int(fields[_START_TIME]) if fields else None


def is_running(pid: int, started: int) -> bool:
    """Whether the very process that started then still runs (a zombie does not)."""
    fields = _stat(pid)
    return bool(fields) and int(fields[_START_TIME]) == started and fields[_STATE] not in "ZX"


def pids() -> Iterator[int]:
    """All processes that can be seen now."""
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())  # noqa: PTH208 - names suffice


def descendants(*roots: int) -> set[int]:
    """The processes below ``roots``, and the roots themselves where they exist."""
    children: dict[int, list[int]] = defaultdict(list)
    seen: set[int] = set()
    for pid in pids():
        if fields := _stat(pid):
            children[int(fields[_PARENT])].append(pid)
            seen.add(pid)
    found: set[int] = set()
    waiting = [root for root in roots if root in seen]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children[pid])
    return found


def carrying(variable: str, prefix: str) -> set[int]:
    """Processes of our own uid whose initial environment holds ``variable`` with a value that begins so.

    Environments are inherited, so this finds a process's offspring even after it left its group, its session
    and its parent.  It does not find those who cleared their environment.
    """
    wanted = f"{variable}={prefix}".encode()
    return {pid for pid in pids() if any(entry.startswith(wanted) for entry in _environment(pid))}


def sockets_of(processes: Iterable[int]) -> dict[int, int]:
    """Which of these processes holds a socket: socket inode to pid."""
    owners: dict[int, int] = {}
    for pid in processes:
        for target in _open_files(pid):
            if target.startswith("socket:["):
                owners[int(target[8:-1])] = pid
    return owners


def command_line(pid: int) -> str:
    """The command as it was started, for messages; the bare pid where it cannot be read."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    text = b" ".join(words).decode(errors="replace")
    return text[:120] or f"process {pid}"


def _stat(pid: int) -> list[str]:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return []
    # The command may hold spaces and parentheses, so fields are counted from the last closing one.
    return text.rpartition(b")")[2].decode("ascii").split()


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _open_files(pid: int) -> Iterator[str]:
    directory = _PROC / str(pid) / "fd"
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names suffice
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(directory / name)  # noqa: PTH115 - no Path is wanted
        except OSError:
            continue
