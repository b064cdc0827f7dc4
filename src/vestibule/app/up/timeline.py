"""When each part of a start was reached, so that its seconds can be shown and kept down."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from vestibule.processes import procfs


class Timeline:
    """Milestones in seconds since the beginning; each is reached once.

    ``since_process_start`` counts from when the kernel started this process, loading of code included.
    """

    def __init__(self, *, since_process_start: bool = False) -> None:
        self._began = time.monotonic() - (_age() if since_process_start else 0.0)
        self._reached: dict[str, float] = {}

    def reached(self, milestone: str) -> float:
        """Note a milestone, if it is the first time; the answer is when that was."""
        return self._reached.setdefault(milestone, round(time.monotonic() - self._began, 3))

    @property
    def milestones(self) -> Mapping[str, float]:
        """All that was reached, in the order in which it was."""
        return dict(self._reached)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self._reached.items())


def _age() -> float:
    """Seconds since this process was started, to a hundredth (field 22 of proc(5), in ticks since boot)."""
    ticks = procfs.start_time(os.getpid())
    if ticks is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
