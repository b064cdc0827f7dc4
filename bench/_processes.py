"""Processes under measurement: who belongs to whom, and what they used of the processors."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def command(pid: int) -> list[str]:
    """The command line; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, nearest first."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and (fields := _stat(int(each.name))):
            children[int(fields[1])].append(int(each.name))
    found, level = [], children[pid]
    while level:
        found += level
        level = [grandchild for child in level for grandchild in children[child]]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time used so far, user and system, by the threads that these processes have now.

    In nanoseconds precisely (``/proc/PID/task/TID/schedstat``), where ``stat`` counts hundredths of a second.
    """
    return sum(_thread_ns(thread) for pid in pids for thread in Path(f"/proc/{pid}/task").glob("*")) / 1e9


def resident(pid: int) -> float:
    """Resident memory, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _thread_ns(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except OSError:
        return 0


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
