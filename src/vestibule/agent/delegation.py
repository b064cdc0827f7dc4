"""Identities of other processes, for delegates: processes that the operator trusts to act on others' behalf.

Whose identities may be asked for is not limited, so a delegate is as powerful on its node as the agent's workloads
together.  What it never gets, in any form, are identities that administer: those of admin and downstream entries.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from vestibule.agent.cache import Bundles, SvidCache
from vestibule.agent.codes import NO_IDENTITY, NOT_A_DELEGATE, NOT_READY
from vestibule.agent.demand import Claim
from vestibule.agent.workloads import PATIENCE, Caller, Workloads
from vestibule.attest.workload import Process, shown
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.peer import ProcessHandle
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustDomain, X509Svid

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Subject(Protocol):
    """Whose identities a delegate asks for."""

    def check(self) -> object:
        """Raises: VST2312 once there is nobody any more."""
        ...

    async def selectors(self, workloads: Workloads) -> frozenset[Selector]:
        """What is true of it.  Raises: VST2050, VST2312."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True, slots=True)
class Described:
    """A workload that the delegate has attested itself: what it says of it is believed."""

    known: frozenset[Selector]

    def check(self) -> None:
        """It is for the delegate to know whether there is such a workload."""

    async def selectors(self, workloads: Workloads) -> frozenset[Selector]:
        """What the delegate said."""
        return self.known

    def close(self) -> None:
        """There is nothing to let go of."""

    def __str__(self) -> str:
        return ", ".join(sorted(map(shown, self.known)))


class Numbered:
    """The process that has a pid now; never the one that gets it later, nor the same under another user."""

    def __init__(self, pid: int) -> None:
        """Raises: VST2312 if there is no such process."""
        self._process = ProcessHandle(pid)
        try:
            self._process.freeze_owner()
        except BaseException:
            self._process.close()
            raise

    def check(self) -> Process:
        """Raises: VST2312 once it has ended or changed its user."""
        self._process.check()
        return self._process

    def pinned(self) -> Process:
        """The process; whoever asks it something hears whether it is still there."""
        return self._process

    async def selectors(self, workloads: Workloads) -> frozenset[Selector]:
        """What our own attestors find.  Raises: VST2050, VST2312."""
        return await workloads.attest(self)

    def close(self) -> None:
        """Let go of it."""
        self._process.close()

    def __str__(self) -> str:
        return f"process {self._process.pid}"


class Nobody:
    """For what concerns no workload in particular."""

    def check(self) -> None:
        """Nobody ends."""

    async def selectors(self, workloads: Workloads) -> frozenset[Selector]:
        """None."""
        return frozenset()

    def close(self) -> None:
        """There is nothing to let go of."""

    def __str__(self) -> str:
        return "nobody in particular"


