"""Tokens that were got and still last: one request at a time for each, and the next one before the end."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from datetime import datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.sdk.oauth.answers import Token
from vestibule.sdk.oauth.errors import TokensError

RENEW_AT: Final = 2 / 3
"""Of a token's life: from then on another one is got in the background."""

LAST: Final = 1 / 20
MARGIN: Final = timedelta(seconds=10)
"""So long before its end, or the last twentieth of its life, nobody starts a request with a token."""

RETRY: Final = timedelta(seconds=5)
MOST: Final = 1000
"""Tokens that are kept; beyond, those that were not used for the longest are forgotten."""

Fetch = Callable[[], Awaitable[Token]]
_log = logging.getLogger(__name__)


class TokenCache:
    """By what was asked for.  In one event loop; ``close`` in the same."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, Token] = OrderedDict()
        self._flights: dict[Hashable, asyncio.Task[Token]] = {}
        self._not_before: dict[Hashable, datetime] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: Hashable, fetch: Fetch) -> Token:
        """A token that lasts.  Raises: what ``fetch`` raises, where none is kept that would do."""
        now, kept = self._clock.now(), self._kept.get(key)
        if kept is None or now >= kept.ends - min(MARGIN, kept.lasts * LAST):
            # Whoever stops waiting does not take it from the others.
            return await asyncio.shield(self._flight(key, fetch))
        self._kept.move_to_end(key)
        if now >= kept.taken + kept.lasts * RENEW_AT and now >= self._not_before.get(key, now):
            self._flight(key, fetch)
        return kept

    def forget(self, token: Token) -> None:
        """It is not given out again."""
        for key in [key for key, kept in self._kept.items() if kept.text == token.text]:
            del self._kept[key]

    async def close(self) -> None:
        """Forget all, and wait for nothing."""
        flights = set(self._flights.values())
        for each in flights:
            each.cancel()
        if flights:
            await asyncio.wait(flights)
        self._kept.clear()
        self._not_before.clear()

    def _flight(self, key: Hashable, fetch: Fetch) -> asyncio.Task[Token]:
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.create_task(self._fetched(key, fetch), name="oauth-token")
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def _fetched(self, key: Hashable, fetch: Fetch) -> Token:
        token = await fetch()
        self._kept[key] = token
        self._kept.move_to_end(key)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return token

    def _landed(self, key: Hashable, done: asyncio.Task[Token]) -> None:
        del self._flights[key]
        self._not_before.pop(key, None)
        if done.cancelled() or (error := done.exception()) is None:
            return
        if key in self._kept:
            self._not_before[key] = self._clock.now() + RETRY
            if isinstance(error, TokensError):
                _log.warning("a token that ends soon is not replaced yet: %s", error)
