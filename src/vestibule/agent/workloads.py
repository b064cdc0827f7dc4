"""From a calling process to its identities: who it is, what it may have, and when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol, TypeVar

from vestibule.agent.cache import Bundles, SvidCache
from vestibule.agent.changed import Changed
from vestibule.agent.codes import NO_IDENTITY, NOT_READY
from vestibule.agent.demand import Claim
from vestibule.agent.templates import Templates
from vestibule.attest.workload import Finding, Process, WorkloadAttestor, attest_workload, shown
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustBundle, X509Svid

TELL_AGAIN: Final = timedelta(minutes=1)
"""How often the log may repeat that processes like this one have no identity: refused clients try again and again."""
_TOLD: Final = 256
_SHOWN: Final = 8
_TOO_LONG: Final = ("sha256:", "supplementary_")
PATIENCE: Final = timedelta(seconds=3)
"""How long a first answer waits for certificates that are being issued."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Caller(Protocol):
    """A connected process (``net.peer.Peer``)."""

    def check(self) -> Process:
        """The process, pinned.  Raises: VST2312 once it has ended."""
        ...

    def pinned(self) -> Process:
        """The process, which may have ended: then all that is asked of it raises VST2312.  Raises: VST2312."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What a workload has now: its SVIDs, the default one first, and the bundles to verify others with.

    ``federated`` are those of the trust domains that its entries federate with, and of no others.
    """

    svids: tuple[X509Svid, ...]
    bundle: TrustBundle
    federated: tuple[TrustBundle, ...] = ()

    @property
    def bundles(self) -> Bundles:
        """The bundles alone."""
        return Bundles(own=self.bundle, federated=self.federated)


