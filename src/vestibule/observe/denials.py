"""How often which rule denied: counts for metrics, of a bounded number of series."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vestibule.observe.access_log import AccessLine, Denial

MOST: Final = 200
"""Series besides those of what finds no room."""
OTHER: Final = "other"
"""The rule, and where there are too many of them the service, under which the rest is counted."""
RESTING: Final = 3600.0
"""Seconds without a denial after which a series makes room for another: intents change, agents stay."""


@dataclass(slots=True)
class _Series:
    count: int
    last: float


class Denials:
    """Counts what proxies of this node denied; a sink of access records.

    Rules come from proxies, so that their number is nobody's promise: ``MOST`` of them have series of their own.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._series: dict[Denial, _Series] = {}
        self._rest: dict[Denial, int] = {}

    def append(self, lines: Iterable[AccessLine]) -> None:
        """Count the denials among these."""
        for line in lines:
            if line.denial is not None:
                self._count(line.denial)

    @property
    def counts(self) -> Mapping[tuple[str, ...], float]:
        """Denials by service, rule and code.  They only grow; a series that rested for long may be gone."""
        found = {each: series.count for each, series in self._series.items()} | self._rest
        return {(each.service, each.rule, each.code): count for each, count in found.items()}

    def _count(self, denial: Denial) -> None:
        now = self._now()
        known = self._series.get(denial)
        if known is not None:
            known.count, known.last = known.count + 1, now
        elif len(self._series) < MOST or self._make_room(now):
            self._series[denial] = _Series(1, now)
        else:
            rest = Denial(denial.service, OTHER, denial.code)
            if rest not in self._rest and len(self._rest) >= MOST:
                rest = Denial(OTHER, OTHER, OTHER)
            self._rest[rest] = self._rest.get(rest, 0) + 1

    def _make_room(self, now: float) -> bool:
        oldest = min(self._series, key=lambda each: self._series[each].last)
        if now - self._series[oldest].last < RESTING:
            return False
        del self._series[oldest]
        return True
