"""Assertions that count once (RFC 7523, section 3): which were shown, on whichever server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.store.barrier import Barrier, Put
from vestibule.store.codes import CONFLICT
from vestibule.store.sweeping import swept
from vestibule.tokens.codes import REPLAYED
from vestibule.tokens.jwts import SKEW

SPACE: Final = "tokens-shown"
_PURPOSE: Final = "token-assertion"


class Replays:
    """Remembers assertions until they have ended anyway.  Without the database nothing counts."""

    def __init__(self, barrier: Barrier, clock: Clock) -> None:
        self._barrier = barrier
        self._clock = clock

    async def once(self, issuer: str, name: bytes, ends: datetime) -> None:
        """The first time nothing happens.  ``name`` tells the issuer's assertions apart.  Raises: VST6008."""
        key = self._barrier.mac(_PURPOSE, json.dumps([issuer, name.hex()]).encode()).hex()
        value = str((ends + 2 * SKEW).timestamp()).encode()
        try:
            await self._barrier.apply([Put(space=SPACE, key=key, value=value, expected=0)])
        except VestibuleError as error:
            if error.code is not CONFLICT:
                raise
            raise REPLAYED.error("the assertion was shown before") from None

    async def sweep(self) -> int:
        """Forget assertions that have ended; how many."""
        return await swept(self._barrier, SPACE, self._clock.now(), _end)


def _end(value: bytes) -> datetime:
    return datetime.fromtimestamp(float(value), UTC)
