"""The SVIDs of this node's workloads: one for each entry, new when the entry changed or half its life is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vestibule.agent.accepting import accept, hold
from vestibule.agent.cache import Held
from vestibule.agent.contact import Contact
from vestibule.agent.keeping import Keeping
from vestibule.agent.own_svid import REFUSED_PAUSE
from vestibule.agent.ports import Chain, Upstream
from vestibule.agent.tainting import again
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.pki.chains import is_tainted, verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.records import Entry
from vestibule.spiffe import RevokedIdentity, TrustBundle

BATCH: Final = 100
"""SVIDs per call: keys and CSRs are made on the event loop, which this keeps responsive."""

_log = logging.getLogger(__name__)


class WorkloadSvids:
    """Knows which SVIDs are missing or ageing, and gets them."""

    def __init__(
        self,
        *,
        keeping: Keeping,
        upstream: Upstream,
        contact: Contact,
        clock: Clock,
        jitter: Callable[[], float],
        bundle_outdated: Callable[[], None],
    ) -> None:
        """``bundle_outdated`` hears when the server issues what our bundle does not lead to."""
        self._keeping = keeping
        self._upstream = upstream
        self._contact = contact
        self._clock = clock
        self._jitter = jitter
        self._bundle_outdated = bundle_outdated
        self._refused: dict[str, datetime] = {}

    def next_duties(self) -> Iterator[datetime]:
        """When SVIDs are to be asked for."""
        yield from (
            held.renew_at for each, held in self._keeping.now.svids.items() if each not in self._refused
        )
        yield from self._refused.values()

    def refused_until(self, entry_id: str) -> datetime | None:
        """When an entry whose SVID was refused is tried again; ``None`` if it was not."""
        return self._refused.get(entry_id)

    def entries_changed(self) -> None:
        """What was refused may be granted now."""
        self._refused.clear()

    def drop_untrusted(self, bundle: TrustBundle) -> None:
        """An authority left the bundle: what it signed is worth nothing to anybody."""
        now = self._keeping.now
        kept = {each: held for each, held in now.svids.items() if self._is_trusted(held, bundle)}
        if len(kept) < len(now.svids):
            _log.warning("%d SVIDs lost their authority and are replaced", len(now.svids) - len(kept))
            self._keeping.become(replace(now, svids=kept))

    def _is_trusted(self, held: Held, bundle: TrustBundle) -> bool:
        with suppress(VestibuleError):
            verify_x509_svid(held.svid.chain, bundle, self._clock.now())
            return True
        return False

    async def refresh(self) -> None:
        """Get what is due; an SVID that is refused alone is tried again later.  Raises: errors of ``Upstream``."""
        self._let_go()
        due = self._due()
        for start in range(0, len(due), BATCH):
            await self._refresh(due[start : start + BATCH])

    def _let_go(self) -> None:
        """What is to be had on demand only, and nobody demands, is not renewed but dropped."""
        holdings, now, demand = self._keeping.now, self._clock.now(), self._keeping.cache.demand
        over = [
            each
            for each, held in holdings.svids.items()
            if held.renew_at <= now and each in holdings.entries and not demand.wants(holdings.entries[each])
        ]
        if over:
            kept = {each: held for each, held in holdings.svids.items() if each not in over}
            self._keeping.become(replace(holdings, svids=kept))

    def _due(self) -> list[Entry]:
        holdings, now = self._keeping.now, self._clock.now()
        missing, ageing = [], []
        for entry in holdings.entries.values():
            held = holdings.svids.get(entry.id)
            if self._refused.get(entry.id, now) > now or not self._keeping.cache.demand.wants(entry):
                continue
            if self._is_revoked(entry, now):
                continue
            if held is None or not held.fits(entry):
                missing.append(entry)
            elif held.renew_at <= now:
                ageing.append((held.svid.not_after, entry.id, entry))
        # Who has nothing comes first, then who runs out first.
        return missing + [entry for *_, entry in sorted(ageing, key=lambda each: each[:2])]

    def _is_revoked(self, entry: Entry, now: datetime) -> bool:
        """Whether nothing would be issued to it.  For a second after a revocation the server lets us wait."""
        why = self._keeping.cache.revocations.issuing(entry.spiffe_id, now)
        return why is not None and isinstance(why.target, RevokedIdentity) and not why.target.issued_before

    async def _refresh(self, entries: list[Entry]) -> None:
        keys = {entry.id: generate_key() for entry in entries}
        requests = {entry.id: make_csr(keys[entry.id], entry.spiffe_id) for entry in entries}
        answers = await self._upstream.new_svids(requests)
        self._contact.seen()
        fresh: dict[str, Held] = {}
        for entry in entries:
            try:
                fresh[entry.id] = self._issued(entry, keys[entry.id], answers[entry.id])
                self._refused.pop(entry.id, None)
            except VestibuleError as error:
                _log.error("no new SVID for %s (entry %s): %s", entry.spiffe_id, entry.id, error)
                self._refused[entry.id] = self._clock.now() + timedelta(seconds=REFUSED_PAUSE)
        now = self._keeping.now
        self._keeping.become(replace(now, svids={**now.svids, **fresh}))

    def _issued(self, entry: Entry, key: EllipticCurvePrivateKey, answer: Chain | VestibuleError) -> Held:
        if isinstance(answer, VestibuleError):
            raise answer
        now = self._clock.now()
        try:
            svid = accept(key, answer, self._keeping.now.bundle, now, entry.spiffe_id)
        except VestibuleError as error:
            if error.__cause__ is not None:
                self._bundle_outdated()
            raise
        held = hold(svid, entry, now, self._jitter())
        bundle = self._keeping.now.bundle
        return again(held, now) if bundle and is_tainted(svid.chain, bundle, now) else held
