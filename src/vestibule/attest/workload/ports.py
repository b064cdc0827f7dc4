"""What workload attestors are given, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vestibule.spiffe import Selector


class Process(Protocol):
    """A running process, pinned: whatever is read concerns it and no later owner of its pid.

    Everything raises VST2312 once the process has ended, and PermissionError where the kernel refuses.
    """

    @property
    def pid(self) -> int: ...

    @property
    def start_time(self) -> int: ...

    def check(self) -> None: ...

    def parent_pid(self) -> int: ...

    def status(self) -> Mapping[str, list[str]]: ...

    def read(self, name: str, limit: int) -> bytes: ...

    def link(self, name: str) -> str: ...

    def open_executable(self) -> Any: ...

    def executable_facts(self) -> tuple[int, int, int, int, int] | None:
        """Device, inode, size, mtime and ctime (ns) of the running executable; never waits for a file system.

        ``None`` where they are not at hand.
        """
        ...

    def close(self) -> None: ...


class WorkloadAttestor(Protocol):
    """One way of telling what a process is.  ``name`` is the type of its selectors."""

    @property
    def name(self) -> str: ...

    async def attest(self, process: Process) -> frozenset[Selector]:
        """What is true of the process; empty if it means nothing to this attestor.

        Raises: anything; another attestor's findings stand regardless.
        """
        ...
