"""How long the agent waits between attempts that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PAUSE_FIRST: Final = 0.2
PAUSE_LONGEST: Final = 5.0


class Pause:
    """Growing pauses between attempts, moved by up to a quarter so that agents do not march in step."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._seconds = PAUSE_FIRST

    def next(self) -> float:
        """The seconds to wait now; the next answer is longer."""
        seconds, self._seconds = self._seconds, min(self._seconds * 2, PAUSE_LONGEST)
        return seconds * (1 + 0.25 * self._jitter())

    def reset(self) -> None:
        """An attempt succeeded."""
        self._seconds = PAUSE_FIRST
