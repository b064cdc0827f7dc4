"""Which SVIDs somebody waits for or follows now: entries may say that theirs are not to be kept ready otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vestibule.records import Entry


class Demand:
    """Counts the open claims on each entry whose SVID is not fetched ahead."""

    def __init__(self) -> None:
        self._claims: Counter[str] = Counter()
        self._listeners: list[Callable[[], None]] = []

    def on_new(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever somebody is the first to claim an entry."""
        self._listeners.append(listener)

    def wants(self, entry: Entry) -> bool:
        """Whether the entry's SVID is to be had and renewed now."""
        return not entry.disable_x509_svid_prefetch or self._claims[entry.id] > 0

    @contextmanager
    def claim(self) -> Iterator[Claim]:
        """A claim for as long as the block lasts; it covers nothing yet."""
        claim = Claim(self)
        try:
            yield claim
        finally:
            claim.cover(())

    def _move(self, before: frozenset[str], after: frozenset[str]) -> None:
        self._claims.subtract(before - after)
        first = [each for each in after - before if not self._claims[each]]
        self._claims.update(after - before)
        self._claims = +self._claims  # without those that nobody claims any more
        if first:
            for listener in self._listeners:
                listener()


class Claim:
    """What one watch is about at the moment."""

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._covered: frozenset[str] = frozenset()

    def cover(self, entries: Iterable[Entry]) -> None:
        """It is about these entries now, and no longer about others."""
        covered = frozenset(entry.id for entry in entries if entry.disable_x509_svid_prefetch)
        if covered != self._covered:
            before, self._covered = self._covered, covered
            self._demand._move(before, covered)
