"""How many requests fail, before a change and with it.

Proxies report what they counted since they started.  Failed is what was answered with 5xx, faults that the intent
injects aside.  Answers of 4xx never count: a rule that takes a right away must not be undone by those whom it stops.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

BUCKET: Final = timedelta(seconds=10)
BUCKETS: Final = 12
"""How far back "before" reaches: two minutes, in parts of ten seconds."""

LEAST_REQUESTS: Final = 20
LEAST_FAILED: Final = 10
"""Of a service, before and after, and failed ones after: three unlucky requests take no intent back."""


LAG: Final = timedelta(seconds=3.5)
"""How old what is reported may be: sidecars look every two seconds, agents hand on every second."""


class Side(Enum):
    """Requests to a service's instances, and those that they make."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True)
class Count:
    """Requests, those of them that were answered with 4xx, and those that failed."""

    requests: int = 0
    denied: int = 0
    failed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.requests + other.requests, self.denied + other.denied, self.failed + other.failed)

    def since(self, before: Count) -> Count:
        """What came after; all of it, if the proxy began to count anew in between."""
        if self.requests < before.requests or self.denied < before.denied or self.failed < before.failed:
            return self
        return Count(
            self.requests - before.requests, self.denied - before.denied, self.failed - before.failed
        )

    @property
    def rate(self) -> float:
        """The share that failed."""
        return self.failed / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one proxy has counted since it started."""

    instance_id: str
    service: str
    counts: tuple[tuple[Side, Count], ...] = ()


@dataclass(slots=True)
class _Known:
    """What was heard of a proxy last, and whether it had the intent on trial then."""

    service: str
    counts: dict[Side, Count]
    tries: bool


_Key = tuple[str, Side]


@dataclass(slots=True)
class _Past:
    """The newest ten-second parts of one service's counts."""

    parts: deque[tuple[int, Count]] = field(default_factory=lambda: deque(maxlen=BUCKETS))

    def add(self, part: int, count: Count) -> None:
        if self.parts and self.parts[-1][0] == part:
            self.parts[-1] = (part, self.parts[-1][1] + count)
        else:
            self.parts.append((part, count))

    def total(self, part: int) -> Count:
        total = Count()
        for number, count in self.parts:
            if number > part - BUCKETS:
                total += count
        return total


class ErrorRates:
    """Adds up reports by service."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._past: defaultdict[_Key, _Past] = defaultdict(_Past)
        self._before: dict[_Key, Count] = {}
        self._with: defaultdict[_Key, Count] = defaultdict(Count)

    def take(self, report: Report, now: datetime, *, tries_for: timedelta | None) -> None:
        """A proxy reports; ``tries_for``: for how long it has had all of the intent on trial, None if it has not."""
        tries = tries_for is not None
        known = self._known.get(report.instance_id)
        counts = dict(report.counts)
        self._known[report.instance_id] = _Known(report.service, counts, tries)
        if known is None or known.service != report.service:
            # What it counted before nobody knows when.
            return
        for side, count in counts.items():
            more = count.since(known.counts.get(side, Count()))
            if not more.requests:
                continue
            self._past[report.service, side].add(_part(now), more)
            if tries and (known.tries or (tries_for is not None and tries_for >= LAG)):
                # What came between two reports of which only one was made with the new intent belongs to neither,
                # unless nothing was to be reported before: then it is as new as its report.
                self._with[report.service, side] += more

    @property
    def size(self) -> int:
        """How many instances something is known of."""
        return len(self._known)

    def retain(self, instances: Mapping[str, str]) -> None:
        """Forget all but these instances, which are of these services, and services that have none."""
        self._known = {each: known for each, known in self._known.items() if each in instances}
        services = set(instances.values())
        for key in [key for key in self._past if key[0] not in services]:
            del self._past[key]

    def total(self, service: str, side: Side) -> Count:
        """What was counted lately, whatever intent there was."""
        past = self._past.get((service, side))
        return sum((count for _, count in past.parts), Count()) if past is not None else Count()

    def begin(self, now: datetime) -> None:
        """From now on an intent is tried: what was so far is what it is compared with."""
        self._before = {key: past.total(_part(now)) for key, past in self._past.items()}
        self._with.clear()
        for each in self._known.values():
            each.tries = False

    def before(self) -> dict[_Key, Count]:
        """What was counted before the intent on trial."""
        return dict(self._before)

    def since(self) -> dict[_Key, Count]:
        """What was counted with the intent on trial."""
        return dict(self._with)

    def resume(self, before: dict[_Key, Count]) -> None:
        """The trial began on another server, or before a restart: this is what was counted before it."""
        self._before = dict(before)
        self._with.clear()

    def spike(self, percent: float) -> str:
        """What fails that did not fail before, if anything does: ``percent`` more of a service's requests.

        A service that had no traffic before, or has none now, is not judged.
        """
        for (service, side), after in sorted(self._with.items(), key=lambda each: each[0][0]):
            before = self._before.get((service, side), Count())
            enough = min(before.requests, after.requests) >= LEAST_REQUESTS and after.failed >= LEAST_FAILED
            if enough and after.rate - before.rate > percent / 100:
                which = f"to {service}" if side is Side.INBOUND else f"of {service} to others"
                return (
                    f"{after.failed} of {after.requests} requests {which} failed ({after.rate:.0%}), "
                    f"before it were {before.rate:.1%}"
                )
        return ""


def _part(now: datetime) -> int:
    return int(now.timestamp() // BUCKET.total_seconds())
