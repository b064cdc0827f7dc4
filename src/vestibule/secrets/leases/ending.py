"""How leases end: marked first, then taken away where the credential is used, then forgotten; tried until it works."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.leases.book import Kept, LeaseBook
from vestibule.secrets.leases.codes import NOT_IN_TIME, UNKNOWN_LEASE
from vestibule.secrets.leases.ports import LeasedEngine, Record
from vestibule.secrets.leases.records import Lane, Lease, LeaseState
from vestibule.secrets.waiting import until
from vestibule.store.codes import CONFLICT

ACTOR: Final = "server"
"""Who ends a lease in time."""
EXPIRED: Final = "expired"
UNFINISHED: Final = "never handed out"
PATIENCE: Final = timedelta(seconds=90)
"""How long a credential may take until its owner has it; a lease that is pending for longer is given up.

What was asked of a database before that cannot happen any more after it.
"""
ATTEMPT_SECONDS: Final = 25.0
"""An attempt that hangs for longer has failed."""
FIRST_RETRY: Final = timedelta(seconds=1)
LAST_RETRY: Final = timedelta(minutes=1)
LOOK_EVERY: Final = timedelta(seconds=2)
"""Another server may have begun, or ended, a lease that is due before all that are known."""
COUNT_EVERY: Final = timedelta(seconds=30)
BATCH: Final = 200
SIDE_BY_SIDE: Final = 4
"""Attempts at one target at a time."""
MOST_COUNTED: Final = 1_000_000

_log = logging.getLogger(__name__)


def retry_after(attempts: int) -> timedelta:
    """How long to wait after so many failures in a row."""
    return min(FIRST_RETRY * (1 << min(attempts - 1, 16)), LAST_RETRY)


class Endings:
    """Ends leases that are due, on the one server that leads, and those that somebody wants ended now, on any."""

    def __init__(
        self,
        book: LeaseBook,
        engines: Mapping[str, LeasedEngine],
        clock: Clock,
        record: Record,
        leads: Callable[[], bool],
    ) -> None:
        self._book = book
        self._engines = engines
        self._clock = clock
        self._record = record
        self._leads = leads
        self._wake = asyncio.Event()
        self._counted: datetime | None = None
        self.counts: dict[str, int] = {lane.value: 0 for lane in Lane}
        """Leases by lane, as of a moment ago, on the server that leads."""
        self.failures = 0
        """Attempts that did not work, since the start."""

    def wake(self) -> None:
        """Something is due that was not foreseen."""
        self._wake.set()

    async def run(self) -> None:
        """End what is due, for ever."""
        while True:
            self._wake.clear()
            try:
                again = await self.round()
            except VestibuleError as error:
                _log.warning("leases cannot be looked after now: %s", error)
                again = self._clock.now() + LOOK_EVERY
            await until(self._clock, again, self._wake)

    async def round(self) -> datetime:
        """End all that is due; when to look again, at the latest."""
        now = self._clock.now()
        if self._book.is_sealed or not self._leads():
            return now + LOOK_EVERY
        found = [each for lane in Lane for each in await self._book.due(lane, now, BATCH)]
        await self.end(found)
        await self._count(now)
        if len(found) >= BATCH:
            return now
        nexts = [await self._book.next_due(lane) for lane in Lane]
        return min([now + LOOK_EVERY, *(each for each in nexts if each is not None)])

    async def mark(self, kept: Kept, reason: str) -> Kept:
        """From here on the lease is over; its credential goes as soon as possible.  Raises: VST5001."""
        lease = kept.lease
        if lease.state is LeaseState.REVOKING:
            return kept
        over = replace(lease, state=LeaseState.REVOKING, due=self._clock.now(), reason=reason)
        return await self._book.put(over, kept)

    async def end(self, lease_ids: Iterable[str]) -> None:
        """Try each once; a target that cannot be reached is tried once for all of its leases."""
        targets: dict[str, list[Kept]] = defaultdict(list)
        for lease_id in lease_ids:
            if (kept := await self._book.get(lease_id)) is not None:
                targets[kept.lease.target].append(kept)
        async with asyncio.TaskGroup() as group:
            for each in targets.values():
                group.create_task(self._end_all(each), name="ending leases")

    async def _end_all(self, leases: Sequence[Kept]) -> None:
        waiting = list(reversed(leases))
        while waiting:
            together = [waiting.pop() for _ in range(min(SIDE_BY_SIDE, len(waiting)))]
            outcomes = await asyncio.gather(*(self._attempt_due(each) for each in together))
            down = next((each for each in outcomes if each is not None and _is_down(each)), None)
            if down is not None:
                _log.warning("%d more leases of %s wait: %s", len(waiting), leases[0].lease.target, down)
                for each in waiting:
                    await self._quietly(self._fail(each, down))
                return

    async def _attempt_due(self, kept: Kept) -> VestibuleError | None:
        try:
            return await self.attempt(kept)
        except VestibuleError as error:
            # Renewed, or ended by another server, meanwhile; or the store does not answer: it stays due.
            if error.code is not CONFLICT:
                _log.warning("lease %s cannot be ended now: %s", kept.lease.id, error)
            return None

    async def attempt(self, kept: Kept) -> VestibuleError | None:
        """Take the credential away and forget the lease, or remember why that did not work, and return it.

        Raises: VST5001 when the lease is changed by somebody else, errors of the store.
        """
        if kept.lease.state is not LeaseState.REVOKING:
            reason = EXPIRED if kept.lease.state is LeaseState.ACTIVE else UNFINISHED
            kept = await self.mark(kept, reason)
        problem = await self._revoked(kept.lease)
        if problem is not None:
            self.failures += 1
            await self._fail(kept, problem, tried=True)
            return problem
        over = kept.lease.issued + PATIENCE
        if not kept.lease.told and self._clock.now() < over:
            # What was given up may still be on its way to the database: it is looked for once more.
            await self._book.put(replace(kept.lease, due=over, problem=""), kept)
            return None
        await self._tell(kept.lease, "ok")
        await self._book.remove(kept)
        _log.info("lease %s of %s has ended: %s", kept.lease.id, kept.lease.owner, kept.lease.reason)
        return None

    async def _revoked(self, lease: Lease) -> VestibuleError | None:
        engine = self._engines.get(lease.mount)
        if engine is None:
            return UNKNOWN_LEASE.error(f"nobody here revokes leases of {lease.mount}/")
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await engine.revoke(lease)
        except TimeoutError:
            return NOT_IN_TIME.error(f"{lease.target} did not answer within {ATTEMPT_SECONDS:.0f} s")
        except VestibuleError as error:
            return error
        return None

    async def _fail(self, kept: Kept, problem: VestibuleError, *, tried: bool = False) -> None:
        lease, now = kept.lease, self._clock.now()
        attempts = lease.attempts + 1 if tried else max(lease.attempts, 1)
        failed = replace(
            lease,
            state=LeaseState.REVOKING,
            reason=lease.reason or EXPIRED,
            attempts=attempts,
            problem=str(problem),
            due=now + retry_after(attempts),
        )
        await self._book.put(failed, kept)
        if not lease.problem:
            if tried:
                _log.warning("lease %s has ended but is not revoked yet: %s", lease.id, problem)
            await self._tell(failed, problem.code.code)

    async def _tell(self, lease: Lease, outcome: str) -> None:
        event = AuditEvent(
            actor=ACTOR,
            action="lease.revoke",
            subject=lease.id,
            outcome=outcome,
            details={"owner": str(lease.owner), "reason": lease.reason, "attempts": lease.attempts + 1},
        )
        try:
            await self._record([event])
        except VestibuleError as error:
            # What takes away goes on without the log.
            _log.error("not on record: the end of lease %s: %s", lease.id, error)

    async def _quietly(self, change: Awaitable[None]) -> None:
        try:
            await change
        except VestibuleError as error:
            _log.info("a lease was changed meanwhile: %s", error)

    async def _count(self, now: datetime) -> None:
        if self._counted is not None and now < self._counted + COUNT_EVERY:
            failing = await self._book.count(Lane.FAILING, 1)
            if bool(failing) == bool(self.counts[Lane.FAILING.value]):
                return
        self._counted = now
        self.counts = {lane.value: await self._book.count(lane, MOST_COUNTED) for lane in Lane}


def _is_down(problem: VestibuleError) -> bool:
    """Whether the next attempt at the same target would fail, too."""
    return problem.code.kind.value == "unavailable"
