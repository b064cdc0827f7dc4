"""What a process's supervisor says of it: services told apart where all of them share one user.

A supervisor that proved itself to the agent vouches for processes it started, by pid and start time (a pid
alone would be inherited by whoever gets it next).  A vouched process and its descendants get the selectors
``supervised:service:NAME`` and ``supervised:role:ROLE``; the nearest vouched ancestor decides.  A descendant
whose parent ended belongs to init and loses them.

What this protects against is another user, and accidents: a process of the same user can ptrace its way
into a vouched one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vestibule.attest.workload.codes import NOT_RUNNING
from vestibule.attest.workload.ports import Process
from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector

TYPE: Final = "supervised"
MAX_GENERATIONS: Final = 64

OpenProcess = Callable[[int], Process]
"""Pins a process by pid.  Raises: VST2312 if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouch:
    """One vouched process: whose it is, and what it is there (``envoy`` or ``app``)."""

    service: str
    pid: int
    start_time: int
    role: str


class Vouched:
    """The processes that supervisors vouch for now."""

    def __init__(self, open_process: OpenProcess) -> None:
        self._open = open_process
        self._vouches: dict[tuple[int, int], Vouch] = {}
        self._listeners: list[Callable[[], None]] = []

    def vouch(self, service: str, pid: int, start_time: int, role: str) -> None:
        """From now on this process and its descendants are ``service``.  Raises: VST2051."""
        try:
            process = self._open(pid)
        except VestibuleError as error:
            raise NOT_RUNNING.error(f"there is no process {pid} to vouch for") from error
        running_since = process.start_time
        process.close()
        if running_since != start_time:
            raise NOT_RUNNING.error(f"process {pid} is not the one that was vouched for")
        self._vouches[pid, start_time] = Vouch(service=service, pid=pid, start_time=start_time, role=role)
        self._notify()

    def withdraw(self, pid: int, start_time: int) -> None:
        """The process is nobody special any more; nothing happens if it was not."""
        if self._vouches.pop((pid, start_time), None) is not None:
            self._notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change; streams look again who their caller is."""
        self._listeners.append(listener)

    def find(self, process: Process) -> Vouch | None:
        """The vouch that covers a process: its own, or that of its nearest vouched ancestor.

        Raises: VST2312 if the process itself has ended.
        """
        if not self._vouches:
            return None
        if own := self._vouches.get((process.pid, process.start_time)):
            return own
        return self._of_ancestor(process, MAX_GENERATIONS)

    def selectors_for(self, process: Process) -> frozenset[Selector]:
        """The selectors of a process; none if nobody vouches for it.  Raises: VST2312."""
        vouch = self.find(process)
        if vouch is None:
            return frozenset()
        return frozenset({Selector(TYPE, f"service:{vouch.service}"), Selector(TYPE, f"role:{vouch.role}")})

    def _of_ancestor(self, child: Process, generations: int) -> Vouch | None:
        parent_pid = child.parent_pid()
        if parent_pid <= 1 or generations == 0:
            return None
        try:
            parent = self._open(parent_pid)
        except VestibuleError:
            return None
        try:
            # Opened by number: it is the parent only if the child still has it after we pinned it.
            if child.parent_pid() != parent_pid:
                return None
            if vouch := self._vouches.get((parent.pid, parent.start_time)):
                return vouch
            return self._of_ancestor(parent, generations - 1)
        except VestibuleError:
            return None
        finally:
            parent.close()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def is_descendant(open_process: OpenProcess, process: tuple[int, int], ancestor: tuple[int, int]) -> bool:
    """Whether one process (pid, start time) was started by another, directly or through others still running."""
    registry = Vouched(open_process)
    try:
        registry.vouch("", *ancestor, "")
        pinned = open_process(process[0])
    except VestibuleError:
        return False
    try:
        return pinned.start_time == process[1] and process != ancestor and registry.find(pinned) is not None
    except VestibuleError:
        return False
    finally:
        pinned.close()


class SupervisedAttestor:
    """Attests by the registry of vouched processes."""

    name: Final = TYPE

    def __init__(self, vouched: Vouched) -> None:
        self._vouched = vouched

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Raises: VST2312 if the process has ended."""
        return self._vouched.selectors_for(process)
