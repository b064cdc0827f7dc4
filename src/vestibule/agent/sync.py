"""Keeping the holdings current: join, follow the server's changes, renew at half-life, survive its absence.

Two tasks.  One (``following``) follows the server's push of revisions and notes what is out of date.  The other
works off what is due, oldest duty first, and waits for the next duty or the next note:

    its own SVID has expired              → come back with its key       (``own_svid``)
    has no valid SVID of its own          → join, with evidence
    its own SVID is past its half-life    → renew
    the bundle is out of date             → fetch it
    the entries are out of date           → fetch what changed
    a federated bundle is out of date     → fetch those of the entries   (``federated``)
    an entry has no fitting, fresh SVID   → key, CSR, batch              (``workload_svids``)

A server that cannot be reached changes nothing but the pace: what was there is served until it expires.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.agent.bootstrap import FetchUnverified, FirstTrust, is_final
from vestibule.agent.cache import SvidCache
from vestibule.agent.codes import AGENT_IS_BANNED, WRONG_SVID
from vestibule.agent.contact import Contact
from vestibule.agent.federated import Federated
from vestibule.agent.following import Following, level_of
from vestibule.agent.keeping import Keeping
from vestibule.agent.own_svid import TEMPORARY, OwnSvid
from vestibule.agent.pause import Pause
from vestibule.agent.ports import Upstream
from vestibule.agent.rebootstrap import REBOOTSTRAP_DELAY, Rebootstrap, Rebootstrapping
from vestibule.agent.skew import SOON, WARNED, SkewWatch
from vestibule.agent.tainting import hasten
from vestibule.agent.vault import Vault
from vestibule.agent.workload_svids import WorkloadSvids
from vestibule.attest.node import NodeProof
from vestibule.calls.codes import BANNED, MUST_ATTEST
from vestibule.clock import Clock, steps
from vestibule.errors import VestibuleError
from vestibule.net.codes import SERVER_NOT_TRUSTED, UNREACHABLE
from vestibule.spiffe import TrustDomain, X509Svid

SHORTEST_REST: Final = timedelta(milliseconds=200)
SAVE_AGAIN: Final = timedelta(seconds=2)
"""How often a cache that could not be written is tried again."""

_MAYBE_THE_CLOCK: Final = frozenset({SERVER_NOT_TRUSTED, UNREACHABLE, MUST_ATTEST, WRONG_SVID})
"""What it looks like if certificates that are good have expired by somebody's clock, or are from the future."""

_log = logging.getLogger(__name__)


