"""How much of the secret manager one identity may take at a time, so that it cannot take all of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
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
        self._small, self._large = _Room(most), _Room(most_large)

    def place(self, who: SpiffeId | None, *, large: bool) -> AbstractContextManager[None]:
        """One more, while this lasts.  Raises: VST5213."""
        return _Place(self._large if large else self._small, who)


class _Room:
    """How many requests of each identity are under way, of those of one size."""

    __slots__ = ("most", "under_way")

    def __init__(self, most: int) -> None:
        self.most = most
        self.under_way: dict[SpiffeId | None, int] = {}


class _Place:
    """Of one request.  Not a generator, which would take longer: there is one with every read of a secret."""

    __slots__ = ("_room", "_who")

    def __init__(self, room: _Room, who: SpiffeId | None) -> None:
        self._room = room
        self._who = who

    def __enter__(self) -> None:
        room = self._room
        number = room.under_way.get(self._who, 0)
        if number >= room.most:
            raise TOO_MANY_AT_ONCE.error(f"{room.most} such requests of this identity are under way")
        room.under_way[self._who] = number + 1

    def __exit__(self, *_: object) -> None:
        under_way = self._room.under_way
        if (number := under_way[self._who]) > 1:
            under_way[self._who] = number - 1
        else:
            del under_way[self._who]
