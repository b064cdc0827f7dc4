"""The list of what is revoked, as the server keeps it: durable, growing in version, told to whoever waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon, first
from vestibule.identity.codes import REVOCATION_NOT_KEPT
from vestibule.spiffe import Revocation, Revocations
from vestibule.store import Store

PRUNE_EVERY: Final = timedelta(minutes=10)
RETRY_EVERY: Final = timedelta(seconds=2)
KEPT_AFTER: Final = timedelta(days=7)
"""How long what is over stays on the list: that it is over is said by a clock that may be wrong for a while, and what
was forgotten then would count again once the clock is right."""
LATEST_HEARSAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


class RevocationList:
    """Holds the list.  What is on it was put there by ``identity.revocation``, which records it before.

    Other servers of the same database put theirs there, too; the store's change feed tells.
    """

    def __init__(self, store: Store, clock: Clock, elsewhere: Callable[[], None] = lambda: None) -> None:
        """``elsewhere`` hears when the list grew by what another server put on it."""
        self._elsewhere = elsewhere
        self._store = store
        self._clock = clock
        self._now = Revocations()
        self._heard = 0
        self._unkept: dict[str, Revocation] = {}
        self._writing = asyncio.Lock()
        self._beacon = Beacon()
        self._changes = store.changes.subscribe("revocations")

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of the store."""
        kept = await self._store.revocations.all()
        self._now = Revocations(max((each.version for each in kept), default=0), tuple(kept))

    async def run(self) -> None:
        """Follow the store, forget what is over, and write down what could not be written."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="revocations-follow")
            tasks.create_task(self._tidy(), name="revocations-tidy")

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
        """Put revocations on the list, or change them; in force when this returns, and also when it raises.

        Raises: VST1254 when they could not be kept; that is tried again.
        """
        async with self._writing:
            version = self._next_version()
            stamped = [replace(each, version=version + n) for n, each in enumerate(changes)]
            # In force first: whoever fills our disk must not thereby keep what should be taken back.
            self._now = self._now.merged(stamped, version, self._forgotten())
            self._beacon.advance()
            try:
                await self._store.revocations.put(*self._unkept.values(), *stamped)
            except VestibuleError as error:
                self._unkept |= {each.id: each for each in stamped}
                raise REVOCATION_NOT_KEPT.error(f"not written down: {error.message}") from error
            self._unkept.clear()
            return self._now

    async def prune(self) -> None:
        """Forget what is over.  A failure of the store is logged: it costs room, nothing else."""
        async with self._writing:
            before = self._forgotten()
            first_end = self._now.next_expiry()
            if first_end is None or first_end > before:
                return
            try:
                await self._store.revocations.prune(before)
            except VestibuleError as error:
                _log.error("cannot forget revocations that are over: %s", error)
            self._now = self._now.merged((), 0, before)

    async def catch_up(self) -> None:
        """Take what another server of this database put on the list.  Raises: errors of the store."""
        if await self._store.revocations.version() <= self._now.version:
            return
        kept = await self._store.revocations.all()
        after = self._now.merged(kept, 0, self._forgotten())
        if after is not self._now:
            self._now = after
            self._beacon.advance()
            self._elsewhere()

    def hear(self, version: int) -> None:
        """Somebody knows the list up to ``version``.

        More than we do, after our database was restored from a backup: versions to come must be above it, or they
        would not be taken for news.  What is said of the far future is not believed.
        """
        latest = _microseconds(self._clock.now() + LATEST_HEARSAY)
        if self._now.version < version <= latest:
            self._heard = max(self._heard, version)

    async def _follow(self) -> None:
        await self.catch_up()
        async for _ in self._changes:
            await self.catch_up()

    async def _tidy(self) -> None:
        while True:
            await self.prune()
            await self._keep()
            pause = RETRY_EVERY if self._unkept else PRUNE_EVERY
            seen = self._beacon.value
            await first(self._clock.sleep_until(self._clock.now() + pause), self._beacon.changed(seen))

    async def _keep(self) -> None:
        async with self._writing:
            if not self._unkept:
                return
            try:
                await self._store.revocations.put(*self._unkept.values())
            except VestibuleError as error:
                _log.error("revocations are still not written down: %s", error)
            else:
                self._unkept.clear()

    def _forgotten(self) -> datetime:
        """What was over before this instant is forgotten."""
        return self._clock.now() - KEPT_AFTER

    def _next_version(self) -> int:
        # From the time, so that versions after a restored backup are above those before it.
        return max(self._now.version + 1, self._heard + 1, _microseconds(self._clock.now()))


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