class Sync:
    """Owns the holdings' freshness.  ``run`` ends only by cancellation, or because the agent may not go on."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        cache: SvidCache,
        vault: Vault,
        upstream: Upstream,
        fetch_unverified: FetchUnverified,
        skew: SkewWatch,
        first_trust: FirstTrust,
        proof: Callable[[], NodeProof],
        clock: Clock,
        rebootstrap: Rebootstrap = Rebootstrap.AUTO,
        rebootstrap_delay: timedelta = REBOOTSTRAP_DELAY,
        reattests: bool = False,
        renewed: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        """``proof`` gives the evidence to join with, or raises; ``renewed`` hears when ``credential`` changed.

        With ``reattests`` the agent attests again instead of renewing its SVID, as servers demand where evidence can
        be repeated.
        """
        self._trust_domain = trust_domain
        self._upstream = upstream
        self._fetch_unverified = fetch_unverified
        self._skew = skew
        self._first_trust = first_trust
        self._clock = clock
        self._jitter = jitter
        self._note = asyncio.Event()
        self._entries_due = self._bundle_due = True
        self._distrusted = False
        self._rebootstrap = Rebootstrapping(rebootstrap, rebootstrap_delay, first_trust)
        self._keeping = Keeping(cache, vault)
        self.contact = Contact(clock)
        self.own = OwnSvid(
            keeping=self._keeping,
            upstream=upstream,
            proof=proof,
            reattests=reattests,
            contact=self.contact,
            clock=clock,
            jitter=jitter,
            renewed=renewed,
            joined=lambda: self._mark(entries=True, bundle=True, federation=True),
        )
        self._workloads = WorkloadSvids(
            keeping=self._keeping,
            upstream=upstream,
            contact=self.contact,
            clock=clock,
            jitter=jitter,
            bundle_outdated=self.refresh_bundle,
        )
        self._federated = Federated(self._keeping, upstream, self.contact)
        self._following = Following(upstream, self.contact, self._mark, self.until_joined, jitter)
        cache.demand.on_new(self._note.set)
        self.synced = asyncio.Event()
        """Set once the holdings were, for the first time, what the server says."""

    @property
    def credential(self) -> X509Svid | None:
        """The SVID to show to the server; none while joining, and never one that expired or was rejected."""
        return self.own.credential

    @property
    def not_saved(self) -> VestibuleError | None:
        """Why what is held is newer than what is on disk, while it is."""
        return self._keeping.not_saved

    def refused_until(self, entry_id: str) -> datetime | None:
        """When an entry whose SVID the server refused is tried again; ``None`` if it was not."""
        return self._workloads.refused_until(entry_id)

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when entries, intent or the connection changed on the server's side."""
        self._following.on_news(listener)

    def refresh_bundle(self) -> None:
        """Fetch the trust bundle anew, soon: somebody met a key that is not in it."""
        self._mark(entries=False, bundle=True, federation=False)

    def revocations_changed(self) -> None:
        """What is revoked was dropped, and what was refused may be granted now: look again."""
        self._workloads.entries_changed()
        self._note.set()

    async def run(self) -> None:
        """Raises: VST2100 when banned; at the first start also what makes joining impossible."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._maintain(), name="agent-maintain")
            tasks.create_task(self._following.run(), name="agent-follow")
            tasks.create_task(self._watch_clock(), name="agent-clock")

    async def _watch_clock(self) -> None:
        """When somebody sets the clock, everything that was planned by the old time is looked at anew."""
        async for step in steps(self._clock):
            _log.warning("this machine's clock was set %+.0f s", step.total_seconds())
            await self._measure(verified=True)
            self._mark(entries=True, bundle=True, federation=True)

    async def until_joined(self) -> None:
        """Wait until there is an SVID that the server accepts, as far as is known."""
        changed = self._keeping.cache.changed
        seen = changed.version
        while self.own.is_joining:
            seen = await changed.after(seen)

    def _mark(self, *, entries: bool, bundle: bool, federation: bool) -> None:
        self._entries_due |= entries
        self._bundle_due |= bundle
        if federation:
            self._federated.changed()
        self._note.set()

    # -------------------------------------------------------------------------- working off duties

    async def _maintain(self) -> None:
        pause = Pause(self._jitter)
        while True:
            self._note.clear()
            try:
                await self._round()
            except VestibuleError as error:
                if error.code in _MAYBE_THE_CLOCK:
                    await self._measure(verified=error.code is WRONG_SVID)
                if not self._judge(self._skew.explain(error)):
                    await self._rest(self._clock.now() + timedelta(seconds=pause.next()))
            else:
                pause.reset()
                self.contact.problem = None
                self._rebootstrap.trusted()
                self._keeping.cache.get_ready()
                self.synced.set()
                await self._rest(self._next_duty())

    async def _round(self) -> None:
        try:
            await self._ensure_trust()
            if self.own.is_returning():
                # Whoever was away for long may not know the authority that signs now.
                self._bundle_due = True
                await self._refresh_bundle()
            await self.own.ensure()
            await self._refresh_bundle()
            await self._refresh_entries()
            try:
                # First, so that whoever waits for a certificate gets it together with what to verify others with.
                await self._federated.refresh()
            finally:
                await self._workloads.refresh()
            await self._measure(verified=True)
        finally:
            # Before the agent has joined there is only a first trust that may have been a mistake.
            if self._keeping.unsaved and self._keeping.now.own is not None:
                await self._keeping.save(self._keeping.now)

    async def _measure(self, *, verified: bool) -> None:
        await self._skew.measure(verified=verified)
        self.contact.skew = self._skew.skew

    async def _rest(self, until: datetime | None) -> None:
        """Until that instant, or until something is noted."""
        noted = asyncio.create_task(self._note.wait())
        waits: set[asyncio.Task[object]] = {noted}
        if until is not None:
            waits.add(asyncio.create_task(self._clock.sleep_until(until)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    def _next_duty(self) -> datetime | None:
        duties = list(self._workloads.next_duties())
        if (own := self.own.next_duty()) is not None:
            duties.append(own)
        if self._skew.skew is not None and self._skew.skew.exceeds(WARNED):
            duties.append(self._clock.now() + 2 * SOON)  # whoever sets a clock right wants to see it
        if self._keeping.unsaved:
            duties.append(self._clock.now() + SAVE_AGAIN)
        # SVIDs of a second or two are renewed as fast as this, and no faster.
        return max(min(duties), self._clock.now() + SHORTEST_REST) if duties else None

    def _judge(self, error: VestibuleError) -> bool:
        """Go on after a pause (False), go on differently at once (True), or give up."""
        problem, self.contact.problem = self.contact.problem, error
        repeated = problem is not None and problem.code is error.code
        if error.code is BANNED:
            self._keeping.destroy()
            raise AGENT_IS_BANNED.error(f"the server at last said: {error.message}") from error
        rejoin = error.code is MUST_ATTEST and self.own.rejected()
        if self._keeping.now.own is None and _is_hopeless(error):
            raise error
        if error.code is SERVER_NOT_TRUSTED:
            self._distrusted = self._rebootstrap.distrusted(self._clock.now(), spent=self.own.is_spent())
        _log.log(logging.DEBUG if repeated else level_of(error), "%s (%s)", error, error.advice)
        return rejoin

    # ---------------------------------------------------------------------------------- the duties

    async def _ensure_trust(self) -> None:
        if self._keeping.now.bundle is None or self._distrusted:
            bundle = await self._first_trust.bundle(self._trust_domain, self._fetch_unverified)
            self._distrusted = False
            self._rebootstrap.trusted()
            self._bundle_due = True
            self._keeping.become(replace(self._keeping.now, bundle=bundle))

    async def _refresh_bundle(self) -> None:
        if not self._bundle_due:
            return
        self._bundle_due = False
        try:
            bundle = await self._upstream.bundle()
        except VestibuleError:
            self._bundle_due = True
            raise
        self.contact.seen()
        before = self._keeping.now.bundle
        self._keeping.become(replace(self._keeping.now, bundle=bundle))
        if before is not None and before.x509_authorities != bundle.x509_authorities:
            self._workloads.drop_untrusted(bundle)
        self._keeping.become(hasten(self._keeping.now, self._clock.now(), lambda: abs(self._jitter())))

    async def _refresh_entries(self) -> None:
        if not self._entries_due:
            return
        self._entries_due = False
        began = time.monotonic()
        try:
            entries = await self._upstream.authorized_entries(self._keeping.now.entries)
        except VestibuleError:
            self._entries_due = True
            raise
        self.contact.entries_synced(time.monotonic() - began)
        self._workloads.entries_changed()
        self._keeping.become(replace(self._keeping.now, entries=entries))


def _is_hopeless(error: VestibuleError) -> bool:
    # At the first start nothing is served yet, and the person who started us is looking.
    return is_final(error) or error.code is SERVER_NOT_TRUSTED or error.code.kind not in TEMPORARY