class Workloads:
    """Answers for this node's processes, from the cache."""

    def __init__(
        self,
        cache: SvidCache,
        attestors: Sequence[WorkloadAttestor],
        vouched: Changed,
        clock: Clock,
        templates: Templates | None = None,
    ) -> None:
        """``vouched`` is told whenever a supervisor vouches for a process, or no longer does."""
        self._templates = templates
        self._cache = cache
        self._attestors = attestors
        self._vouched = vouched
        self._clock = clock
        self.observe: Callable[[Sequence[Finding]], None] = lambda _: None
        """Told of what the attestors found out, or why they could not."""
        self._told: OrderedDict[frozenset[Selector], datetime] = OrderedDict()

    async def attest(self, caller: Caller) -> frozenset[Selector]:
        """What is true of a process now.  Raises: VST2050, VST2312."""
        selectors = await attest_workload(self._attestors, caller.pinned(), observe=self.observe)
        _log.debug("attested %s: %s", caller, ", ".join(sorted(map(shown, selectors))))
        return selectors

    def ids(self, selectors: frozenset[Selector]) -> list[SpiffeId]:
        """The SPIFFE IDs that selectors give, the default one first, whether or not there is an SVID yet."""
        entries = self._cache.matching(selectors, self._clock.now())
        return list(dict.fromkeys(entry.spiffe_id for entry in entries))

    async def fetch(self, caller: Caller) -> Identities:
        """What a process has now.  Raises: VST2105, VST2106, VST2050, VST2312."""
        return await self._first(self.watch(caller))

    async def watch(self, caller: Caller) -> AsyncGenerator[Identities, None]:
        """What a process has: now, and again after every change of it.

        A process that loses its last identity gets VST2105; one whose certificates ran out, with no server to
        renew them, VST2106.  Also raises: VST2050, VST2312.
        """
        with self._cache.demand.claim() as claim:
            look = partial(self._look, claim)
            async with aclosing(self._watch(caller, look, self._expiry)) as answers:
                async for identities in answers:
                    yield identities

    def watch_bundles(self, caller: Caller) -> AsyncGenerator[Bundles, None]:
        """The trust bundles, for a process that has an identity: now, and again after every change.

        Unlike ``watch`` this goes on where certificates ran out.  Raises: VST2105, VST2106, VST2050, VST2312.
        """
        return self._watch(caller, self._look_for_bundles, lambda _: None)

    def watch_entitlement(
        self, caller: Caller
    ) -> AsyncGenerator[tuple[tuple[Entry, ...], TrustBundle | None], None]:
        """The entries that make a process what it is, and the trust bundle: now, and after every change of them.

        Raises as ``watch_bundles`` does.
        """
        return self._watch(caller, self._look_for_entitlement, lambda _: None)

    async def bundles(self, caller: Caller) -> Bundles:
        """The trust bundles now.  Raises as ``watch_bundles`` does."""
        return await self._first(self.watch_bundles(caller))

    async def entries(self, caller: Caller) -> tuple[Entry, ...]:
        """The entries that make a process what it is, the default one first.  Raises as ``watch_bundles`` does."""
        return await self._first(self._watch(caller, self.look_for_entries, lambda _: None))

    async def _first(self, watch: AsyncGenerator[T, None]) -> T:
        async with aclosing(watch) as answers:
            async for answer in answers:
                return answer
        raise AssertionError("a watch gives at least one answer or raises")

    async def _watch(
        self,
        caller: Caller,
        look: Callable[[frozenset[Selector]], tuple[T | VestibuleError, bool]],
        expiry: Callable[[T | None], datetime | None],
    ) -> AsyncGenerator[T, None]:
        """What ``look`` finds; looked for again at every change, and when what was found last expires."""
        vouched = self._vouched.version
        selectors = await self.attest(caller)
        fresh = True  # attesting ends with a look at whether the process is there
        last: T | None = None
        patience = self._clock.now() + PATIENCE
        while True:
            seen = self._cache.changed.version
            if not fresh:
                caller.check()
            fresh = False
            found, complete = look(selectors)
            waiting = last is None and not complete and self._clock.now() < patience
            if not waiting:
                if isinstance(found, VestibuleError):
                    found = _with_command(found, caller)
                    self._tell(caller, selectors, found)
                    raise found
                if found != last:
                    last = found
                    yield found
            until = patience if waiting else _earliest(expiry(last), self._entries_end(selectors))
            await self.change(seen, vouched, until)
            if self._vouched.version != vouched:
                vouched = self._vouched.version
                selectors = await self.attest(caller)

    def _look(self, claim: Claim, selectors: frozenset[Selector]) -> tuple[Identities | VestibuleError, bool]:
        """What there is for these selectors, and whether that is all there should be."""
        holdings, now = self._cache.now, self._clock.now()
        entries, complete = self.look_for_entries(selectors)
        if isinstance(entries, VestibuleError):
            return entries, complete
        claim.cover(entries)
        svids = holdings.svids_of(entries, now)
        bundle = self._cache.bundle
        if not svids or bundle is None:
            return NOT_READY.error("the caller's identity has no valid certificate at the moment"), False
        # Of all matching entries, also of those whose certificate is yet to come, as in SPIRE.
        federated = self._cache.trusted(holdings.federated_of(entries))
        found = Identities(svids=svids, bundle=bundle, federated=federated)
        return found, complete and len(svids) == len(entries)

    def _look_for_bundles(self, selectors: frozenset[Selector]) -> tuple[Bundles | VestibuleError, bool]:
        entries, complete = self.look_for_entries(selectors)
        if isinstance(entries, VestibuleError):
            return entries, complete
        if (bundle := self._cache.bundle) is None:
            return NOT_READY.error("the agent has no trust bundle at the moment"), False
        federated = self._cache.trusted(self._cache.now.federated_of(entries))
        return Bundles(own=bundle, federated=federated), True

    def _look_for_entitlement(
        self, selectors: frozenset[Selector]
    ) -> tuple[tuple[tuple[Entry, ...], TrustBundle | None] | VestibuleError, bool]:
        entries, complete = self.look_for_entries(selectors)
        if isinstance(entries, VestibuleError):
            return entries, complete
        return (entries, self._cache.bundle), complete

    @property
    def vouched_version(self) -> int:
        """Counts the changes of vouched processes: after one, a process may have other selectors."""
        return self._vouched.version

    def look_for_entries(
        self, selectors: frozenset[Selector]
    ) -> tuple[tuple[Entry, ...] | VestibuleError, bool]:
        """The entries that selectors fit now, or why there are none; and whether asking again is of no use."""
        if self._cache.doubt is not None:
            return self._cache.doubt, False
        if not self._cache.ready:
            return NOT_READY.error("the agent has not yet learned from the server what it may serve"), False
        entries = self._cache.matching(selectors, self._clock.now())
        coming = self._templates is not None and self._templates.want(selectors, self._cache.now.entries)
        return (tuple(entries) if entries else _no_identity(selectors)), not coming

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

    def _entries_end(self, selectors: frozenset[Selector]) -> datetime | None:
        """When the next of the entries that fit is over, whether or not a server is there to say so."""
        entries = self._cache.matching(selectors, self._clock.now())
        return min((each.expires_at for each in entries if each.expires_at is not None), default=None)

    async def change(self, seen: int, vouched: int, until: datetime | None) -> None:
        """Until the cache or the vouched processes are past these versions, or until that instant."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = None if until is None else asyncio.create_task(self._clock.sleep_until(until))
        if timer is not None:
            timer.add_done_callback(lambda _: None if done.done() else done.set_result(None))
        try:
            with self._cache.changed.telling(done, seen), self._vouched.telling(done, vouched):
                await done
        finally:
            if timer is not None:
                timer.cancel()


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((each for each in instants if each is not None), default=None)


def _with_command(error: VestibuleError, caller: Caller) -> VestibuleError:
    """Who has no identity is told how the operator finds out why; it is not told what others have."""
    if error.code is not NO_IDENTITY:
        return error
    command = f"vestibule why --pid {caller.check().pid}"
    return NO_IDENTITY.error(f"{error.message}; the machine's operator learns more from: {command}")


def _no_identity(selectors: frozenset[Selector]) -> VestibuleError:
    # A process may know what is true of itself; with it, whoever reads this can write the entry.
    texts = sorted(shown(each) for each in selectors if not each.value.startswith(_TOO_LONG))
    more = ["…"] if len(texts) > _SHOWN else []
    return NO_IDENTITY.error(
        "no identity issued: no registration entry matches the calling process "
        f"({', '.join([*texts[:_SHOWN], *more])})"
    )
