"""The issuer's keys, as a verifier keeps them: fetched when they are needed, and good until newer ones come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.sdk.codes import NO_TOKEN_KEYS
from vestibule.sdk.oauth.access_tokens import Keys, keys_of

OLD: Final = timedelta(minutes=5)
"""After so long they are fetched anew, in the background: the token service shows keys longer before it uses them."""

PAUSE: Final = timedelta(seconds=10)
"""Between two fetches, whatever strangers' tokens call their keys."""

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]
_log = logging.getLogger(__name__)


class IssuerKeys:
    """In one event loop.  While the issuer is away, what it said last holds."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        """``fetch`` gives a JWK set."""
        self._fetch = fetch
        self._clock = clock
        self._keys: Keys = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._flight: asyncio.Task[None] | None = None
        self._problem = ""

    async def for_key(self, key_id: str) -> Keys:
        """The keys, fetched anew if that one is not among them.  Raises: VST6125 if there never were any."""
        if key_id not in self._keys and self._may_try():
            await asyncio.shield(self._refresh())
        elif self._fetched_at is not None and self._clock.now() - self._fetched_at >= OLD and self._may_try():
            self._refresh()
        elif self._fetched_at is None and self._flight is not None:
            await asyncio.shield(self._flight)
        if self._fetched_at is None:
            raise NO_TOKEN_KEYS.error(f"the keys of the token service cannot be had: {self._problem}")
        return self._keys

    async def close(self) -> None:
        """Fetch nothing any more."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait({self._flight})

    def _may_try(self) -> bool:
        return self._flight is not None or (
            self._tried_at is None or self._clock.now() - self._tried_at >= PAUSE
        )

    def _refresh(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._tried_at = self._clock.now()
            self._flight = asyncio.create_task(self._fetched(), name="oauth-keys")
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _fetched(self) -> None:
        try:
            found = keys_of(await self._fetch())
        except VestibuleError as error:
            self._failed(str(error))
            return
        if not found:
            self._failed("it shows none, perhaps because the secret manager is sealed")
            return
        self._keys, self._fetched_at, self._problem = found, self._clock.now(), ""

    def _failed(self, why: str) -> None:
        if why != self._problem:
            _log.warning("the keys of the token service are not fetched: %s", why)
        self._problem = why
