"""How much of the secret manager one identity may take at a time, so that it cannot take all of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from vestibule.doors.platform.crowds import Crowd
from vestibule.doors.vault.codes import TOO_MANY_AT_ONCE
from vestibule.spiffe import SpiffeId

MOST_EACH: Final = 400
"""Requests: those that wait for a secret to change, and some more."""

MOST_LARGE_EACH: Final = 8
"""Requests with large bodies."""


class Crowds:
    """Counts requests under way by identity."""

    def __init__(self, most: int = MOST_EACH, most_large: int = MOST_LARGE_EACH) -> None:
        self._small, self._large = Crowd(most, TOO_MANY_AT_ONCE), Crowd(most_large, TOO_MANY_AT_ONCE)

    def place(self, who: SpiffeId | None, *, large: bool) -> AbstractContextManager[None]:
        """One more, while this lasts.  Raises: VST5213."""
        return (self._large if large else self._small).place(who)
