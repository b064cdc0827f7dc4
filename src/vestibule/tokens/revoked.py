"""The list of revoked tokens: kept in the barrier until nothing on it could still live, known to every server.

Entries are numbered, and the number of the last one stands in a row of its own: who follows reads only what is new.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.store.barrier import Barrier, Change, Put
from vestibule.store.codes import CONFLICT
from vestibule.store.sweeping import swept
from vestibule.tokens.chain import actors_of
from vestibule.tokens.codes import BUSY, TOO_MANY_REVOKED
from vestibule.tokens.jwts import SKEW
from vestibule.tokens.news import News
from vestibule.tokens.permission import LONGEST_LIFE
from vestibule.tokens.ports import RevokedBy, RevokedTokens

SPACE: Final = "tokens-revoked"
HEAD: Final = ("tokens", "revoked")
MOST: Final = 10_000
"""Entries; beyond that only keys are revoked, with which everything ends."""
MOST_TOKENS: Final = 8_000
"""Of them, single tokens: what clients do leaves room for what operators have to do."""
MOST_OF_CLIENT: Final = 200
"""Single tokens that one client revokes; with the next one it revokes all that it has."""
LAG: Final = timedelta(seconds=1)
"""For so long, at least, no server makes what would outlive a revocation by client or subject: until it is kept, and
known to all servers, somebody could still get a newer token in exchange for one that is revoked."""
_ATTEMPTS: Final = 16
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry.  ``whose`` is the client that asked for it, empty for operators."""

    revoked: RevokedTokens
    whose: str = ""


class RevokedList:
    """``ports.RevokedSource``."""

    def __init__(self, barrier: Barrier, clock: Clock) -> None:
        self._barrier = barrier
        self._clock = clock
        self._news = News()
        self._changing = asyncio.Lock()
        self._seen = (0, 0)  # revision of the head, number of the last entry
        self._known: dict[tuple[RevokedBy, str], Entry] = {}
        self.now: tuple[RevokedTokens, ...] = ()

    @property
    def revision(self) -> int:
        """Grows with each change."""
        return self._news.revision

    async def changed(self, since: int) -> int:
        """Return once ``revision`` is another than ``since``."""
        return await self._news.changed(since)

    def covers(self, claims: Mapping[str, Any], key_id: str) -> RevokedTokens | None:
        """What revokes a token with these claims, signed by that key; None if nothing does."""
        if not self._known:
            return None
        for by, value in _traits(claims, key_id):
            entry = self._known.get((by, value))
            if entry is not None and _issued(claims) < entry.revoked.before:
                return entry.revoked
        return None

    def begins(self, now: datetime, *traits: tuple[RevokedBy, str]) -> datetime:
        """When a token with these traits may be made that is not revoked already: ``now``, or within two seconds."""
        entries = (self._known.get(each) for each in traits) if self._known else ()
        return max([now, *(each.revoked.before for each in entries if each is not None)])

    # ----------------------------------------------------------------------------------------------- changing

    async def add(self, by: RevokedBy, value: str, reason: str = "", *, whose: str = "") -> RevokedTokens:
        """All tokens until now that have this in common are revoked.  Raises: VST6033, VST6034, the barrier's."""
        async with self._changing:
            await self.look()
            for _ in range(_ATTEMPTS):
                adding = self.adding(by, value, reason, whose=whose)
                try:
                    adding.kept(await self._barrier.apply(adding.changes()))
                except VestibuleError as error:
                    if error.code is not CONFLICT:
                        raise
                    await self.look()
                else:
                    return adding.revoked
        raise BUSY.error("the list of revoked tokens was changed by other servers again and again")

    def adding(self, by: RevokedBy, value: str, reason: str = "", *, whose: str = "") -> Adding:
        """An entry that is to be kept by somebody else, together with another change.  Raises: VST6033."""
        if whose and self._counted(whose) >= MOST_OF_CLIENT:
            by, value = RevokedBy.CLIENT, whose
            reason = f"it revoked more than {MOST_OF_CLIENT} of its tokens"
        self._check_room(by)
        return Adding(self, Entry(revoked=revocation(by, value, reason, self._clock.now()), whose=whose))

    @property
    def seen(self) -> tuple[int, int]:
        """The revision of the head, and the number of the last entry, that are known here."""
        return self._seen

    def know(self, entry: Entry, seen: tuple[int, int]) -> None:
        """An entry is kept, and the head stands there."""
        self._seen = max(self._seen, seen)
        self._know([entry])

    async def look(self) -> None:
        """See what other servers have added.  Raises: what the barrier raises."""
        head = await self._barrier.get(*HEAD)
        if head is None or head.revision == self._seen[0]:
            return
        number = int(head.value)
        # A lower number is an older copy of the database: all of it is read anew.
        found = [each async for each in self._after(self._seen[1] if self._seen[1] <= number else 0)]
        self._seen = head.revision, number
        self._know(found)

    async def _after(self, number: int) -> AsyncIterator[Entry]:
        after = _key(number) if number else ""
        while keys := await self._barrier.keys(SPACE, after=after, limit=_PAGE):
            after = keys[-1]
            for key in keys:
                if (item := await self._barrier.get(SPACE, key)) is not None:
                    yield _decoded(item.value)

    async def sweep(self) -> int:
        """Forget in the database what could not live any more: for the server that leads; how much."""
        return await swept(
            self._barrier, SPACE, self._clock.now(), lambda value: _decoded(value).revoked.until
        )

    def forget_ended(self) -> None:
        """Forget here what could not live any more."""
        now = self._clock.now()
        if any(each.until <= now for each in self.now):
            self._know([])

    # ------------------------------------------------------------------------------------------------ inside

    def _counted(self, whose: str) -> int:
        return Counter(each.whose for each in self._known.values() if each.revoked.by is RevokedBy.TOKEN)[
            whose
        ]

    def _check_room(self, by: RevokedBy) -> None:
        self.forget_ended()
        tokens = sum(each.by is RevokedBy.TOKEN for each in self.now)
        full = len(self.now) >= MOST or (by is RevokedBy.TOKEN and tokens >= MOST_TOKENS)
        if full and by is not RevokedBy.KEY:
            raise TOO_MANY_REVOKED.error(f"{len(self.now)} entries are on the list of revoked tokens")

    def _know(self, entries: list[Entry]) -> None:
        now = self._clock.now()
        for each in entries:
            there = self._known.get((each.revoked.by, each.revoked.value))
            if there is None or there.revoked.before <= each.revoked.before:
                self._known[each.revoked.by, each.revoked.value] = each
        self._known = {key: each for key, each in self._known.items() if now < each.revoked.until}
        self.now = tuple(each.revoked for each in self._known.values())
        self._news.tell()


