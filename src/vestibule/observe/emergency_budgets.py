"""How much of the audit log one caller may fill by break-glass: a little at once, and the rest by number."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from vestibule.records import OTHERS, EmergencyUse

WINDOW: Final = 60.0
"""Seconds."""
MOST_KINDS: Final = 20
"""Of calls that are told apart, of one caller by one permission in ``WINDOW``; and records that are sent at once."""
_MANY: Final = 10_000


@dataclass(slots=True)
class _Window:
    ends: float
    kinds: set[tuple[str, ...]] = field(default_factory=set)
    sent: int = 0


class Budgets:
    """By permission, proxy and caller."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._windows: dict[tuple[str, ...], _Window] = {}

    def named(self, use: EmergencyUse) -> EmergencyUse:
        """The use as it is told: of one kind too many, without its method and path."""
        kinds, kind = self._window(use).kinds, (use.port, use.method, use.path)
        if kind not in kinds and len(kinds) >= MOST_KINDS:
            return replace(use, method=OTHERS, path=OTHERS)
        kinds.add(kind)
        return use

    def due(self, use: EmergencyUse) -> float:
        """When a new record about it is sent: now, or when the window ends.  More of the kind then add to it."""
        window = self._window(use)
        if use.path != OTHERS and window.sent < MOST_KINDS:
            window.sent += 1
            return self._now()
        return window.ends

    def is_due(self, at: float) -> bool:
        """Whether it is time."""
        return self._now() >= at

    def _window(self, use: EmergencyUse) -> _Window:
        who, now = (use.rule, use.spiffe_id, use.instance_id, use.caller), self._now()
        found = self._windows.get(who)
        if found is None or now >= found.ends:
            if len(self._windows) >= _MANY:
                self._windows = {each: known for each, known in self._windows.items() if now < known.ends}
            found = self._windows[who] = _Window(now + WINDOW)
        return found
