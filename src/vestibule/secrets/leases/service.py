"""Leases: begun, renewed, ended before their time, and looked at.

What is leased is made in two steps, so that there is never a credential that nobody knows of.  The lease is kept
first (``pending``), then the credential is made, then the lease is ``active`` and its owner is told.  Whatever ends in
between, a request or the whole server: a lease that stays pending is revoked, whether or not there is anything.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.leases.book import PAGE, Kept, LeaseBook
from vestibule.secrets.leases.codes import (
    LEASE_CHANGED,
    LEASE_NOT_RENEWED,
    MALFORMED_LEASE,
    NOT_IN_TIME,
    TOO_MANY_LEASES,
    UNKNOWN_LEASE,
)
from vestibule.secrets.leases.ending import PATIENCE, Endings
from vestibule.secrets.leases.ports import LeasedEngine, NotMadeError, Record
from vestibule.secrets.leases.records import Lane, Lease, LeaseState
from vestibule.spiffe import SpiffeId
from vestibule.store.barrier import Barrier
from vestibule.store.codes import CONFLICT

MOST_PER_IDENTITY: Final = 200
"""Leases that one identity may hold, so that one that asks anew with every request harms only itself."""
MAKE_SECONDS: Final = 45.0
"""Well below: what is given up must not be made after that."""
MOST_CONFLICTS: Final = 5
_ALPHABET: Final = string.ascii_letters + string.digits
_RANDOM: Final = 24
_ID: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}(/[A-Za-z0-9_][\w.-]{0,127}){1,8}", re.ASCII)

_log = logging.getLogger(__name__)


async def _unrecorded(events: Sequence[AuditEvent]) -> None:
    """For tests that look elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLease:
    """What is to be leased: ``path`` is what was asked for (``database/creds/payments``); the rest as in ``Lease``."""

    path: str
    owner: SpiffeId
    ttl: timedelta
    max_ttl: timedelta
    target: str
    credential: Mapping[str, Any]