class Adding:
    """One entry that is about to be kept."""

    def __init__(self, revoked: RevokedList, entry: Entry) -> None:
        self._list = revoked
        self._entry = entry
        self._number = 0

    @property
    def revoked(self) -> RevokedTokens:
        """What will be revoked."""
        return self._entry.revoked

    async def look(self) -> None:
        """See what other servers have added."""
        await self._list.look()

    def changes(self) -> list[Change]:
        """What has to be kept: the entry, and that it is the last one."""
        revision, number = self._list.seen
        self._number = number + 1
        space, key = HEAD
        return [
            Put(space=space, key=key, value=str(self._number).encode(), expected=revision),
            Put(space=SPACE, key=_key(self._number), value=_encoded(self._entry), expected=0),
        ]

    def kept(self, revisions: Sequence[int]) -> None:
        """It is kept."""
        self._list.know(self._entry, (revisions[0], self._number))


def revocation(by: RevokedBy, value: str, reason: str, now: datetime) -> RevokedTokens:
    """Of all tokens until now.

    Times in tokens are whole seconds: those of the second that has begun are revoked, too, with those of the next, in
    which servers may not know of it yet (``LAG``); ``begins`` makes new ones wait for what follows.  A single token, or
    what a key has signed, is revoked whenever it says that it was made.
    """
    until = now + LONGEST_LIFE + 2 * SKEW
    next_second = now.replace(microsecond=0) + timedelta(seconds=1) + LAG
    always = by in (RevokedBy.TOKEN, RevokedBy.KEY)
    return RevokedTokens(
        by=by, value=value, before=until if always else next_second, until=until, reason=reason
    )


def _traits(claims: Mapping[str, Any], key_id: str) -> Iterator[tuple[RevokedBy, str]]:
    yield RevokedBy.KEY, key_id
    yield RevokedBy.TOKEN, str(claims.get("jti"))
    yield RevokedBy.TOKEN, str(claims.get("txn"))
    yield RevokedBy.SUBJECT, str(claims.get("sub"))
    yield RevokedBy.CLIENT, str(claims.get("sub"))  # what others got for its own token
    yield RevokedBy.CLIENT, str(claims.get("client_id"))
    for actor in actors_of(claims):
        yield RevokedBy.CLIENT, actor


def _issued(claims: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(claims["iat"], UTC)


def _key(number: int) -> str:
    return f"{number:016d}"


def _encoded(entry: Entry) -> bytes:
    revoked = entry.revoked
    said = {
        "by": revoked.by.value,
        "value": revoked.value,
        "before": revoked.before.timestamp(),
        "until": revoked.until.timestamp(),
        "reason": revoked.reason,
        "whose": entry.whose,
    }
    return json.dumps(said).encode()


def _decoded(value: bytes) -> Entry:
    said = json.loads(value)
    return Entry(
        revoked=RevokedTokens(
            by=RevokedBy(said["by"]),
            value=said["value"],
            before=datetime.fromtimestamp(said["before"], UTC),
            until=datetime.fromtimestamp(said["until"], UTC),
            reason=said["reason"],
        ),
        whose=said["whose"],
    )
