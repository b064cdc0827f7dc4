"""From a calling process to its identities: who it is, what it may have, and when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.agent.cache import SvidCache
from vestibule.agent.changed import Changed
from vestibule.agent.codes import NO_IDENTITY, NOT_READY
from vestibule.attest.workload import Process, WorkloadAttestor, attest_workload, shown
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector, SpiffeId, TrustBundle, X509Svid

TELL_AGAIN: Final = timedelta(minutes=1)
"""How often the log may repeat that processes like this one have no identity: refused clients try again and again."""
_TOLD: Final = 256
_SHOWN: Final = 8
_TOO_LONG: Final = ("sha256:", "supplementary_")
PATIENCE: Final = timedelta(seconds=3)
"""How long a first answer waits for certificates that are being issued."""

_log = logging.getLogger(__name__)


class Caller(Protocol):
    """A connected process (``net.peer.Peer``)."""

    def check(self) -> Process:
        """The process, pinned.  Raises: VST2312 once it has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What a workload has now: its SVIDs, the default one first, and the bundle to verify others with."""

    svids: tuple[X509Svid, ...]
    bundle: TrustBundle


class Workloads:
    """Answers for this node's processes, from the cache."""

    def __init__(
        self, cache: SvidCache, attestors: Sequence[WorkloadAttestor], vouched: Changed, clock: Clock
    ) -> None:
        """``vouched`` is told whenever a supervisor vouches for a process, or no longer does."""
        self._cache = cache
        self._attestors = attestors
        self._vouched = vouched
        self._clock = clock
        self._told: OrderedDict[frozenset[Selector], datetime] = OrderedDict()

    async def attest(self, caller: Caller) -> frozenset[Selector]:
        """What is true of a process now.  Raises: VST2050, VST2312."""
        selectors = await attest_workload(self._attestors, caller.check())
        _log.debug("attested %s: %s", caller, shown(selectors))
        return selectors

    def ids(self, selectors: frozenset[Selector]) -> list[SpiffeId]:
        """The SPIFFE IDs that selectors give, the default one first, whether or not there is an SVID yet."""
        entries = self._cache.matching(selectors, self._clock.now())
        return list(dict.fromkeys(entry.spiffe_id for entry in entries))

    async def fetch(self, caller: Caller) -> Identities:
        """What a process has now.  Raises: VST2105, VST2106, VST2050, VST2312."""
        async with aclosing(self.watch(caller)) as answers:
            async for identities in answers:
                return identities
        raise AssertionError("a watch gives at least one answer or raises")

    async def watch(self, caller: Caller) -> AsyncGenerator[Identities, None]:
        """What a process has: now, and again after every change of it.

        A process that loses its last identity gets VST2105; one whose certificates ran out, with no server to
        renew them, VST2106.  Also raises: VST2050, VST2312.
        """
        vouched = self._vouched.version
        selectors = await self.attest(caller)
        last: Identities | None = None
        patience = self._clock.now() + PATIENCE
        while True:
            seen = self._cache.changed.version
            caller.check()
            found, complete = self._look(selectors)
            waiting = last is None and not complete and self._clock.now() < patience
            if not waiting:
                if isinstance(found, VestibuleError):
                    self._tell(caller, selectors, found)
                    raise found
                if found != last:
                    last = found
                    yield found
            await self._change(seen, vouched, patience if waiting else self._expiry(last))
            if self._vouched.version != vouched:
                vouched = self._vouched.version
                selectors = await self.attest(caller)

    def _look(self, selectors: frozenset[Selector]) -> tuple[Identities | VestibuleError, bool]:
        """What there is for these selectors, and whether that is all there should be."""
        holdings, now = self._cache.now, self._clock.now()
        if not self._cache.ready:
            return NOT_READY.error("the agent has not yet learned from the server what it may serve"), False
        entries = self._cache.matching(selectors, now)
        if not entries:
            return _no_identity(selectors), True
        svids = holdings.svids_of(entries, now)
        if not svids or holdings.bundle is None:
            return NOT_READY.error("the caller's identity has no valid certificate at the moment"), False
        return Identities(svids=svids, bundle=holdings.bundle), len(svids) == len(entries)

    def _tell(self, caller: Caller, selectors: frozenset[Selector], error: VestibuleError) -> None:
        now, last = self._clock.now(), self._told.get(selectors)
        if last is not None and now - last < TELL_AGAIN:
            return
        self._told[selectors] = now
        self._told.move_to_end(selectors)
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
        _log.info("refused %s: %s", caller, error)

    def _expiry(self, last: Identities | None) -> datetime | None:
        return min((svid.not_after for svid in last.svids), default=None) if last else None

    async def _change(self, seen: int, vouched: int, until: datetime | None) -> None:
        """Until the cache or the vouched processes change, or that instant."""
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self._cache.changed.after(seen)),
            asyncio.create_task(self._vouched.after(vouched)),
        ]
        if until is not None:
            waits.append(asyncio.create_task(self._clock.sleep_until(until)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()


def _no_identity(selectors: frozenset[Selector]) -> VestibuleError:
    # A process may know what is true of itself; with it, whoever reads this can write the entry.
    texts = sorted(str(each) for each in selectors if not each.value.startswith(_TOO_LONG))
    more = ["…"] if len(texts) > _SHOWN else []
    return NO_IDENTITY.error(
        "no identity issued: no registration entry matches the calling process "
        f"({', '.join([*texts[:_SHOWN], *more])})"
    )