class Leases:
    """All leases of the secret manager.  ``run`` must run, so that they end."""

    def __init__(
        self,
        barrier: Barrier,
        clock: Clock,
        *,
        record: Record = _unrecorded,
        leads: Callable[[], bool] = lambda: True,
        most_per_identity: int = MOST_PER_IDENTITY,
    ) -> None:
        self._book = LeaseBook(barrier)
        self._clock = clock
        self._most = most_per_identity
        self._engines: dict[str, LeasedEngine] = {}
        self._beginning = asyncio.Lock()
        self._endings = Endings(self._book, self._engines, clock, record, leads)

    def mount(self, name: str, engine: LeasedEngine) -> None:
        """Leases whose IDs begin with ``name/`` are this engine's."""
        self._engines[name] = engine

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there are by state (``failing``: those whose revocation does not work), where this server leads."""
        return self._endings.counts

    @property
    def failures(self) -> int:
        """Attempts to revoke that did not work, since the start."""
        return self._endings.failures

    async def run(self) -> None:
        """End what is over, for ever."""
        await self._endings.run()

    async def round(self) -> None:
        """End what is over now."""
        await self._endings.round()

    # --------------------------------------------------------------------------------------------- begin, renew

    async def grant(self, wanted: NewLease, make: Callable[[Lease], Awaitable[None]]) -> Lease:
        """Lease what ``make`` makes.  What may be there where it raises is revoked; nothing is after ``NotMadeError``.

        1. The lease is kept, pending.
        2. The credential is made.
        3. The lease is active; unless it was given up meanwhile.

        Raises: VST5402, VST5405, what ``make`` raises, errors of the store.
        """
        kept = await self._pending(wanted)  # 1
        try:
            async with asyncio.timeout(MAKE_SECONDS):
                await make(kept.lease)  # 2
        except NotMadeError:
            await self._book.remove(kept)
            raise
        except VestibuleError as error:
            await self._give_up(kept, str(error))
            raise
        except TimeoutError as error:
            slow = NOT_IN_TIME.error(f"{kept.lease.target} did not answer within {MAKE_SECONDS:.0f} s")
            await self._give_up(kept, str(slow))
            raise slow from error
        lease = replace(kept.lease, state=LeaseState.ACTIVE, due=kept.lease.expires, told=True)
        try:
            return (await self._book.put(lease, kept)).lease  # 3
        except VestibuleError as error:
            if error.code is CONFLICT:
                raise LEASE_CHANGED.error(f"lease {lease.id} was given up before it was ready") from error
            raise

    async def renew(self, lease_id: str, increment: timedelta = timedelta(0)) -> Lease:
        """Let it last ``increment`` from now (nothing: its own TTL), but not beyond its latest end.

        Raises: VST5400, VST5401, VST5405, errors of the engine and the store.
        """
        for _ in range(MOST_CONFLICTS):
            kept = await self._renewable(lease_id)
            now = self._clock.now()
            expires = min(now + (increment or kept.lease.ttl), kept.lease.latest)
            await self._engines[kept.lease.mount].renew(kept.lease, expires)
            try:
                lease = replace(kept.lease, expires=expires, due=expires, renewed=now)
                return (await self._book.put(lease, kept)).lease
            except VestibuleError as error:
                if error.code is not CONFLICT:
                    raise
        raise LEASE_CHANGED.error(f"lease {lease_id} is changed all the time")

    async def _pending(self, wanted: NewLease) -> Kept:
        now = self._clock.now()
        lease = Lease(
            id=f"{wanted.path}/{''.join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))}",
            owner=wanted.owner,
            state=LeaseState.PENDING,
            issued=now,
            expires=now + min(wanted.ttl, wanted.max_ttl),
            latest=now + wanted.max_ttl,
            ttl=wanted.ttl,
            due=now + PATIENCE,
            target=wanted.target,
            credential=wanted.credential,
        )
        async with self._beginning:
            if len(await self._book.owned_by(wanted.owner, limit=self._most)) >= self._most:
                raise TOO_MANY_LEASES.error(
                    f"{wanted.owner} holds {self._most} leases, the most there may be"
                )
            return await self._book.put(lease, None)

    async def _give_up(self, kept: Kept, why: str) -> None:
        try:
            await self._endings.mark(kept, f"could not be made: {why}")
        except VestibuleError as error:
            # It stays pending, and is given up in time.
            _log.warning("lease %s: %s", kept.lease.id, error)
        self._endings.wake()

    async def _renewable(self, lease_id: str) -> Kept:
        kept = await self._book.get(checked(lease_id))
        if kept is None or kept.lease.state is LeaseState.PENDING:
            raise UNKNOWN_LEASE.error("there is no such lease")
        now, lease = self._clock.now(), kept.lease
        if lease.state is not LeaseState.ACTIVE or lease.expires <= now:
            raise LEASE_NOT_RENEWED.error(f"lease {lease.id} is over")
        if lease.mount not in self._engines:
            raise LEASE_NOT_RENEWED.error(f"nobody here renews leases of {lease.mount}/")
        return kept

    # --------------------------------------------------------------------------------------------- end

    async def revoke(self, lease_id: str, reason: str) -> VestibuleError | None:
        """End one, and try to take its credential away at once.  What kept that from working; it is tried again.

        One that does not exist (any more) is no error.  Raises: VST5404, VST5405, errors of the store.
        """
        for _ in range(MOST_CONFLICTS):
            kept = await self._book.get(checked(lease_id))
            if kept is None:
                return None
            try:
                return await self._endings.attempt(await self._endings.mark(kept, reason))
            except VestibuleError as error:
                if error.code is not CONFLICT:
                    raise
        raise LEASE_CHANGED.error(f"lease {lease_id} is changed all the time")

    async def revoke_prefix(self, prefix: str, reason: str, *, wait: bool = False) -> int:
        """End all below a prefix (whole segments); how many.  Their credentials go soon, or (``wait``) at once."""
        found = await self._all_below(prefix)
        await self._mark(found, reason)
        if wait:
            await self._endings.end(found)
        self._endings.wake()
        return len(found)

    async def revoke_owner(
        self, owner: SpiffeId, reason: str, means: Callable[[datetime], bool] = lambda issued: True
    ) -> int:
        """End all of an identity that began when ``means`` says so; how many."""
        found: list[str] = []
        while page := await self._book.owned_by(owner, after=found[-1] if found else "", limit=PAGE):
            found += page
        kept = [each for lease_id in found if (each := await self._book.get(lease_id)) is not None]
        meant = [each.lease.id for each in kept if means(each.lease.issued)]
        await self._mark(meant, reason)
        self._endings.wake()
        return len(meant)

    async def force(self, prefix: str, reason: str) -> list[str]:
        """End all below a prefix and forget them, also where the credential could not be taken away; those IDs."""
        found = await self._all_below(prefix)
        await self._mark(found, reason)
        await self._endings.end(found)
        left = []
        for lease_id in found:
            if (kept := await self._book.get(lease_id)) is not None:
                await self._book.remove(kept)
                left.append(lease_id)
        if left:
            _log.warning(
                "%d leases below %s are forgotten; their credentials may still work", len(left), prefix
            )
        return left

    async def _mark(self, lease_ids: Sequence[str], reason: str) -> None:
        for lease_id in lease_ids:
            for _ in range(MOST_CONFLICTS):
                kept = await self._book.get(lease_id)
                if kept is None:
                    break
                try:
                    await self._endings.mark(kept, reason)
                    break
                except VestibuleError as error:
                    if error.code is not CONFLICT:
                        raise

    async def _all_below(self, prefix: str) -> list[str]:
        below, found = prefix_of(prefix), list[str]()
        while page := await self._book.below(below, after=found[-1] if found else "", limit=PAGE):
            found += page
        return found

    # --------------------------------------------------------------------------------------------- look

    async def lookup(self, lease_id: str) -> Lease | None:
        """The lease with this ID.  Raises: VST5404."""
        kept = await self._book.get(checked(lease_id))
        return kept.lease if kept else None

    async def children(self, prefix: str) -> list[str]:
        """The next segments of the IDs below a prefix; those that are no end have a ``/`` behind them."""
        return await self._book.children(prefix_of(prefix) if prefix else "")

    async def of_target(self, target: str, limit: int = PAGE) -> list[str]:
        """IDs of what was made for a target."""
        return await self._book.of_target(target, limit=limit)

    async def failing(self, limit: int = PAGE) -> list[Lease]:
        """Those that have ended and could not be revoked so far."""
        kept = [await self._book.get(each) for each in await self._book.ids(Lane.FAILING, limit)]
        return [each.lease for each in kept if each is not None]


def checked(lease_id: str) -> str:
    """A lease ID, as it may stand in a key.  Raises: VST5404."""
    if not _ID.fullmatch(lease_id):
        raise MALFORMED_LEASE.error("this is no lease ID")
    return lease_id


def prefix_of(prefix: str) -> str:
    """Whole segments: ``database/creds/pay`` is not the beginning of ``database/creds/payments``.  Raises: VST5404."""
    whole = prefix.strip("/")
    if not _ID.fullmatch(f"{whole}/x"):
        raise MALFORMED_LEASE.error("this is no prefix of lease IDs")
    return f"{whole}/"
