"""The list of what is revoked, as the server keeps it: durable, growing in version, told to whoever waits."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon, first
from vestibule.spiffe import Revocation, Revocations
from vestibule.store import Store

PRUNE_EVERY: Final = timedelta(minutes=10)
LATEST_HEARSAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


class RevocationList:
    """Holds the list.  What is on it was put there by ``identity.revocation``, which records it before."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._now = Revocations()
        self._heard = 0
        self._writing = asyncio.Lock()
        self._beacon = Beacon()

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of the store."""
        kept = await self._store.revocations.all()
        self._now = Revocations(max((each.version for each in kept), default=0), tuple(kept))

    async def run(self) -> None:
        """Forget what is over."""
        while True:
            seen = self._beacon.value
            await self.prune()
            due = self._clock.now() + PRUNE_EVERY
            await first(self._clock.sleep_until(due), self._beacon.changed(seen))

    @property
    def now(self) -> Revocations:
        """The list."""
        return self._now

    @property
    def revision(self) -> int:
        """Counts the changes seen by this process."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    async def add(self, *changes: Revocation) -> Revocations:
        """Put revocations on the list, or change them; in force when this returns.  Raises: errors of the store."""
        async with self._writing:
            version = self._next_version()
            stamped = [replace(each, version=version + n) for n, each in enumerate(changes)]
            await self._store.revocations.put(*stamped)
            self._now = self._now.merged(stamped, version, self._clock.now())
            self._beacon.advance()
            return self._now

    async def prune(self) -> None:
        """Forget what is over.  A failure of the store is logged: it costs room, nothing else."""
        async with self._writing:
            now = self._clock.now()
            if not any(each.is_over(now) for each in self._now.entries):
                return
            try:
                await self._store.revocations.prune(now)
            except VestibuleError as error:
                _log.error("cannot forget revocations that are over: %s", error)
            self._now = self._now.merged((), 0, now)

    def hear(self, version: int) -> None:
        """Somebody knows the list up to ``version``.

        More than we do, after our database was restored from a backup: versions to come must be above it, or they
        would not be taken for news.  What is said of the far future is not believed.
        """
        latest = _microseconds(self._clock.now() + LATEST_HEARSAY)
        if self._now.version < version <= latest:
            self._heard = max(self._heard, version)

    def _next_version(self) -> int:
        # From the time, so that versions after a restored backup are above those before it.
        return max(self._now.version + 1, self._heard + 1, _microseconds(self._clock.now()))


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
