"""The names of users and groups, remembered for a moment: they may come from a directory server."""

from __future__ import annotations

import asyncio
import grp
import pwd
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

KEPT: Final = 60.0
"""Seconds that a name, or that there is none, is believed without asking again."""
_REMEMBERED: Final = 4096

_Key = tuple[str, int]


class Names:
    """Looks names up without stopping the event loop, and seldom."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, tuple[str, float]] = OrderedDict()

    async def of(self, uid: int, gids: Iterable[int]) -> Names:
        """Know the names of these; ``user`` and ``group`` then answer at once."""
        now = asyncio.get_running_loop().time()
        wanted: list[_Key] = [("user", uid), *(("group", gid) for gid in gids)]
        missing = [key for key in wanted if self._known.get(key, ("", now))[1] <= now]
        if missing:
            found = await asyncio.to_thread(lambda: [_LOOKUPS[kind](number) for kind, number in missing])
            for key, name in zip(missing, found, strict=True):
                self._known[key] = name, now + KEPT
                self._known.move_to_end(key)
            while len(self._known) > max(_REMEMBERED, len(wanted)):
                self._known.popitem(last=False)
        return self

    def user(self, uid: int) -> str:
        """The name of a user that ``of`` was asked for; empty if there is none."""
        return self._known.get(("user", uid), ("", 0.0))[0]

    def group(self, gid: int) -> str:
        """The name of a group, likewise."""
        return self._known.get(("group", gid), ("", 0.0))[0]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        # A uid without a name is normal in containers.
        return ""


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


_LOOKUPS: Final[dict[str, Callable[[int], str]]] = {"user": _user, "group": _group}
