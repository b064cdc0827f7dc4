"""How much of a service one identity may take at a time, so that it cannot take all of it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from vestibule.errors import ErrorCode
from vestibule.spiffe import SpiffeId


class Crowd:
    """Counts requests under way by identity; ``most`` of each, and ``refusal`` is for one more."""

    __slots__ = ("most", "refusal", "under_way")

    def __init__(self, most: int, refusal: ErrorCode) -> None:
        self.most = most
        self.refusal = refusal
        self.under_way: dict[SpiffeId | None, int] = {}

    def place(self, who: SpiffeId | None) -> AbstractContextManager[None]:
        """One more, while this lasts.  Raises: ``refusal``."""
        return _Place(self, who)


class _Place:
    """Of one request.  Not a generator, which would take longer: there is one with every read of a secret."""

    __slots__ = ("_crowd", "_who")

    def __init__(self, crowd: Crowd, who: SpiffeId | None) -> None:
        self._crowd = crowd
        self._who = who

    def __enter__(self) -> None:
        crowd = self._crowd
        number = crowd.under_way.get(self._who, 0)
        if number >= crowd.most:
            raise crowd.refusal.error(f"{crowd.most} such requests of this identity are under way")
        crowd.under_way[self._who] = number + 1

    def __exit__(self, *_: object) -> None:
        under_way = self._crowd.under_way
        if (number := under_way[self._who]) > 1:
            under_way[self._who] = number - 1
        else:
            del under_way[self._who]
