"""When each part of a start was reached, so that its seconds can be shown and kept down."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Timeline:
    """Milestones in seconds since the beginning; each is reached once."""

    def __init__(self) -> None:
        self._began = time.monotonic()
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
