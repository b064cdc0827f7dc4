"""How far a scan has come, on standard error, for one that takes over a second."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from vestibule.cli.output import complaints

FIRST: Final = 1.0
"""Seconds in which nothing is said."""
NEXT: Final = 0.2
"""Seconds between two words on a terminal, where they replace each other."""
NEXT_LINE: Final = 5.0
"""The same elsewhere, where each is a line."""


class Progress:
    """Counts endpoints while its block is entered."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._live = complaints.is_terminal
        self._due = time.monotonic() + FIRST
        self._shown = False

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now < self._due or self._done == self._total:
            return
        self._due = now + (NEXT if self._live else NEXT_LINE)
        text = f"scanned {self._done} of {self._total} endpoints"
        if self._live:
            complaints.file.write(f"\r{text} ")
            complaints.file.flush()
        else:
            complaints.print(text)
        self._shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._shown:
            complaints.file.write("\r\x1b[K")
            complaints.file.flush()
