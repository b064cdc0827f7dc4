"""Answers that wait under a token, to be opened once.

Who hands a secret on through others gives them only the token; that it was opened on the way, the receiver notices.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.codes import WRAPPING_INVALID, WRAPPING_UNFIT
from vestibule.store.barrier import Barrier, Item, Put, Remove
from vestibule.store.codes import CONFLICT
from vestibule.store.sweeping import sweeping, swept

SPACE: Final = "wrapping"
PREFIX: Final = "hvw."
"""What wrapping tokens begin with: they are no logins, though clients send them in the same header."""

LONGEST: Final = timedelta(days=1)

_PURPOSE: Final = "wrapping-token"
_LONGEST_TEXT: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """What is told of a wrapped answer; ``token`` is a secret, and empty where it is only looked at."""

    accessor: str
    created: datetime
    ttl: timedelta
    path: str
    creator: str
    token: str = field(default="", repr=False)


class Wrapping:
    """Keeps answers in the barrier.  Every method raises VST5000 while that is sealed."""

    def __init__(self, barrier: Barrier, clock: Clock) -> None:
        self._barrier = barrier
        self._clock = clock

    async def wrap(self, answer: bytes, ttl: timedelta, *, path: str, creator: str) -> Wrapped:
        """Keep an answer (a secret) for ``ttl``.  Raises: VST5553."""
        if not timedelta(seconds=1) <= ttl <= LONGEST:
            raise WRAPPING_UNFIT.error("a wrapped answer lasts between one second and a day")
        wrapped = self._new(ttl, path, creator)
        await self._barrier.apply([self._put(wrapped, answer)])
        return wrapped

    async def unwrap(self, token: str) -> tuple[bytes, Wrapped]:
        """The answer, which is forgotten, and what was told of it.  Of several who ask, one gets it.

        Raises: VST5552.
        """
        item, wrapped = await self._found(token)
        await self._taken(token, item)
        return _answer(item), wrapped

    async def lookup(self, token: str) -> Wrapped:
        """What waits under a token: when and by whom it was wrapped, not what it is.  Raises: VST5552."""
        return (await self._found(token))[1]

    async def rewrap(self, token: str) -> tuple[Wrapped, Wrapped]:
        """The same answer under a new token, for as long again: the old one, and the new one.  Raises: VST5552."""
        item, old = await self._found(token)
        new = self._new(old.ttl, old.path, old.creator)
        await self._taken(token, item, self._put(new, _answer(item)))
        return old, new

    def _new(self, ttl: timedelta, path: str, creator: str) -> Wrapped:
        return Wrapped(
            token=PREFIX + secrets.token_urlsafe(32),
            accessor=secrets.token_urlsafe(18),
            created=self._clock.now(),
            ttl=ttl,
            path=path,
            creator=creator,
        )

    def _put(self, wrapped: Wrapped, answer: bytes) -> Put:
        return Put(space=SPACE, key=self._key(wrapped.token), value=_kept(wrapped, answer), expected=0)

    async def _taken(self, token: str, item: Item, *instead: Put) -> None:
        """Forget what waits under a token; with it, all or nothing, something else is kept."""
        gone = Remove(space=SPACE, key=self._key(token), expected=item.revision)
        try:
            await self._barrier.apply([gone, *instead])
        except VestibuleError as error:
            if error.code is not CONFLICT:
                raise
            raise WRAPPING_INVALID.error("the wrapping token was opened by another just now") from None

    async def run(self) -> None:
        """Forget what nobody has opened in time."""
        await sweeping(self._barrier, self._clock, self.sweep)

    async def sweep(self) -> int:
        """Forget what nobody has opened in time; how many answers."""
        return await swept(self._barrier, SPACE, self._clock.now(), _end)

    async def _found(self, token: str) -> tuple[Item, Wrapped]:
        if not token.startswith(PREFIX) or len(token) > _LONGEST_TEXT or not token.isascii():
            raise WRAPPING_INVALID.error("it is no wrapping token")
        item = await self._barrier.get(SPACE, self._key(token))
        if item is None or _end(item.value) <= self._clock.now():
            raise WRAPPING_INVALID.error("the wrapping token was opened, has ended, or never was")
        return item, _told(item.value)

    def _key(self, token: str) -> str:
        """Who reads the database learns no token from it."""
        return self._barrier.mac(_PURPOSE, token.encode()).hex()


def _kept(wrapped: Wrapped, answer: bytes) -> bytes:
    said = {
        "accessor": wrapped.accessor,
        "created": wrapped.created.timestamp(),
        "ttl": wrapped.ttl.total_seconds(),
        "path": wrapped.path,
        "creator": wrapped.creator,
        "answer": b64encode(answer).decode(),
    }
    return json.dumps(said).encode()


def _answer(item: Item) -> bytes:
    return b64decode(json.loads(item.value)["answer"])


def _told(value: bytes) -> Wrapped:
    said = json.loads(value)
    return Wrapped(
        accessor=said["accessor"],
        created=datetime.fromtimestamp(said["created"], UTC),
        ttl=timedelta(seconds=said["ttl"]),
        path=said["path"],
        creator=said["creator"],
    )


def _end(value: bytes) -> datetime:
    told = _told(value)
    return told.created + told.ttl