Find = Callable[[], Subject]
"""Makes the subject, once the caller has turned out to be a delegate: others learn nothing about processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """What a workload has: its SVIDs, the default one first, and the trust domains that it federates with."""

    svids: tuple[X509Svid, ...] = ()
    federates_with: tuple[TrustDomain, ...] = ()


class Delegation:
    """Answers delegates from the cache.

    1. The caller is attested, like any workload.
    2. One of its identities is a delegate's, at every answer anew.
    3. Only then is the subject found and, if it is named by its pid, attested.
    """

    def __init__(
        self, workloads: Workloads, cache: SvidCache, delegates: Collection[SpiffeId], clock: Clock
    ) -> None:
        self._workloads = workloads
        self._cache = cache
        self._delegates = frozenset(delegates)
        self._clock = clock

    async def svids(self, caller: Caller, find: Find) -> AsyncGenerator[Delegated, None]:
        """A workload's SVIDs: now, and again after every change; none is an answer, too.

        Raises: VST2105 and VST2111 (no delegate), VST2106, VST2050, VST2312, and what ``find`` raises.
        """
        with self._cache.demand.claim() as claim:
            look = partial(self._look_for_svids, claim)
            async with aclosing(self._watch(caller, find, look)) as answers:
                async for delegated in answers:
                    yield delegated

    def bundles(self, caller: Caller) -> AsyncGenerator[Bundles, None]:
        """Every bundle that the agent has: now, and again after every change.  Raises as ``svids`` does."""
        return self._watch(caller, Nobody, self._look_for_bundles)

    async def entries(self, caller: Caller, find: Find) -> tuple[Entry, ...]:
        """The entries that make a workload what it is, less those that no delegate gets.

        Raises: VST2105 if none is left; and as ``svids`` does.
        """
        async with aclosing(self._watch(caller, find, self._look_for_entries)) as answers:
            async for entries in answers:
                if not entries:
                    raise NO_IDENTITY.error(
                        "no identity issued: the workload has none that a delegate may have"
                    )
                return entries
        raise AssertionError("a watch gives at least one answer or raises")

    async def _watch(
        self,
        caller: Caller,
        find: Find,
        look: Callable[[frozenset[Selector]], tuple[T, bool, datetime | None]],
    ) -> AsyncGenerator[T, None]:
        vouched = self._workloads.vouched_version
        own = await self._workloads.attest(caller)  # 1
        delegate = self._authorized(own)  # 2
        subject = find()  # 3
        try:
            theirs = await subject.selectors(self._workloads)
            _log.info("delegate %s asks for the identities of %s", delegate, subject)
            last: T | None = None
            patience = self._clock.now() + PATIENCE
            while True:
                seen = self._cache.changed.version
                caller.check()
                self._authorized(own)
                subject.check()
                found, complete, until = look(theirs)
                waiting = last is None and not complete and self._clock.now() < patience
                if not waiting and found != last:
                    last = found
                    yield found
                await self._workloads.change(seen, vouched, patience if waiting else until)
                if self._workloads.vouched_version != vouched:
                    vouched = self._workloads.vouched_version
                    own = await self._workloads.attest(caller)
                    theirs = await subject.selectors(self._workloads)
        finally:
            subject.close()

    def _authorized(self, own: frozenset[Selector]) -> SpiffeId:
        """Which delegate the caller is.  Raises: VST2105, VST2106, VST2111."""
        entries, _ = self._workloads.look_for_entries(own)
        if isinstance(entries, VestibuleError):
            raise entries
        for entry in entries:
            if entry.spiffe_id in self._delegates:
                return entry.spiffe_id
        raise NOT_A_DELEGATE.error(
            f"caller not configured as an authorized delegate: it is {entries[0].spiffe_id}"
        )

    def _entries(self, selectors: frozenset[Selector]) -> tuple[Entry, ...]:
        matching = self._cache.matching(selectors, self._clock.now())
        # By identity: another entry of the same one would give it away as well.
        every = self._cache.now.entries.values()
        reserved = {entry.spiffe_id for entry in every if entry.admin or entry.downstream}
        return tuple(entry for entry in matching if entry.spiffe_id not in reserved)

    def _look_for_svids(
        self, claim: Claim, selectors: frozenset[Selector]
    ) -> tuple[Delegated, bool, datetime | None]:
        entries = self._entries(selectors)
        claim.cover(entries)
        svids = self._cache.now.svids_of(entries, self._clock.now())
        names = {TrustDomain.parse(name) for entry in entries for name in entry.federates_with}
        found = Delegated(svids=svids, federates_with=tuple(sorted(names)))
        return found, len(svids) == len(entries), min((each.not_after for each in svids), default=None)

    def _look_for_entries(
        self, selectors: frozenset[Selector]
    ) -> tuple[tuple[Entry, ...], bool, datetime | None]:
        return self._entries(selectors), True, None

    def _look_for_bundles(self, _: frozenset[Selector]) -> tuple[Bundles, bool, datetime | None]:
        bundle = self._cache.bundle
        if bundle is None:
            raise NOT_READY.error("the agent has no trust bundle at the moment")
        federated = tuple(each for _, each in sorted(self._cache.now.federated.items()))
        return Bundles(own=bundle, federated=self._cache.trusted(federated)), True, None
