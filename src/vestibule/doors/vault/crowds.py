"""How much of the secret manager one identity may take at a time, so that it cannot take all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vestibule.doors.vault.codes import TOO_MANY_AT_ONCE
from vestibule.spiffe import SpiffeId

MOST_EACH: Final = 400
"""Requests: those that wait for a secret to change, and some more."""

MOST_LARGE_EACH: Final = 8
"""Requests with large bodies."""


class Crowds:
    """Counts requests under way by identity."""

    def __init__(self, most: int = MOST_EACH, most_large: int = MOST_LARGE_EACH) -> None:
        self._most = {False: most, True: most_large}
        self._under_way: Counter[tuple[SpiffeId | None, bool]] = Counter()

    @contextmanager
    def place(self, who: SpiffeId | None, *, large: bool) -> Iterator[None]:
        """One more, while this lasts.  Raises: VST5213."""
        key = who, large
        if self._under_way[key] >= self._most[large]:
            raise TOO_MANY_AT_ONCE.error(f"{self._most[large]} such requests of this identity are under way")
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]
