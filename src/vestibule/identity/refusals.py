"""Which refusals of strangers go on record: all, until there are suspiciously many."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(minutes=1)
PER_WINDOW: Final = 60


class Refusals:
    """Counts the refusals of a minute.

    Anybody may try to attest, from any number of addresses.  Were every attempt on record, strangers could fill
    the audit log's disk; and without room for records the server does nothing any more.  What is left out is
    counted, and the count stands in the next record.
    """

    def __init__(self) -> None:
        self._ends: datetime | None = None
        self._recorded = 0
        self._left_out = 0

    def next(self, now: datetime) -> int | None:
        """How many were left out before this one, which is to be recorded; ``None`` if this one is left out."""
        if self._ends is None or now >= self._ends:
            self._ends, self._recorded = now + WINDOW, 0
        if self._recorded >= PER_WINDOW:
            self._left_out += 1
            return None
        self._recorded += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
