"""Keeping the holdings current: join, follow the server's changes, renew at half-life, survive its absence.

Two tasks.  One follows the server's push of revisions and notes what is out of date.  The other works off
what is due, oldest duty first, and waits for the next duty or the next note:

    has no valid SVID of its own          → join, with evidence
    its own SVID is past its half-life    → renew
    the bundle is out of date             → fetch it
    the entries are out of date           → fetch what changed
    an entry has no fitting, fresh SVID   → key, CSR, batch

A server that cannot be reached changes nothing but the pace: what was there is served until it expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vestibule.agent.bootstrap import FetchUnverified, FirstTrust, is_final
from vestibule.agent.cache import Held, Holdings, SvidCache
from vestibule.agent.codes import AGENT_IS_BANNED, CANNOT_JOIN, WRONG_SVID
from vestibule.agent.ports import Chain, Upstream
from vestibule.agent.vault import Vault
from vestibule.attest.node import NodeProof
from vestibule.calls.codes import BANNED, MUST_ATTEST
from vestibule.clock import Clock
from vestibule.errors import ErrorCode, Kind, VestibuleError
from vestibule.net.codes import SERVER_NOT_TRUSTED
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import certifiable, generate_key, key_to_pkcs8, public_key_der
from vestibule.pki.renewal import renew_at
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid

AGENT_PATH: Final = "/spire/agent/"
BATCH: Final = 100
"""SVIDs per call: keys and CSRs are made on the event loop, which this keeps responsive."""
PAUSE_FIRST: Final = 0.2
PAUSE_LONGEST: Final = 5.0
SHORTEST_REST: Final = timedelta(milliseconds=200)
REFUSED_PAUSE: Final = 30.0
"""Seconds until an entry whose SVID was refused is tried again."""

SAVE_AGAIN: Final = timedelta(seconds=2)
"""How often a cache that could not be written is tried again."""

_TEMPORARY: Final = frozenset({Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.INTERNAL})
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
        first_trust: FirstTrust,
        proof: Callable[[], NodeProof],
        clock: Clock,
        reattests: bool = False,
        renewed: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        """``proof`` gives the evidence to join with, or raises; ``renewed`` hears when ``credential`` changed.

        With ``reattests`` the agent attests again instead of renewing its SVID, as servers demand where evidence can
        be repeated.
        """
        self._trust_domain = trust_domain
        self._cache = cache
        self._vault = vault
        self._upstream = upstream
        self._fetch_unverified = fetch_unverified
        self._first_trust = first_trust
        self._proof = proof
        self._reattests = reattests
        self._reattest_at: datetime | None = None
        self._clock = clock
        self._renewed = renewed
        self._jitter = jitter
        self._note = asyncio.Event()
        self._entries_due = self._bundle_due = True
        self._rejoin = False
        self._distrusted = False
        self._spent: set[bytes] = set()
        self._refused: dict[str, datetime] = {}
        self._unsaved = False
        self._listeners: list[Callable[[], None]] = []
        self.synced = asyncio.Event()
        """Set once the holdings were, for the first time, what the server says."""
        self.connected = False
        self.seen_at: datetime | None = None
        """When the server last answered."""
        self.not_saved: VestibuleError | None = None
        """Why what is held is newer than what is on disk, while it is."""
        self.problem: VestibuleError | None = None
        """Why the last round failed, until one succeeds."""

    @property
    def credential(self) -> X509Svid | None:
        """The SVID to show to the server; none while joining, and never one that expired or was rejected."""
        own = self._cache.now.own
        return None if own is None or self._rejoin or self._is_spent() else own.svid

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when entries, intent or the connection changed on the server's side."""
        self._listeners.append(listener)

    def refresh_bundle(self) -> None:
        """Fetch the trust bundle anew, soon: somebody met a key that is not in it."""
        self._mark(entries=False, bundle=True)

    async def run(self) -> None:
        """Raises: VST2100 when banned; at the first start also what makes joining impossible."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._maintain(), name="agent-maintain")
            tasks.create_task(self._follow(), name="agent-follow")

    # ------------------------------------------------------------------------ following the server

    async def _follow(self) -> None:
        pause = Pause(self._jitter)
        told: ErrorCode | None = None
        while True:
            await self._until_joined()
            try:
                await self._listen(pause)
                _log.info("the server ended the watch; connecting again")
            except VestibuleError as error:
                repeated = told is error.code
                told = error.code
                _log.log(
                    logging.DEBUG if repeated else self._level(error), "not following the server: %s", error
                )
            if self.connected:
                self.connected, told = False, None
                self._tell()
            # Whatever happened meanwhile was not pushed: look at everything when the server answers again.
            self._mark(entries=True, bundle=True)
            await asyncio.sleep(pause.next())

    async def _until_joined(self) -> None:
        seen = self._cache.changed.version
        while self._cache.now.own is None or self._rejoin:
            seen = await self._cache.changed.after(seen)

    async def _listen(self, pause: Pause) -> None:
        last: tuple[int, int] | None = None
        async for revisions in self._upstream.watch():
            pause.reset()
            self.connected, self.seen_at = True, self._clock.now()
            if last is None:
                _log.info("following the server's changes")
            now = (revisions.entries, revisions.bundle)
            # The first message of a connection says where things stand; it is not known what we missed.
            self._mark(entries=last is None or now[0] != last[0], bundle=last is None or now[1] != last[1])
            last = now
            self._tell()

    def _mark(self, *, entries: bool, bundle: bool) -> None:
        self._entries_due |= entries
        self._bundle_due |= bundle
        self._note.set()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    # -------------------------------------------------------------------------- working off duties

    async def _maintain(self) -> None:
        pause = Pause(self._jitter)
        while True:
            self._note.clear()
            try:
                await self._round()
            except VestibuleError as error:
                if not self._judge(error):
                    await self._rest(self._clock.now() + timedelta(seconds=pause.next()))
            else:
                pause.reset()
                self.problem = None
                self._cache.get_ready()
                self.synced.set()
                await self._rest(self._next_duty())

    async def _round(self) -> None:
        try:
            await self._ensure_trust()
            await self._ensure_own_svid()
            await self._refresh_bundle()
            await self._refresh_entries()
            await self._refresh_svids()
        finally:
            # Before the agent has joined there is only a first trust that may have been a mistake.
            if self._unsaved and self._cache.now.own is not None:
                await self._save(self._cache.now)

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
        now = self._cache.now
        duties = [held.renew_at for each, held in now.svids.items() if each not in self._refused]
        duties += self._refused.values()
        duties += [self._reattest_at or now.own.renew_at] if now.own else []
        duties += [self._clock.now() + SAVE_AGAIN] if self._unsaved else []
        # SVIDs of a second or two are renewed as fast as this, and no faster.
        return max(min(duties), self._clock.now() + SHORTEST_REST) if duties else None

    def _judge(self, error: VestibuleError) -> bool:
        """Go on after a pause (False), go on differently at once (True), or give up."""
        repeated = self.problem is not None and self.problem.code is error.code
        self.problem = error
        if error.code is BANNED:
            self._destroy()
            raise AGENT_IS_BANNED.error(f"the server at last said: {error.message}") from error
        rejoin = error.code is MUST_ATTEST and self._cache.now.own is not None and not self._rejoin
        if rejoin:
            self._rejoin = True
            self._renewed()
        if self._cache.now.own is None and self._is_hopeless(error):
            raise error
        # After a very long absence every authority we knew may be gone.  What the operator says counts then,
        # if it is more than "believe anyone", and if we have nothing left to lose.
        self._distrusted = error.code is SERVER_NOT_TRUSTED and self._is_spent() and self._first_trust.is_firm
        _log.log(logging.DEBUG if repeated else self._level(error), "%s (%s)", error, error.advice)
        return rejoin

    def _is_spent(self) -> bool:
        own = self._cache.now.own
        return own is None or own.svid.not_after <= self._clock.now()

    def _is_hopeless(self, error: VestibuleError) -> bool:
        # At the first start nothing is served yet, and the person who started us is looking.
        return is_final(error) or error.code is SERVER_NOT_TRUSTED or error.code.kind not in _TEMPORARY

    def _level(self, error: VestibuleError) -> int:
        return logging.WARNING if error.code.kind is Kind.UNAVAILABLE else logging.ERROR

    def _destroy(self) -> None:
        self._cache.become(Holdings())
        self._unsaved = False
        self._vault.destroy()

    async def _save(self, holdings: Holdings) -> None:
        try:
            await self._vault.save(holdings)
        except VestibuleError as error:
            # Serving goes on from memory; the next round tries again.
            if self.not_saved is None:
                _log.error("%s (%s)", error, error.advice)
            self._unsaved, self.not_saved = True, error
        else:
            if self.not_saved is not None:
                _log.info("the agent's cache is written again")
            self._unsaved, self.not_saved = False, None

    def _become(self, holdings: Holdings) -> None:
        self._unsaved |= self._cache.become(holdings)

    # ---------------------------------------------------------------------------------- the duties

    async def _ensure_trust(self) -> None:
        if self._cache.now.bundle is None or self._distrusted:
            bundle = await self._first_trust.bundle(self._trust_domain, self._fetch_unverified)
            self._distrusted = False
            self._become(replace(self._cache.now, bundle=bundle))

    async def _ensure_own_svid(self) -> None:
        own = self._cache.now.own
        if own is None or self._is_spent() or self._rejoin:
            await self._join()
        elif own.renew_at <= self._clock.now():
            await (self._reattest() if self._reattests else self._renew())

    async def _join(self) -> None:
        proof = self._proof()
        try:
            evidence = hashlib.sha256(await proof.payload()).digest() if proof.single_use else b""
            if evidence in self._spent:
                raise CANNOT_JOIN.error("the agent has to join again, and its join token is used up")
            key = generate_key()
            chain = await self._attest(proof, make_csr(key), evidence)
        finally:
            await proof.close()
        await self._take_own(key, chain)
        self._rejoin, self._reattest_at = False, None
        self._mark(entries=True, bundle=True)
        assert self._cache.now.own is not None
        _log.info("joined as %s", self._cache.now.own.svid.spiffe_id)

    async def _attest(self, proof: NodeProof, csr: bytes, evidence: bytes) -> Chain:
        try:
            chain = await self._upstream.attest(proof, csr)
        except VestibuleError as error:
            if evidence and error.code.kind not in _TEMPORARY and error.code is not MUST_ATTEST:
                # The server would refuse, and put on record, every further attempt.
                self._spent.add(evidence)
            raise
        if evidence:
            self._spent.add(evidence)
        return chain

    async def _reattest(self) -> None:
        """Attest again while the SVID is still valid; a refusal does not keep from the other duties."""
        if self._reattest_at is not None and self._reattest_at > self._clock.now():
            return
        try:
            await self._join()
        except VestibuleError as error:
            if error.code is BANNED or error.code.kind in _TEMPORARY:
                raise
            _log.error("cannot attest again: %s (%s)", error, error.advice)
            self._reattest_at = self._clock.now() + timedelta(seconds=REFUSED_PAUSE)

    async def _renew(self) -> None:
        key = generate_key()
        await self._take_own(key, await self._upstream.renew(make_csr(key)))

    async def _take_own(self, key: EllipticCurvePrivateKey, chain: Chain) -> None:
        svid = self._checked(key, chain, None)
        if not svid.spiffe_id.path.startswith(AGENT_PATH):
            raise WRONG_SVID.error(f"the server calls this agent {svid.spiffe_id}, which is no agent's name")
        # On disk before it is shown: the token is used up, and once the server sees the new certificate it takes
        # no other.
        holdings = replace(self._cache.now, own=self._held(svid, None))
        await self._save(holdings)
        self._become(holdings)
        self.seen_at = self._clock.now()
        self._renewed()

    async def _refresh_bundle(self) -> None:
        if not self._bundle_due:
            return
        self._bundle_due = False
        try:
            bundle = await self._upstream.bundle()
        except VestibuleError:
            self._bundle_due = True
            raise
        self.seen_at = self._clock.now()
        before = self._cache.now.bundle
        self._become(replace(self._cache.now, bundle=bundle))
        if before is not None and before.x509_authorities != bundle.x509_authorities:
            self._drop_untrusted(bundle)

    def _drop_untrusted(self, bundle: TrustBundle) -> None:
        """An authority left the bundle: what it signed is worth nothing to anybody."""
        now = self._cache.now
        kept = {each: held for each, held in now.svids.items() if self._is_trusted(held, bundle)}
        if len(kept) < len(now.svids):
            _log.warning("%d SVIDs lost their authority and are replaced", len(now.svids) - len(kept))
            self._become(replace(now, svids=kept))

    def _is_trusted(self, held: Held, bundle: TrustBundle) -> bool:
        with suppress(VestibuleError):
            verify_x509_svid(held.svid.chain, bundle, self._clock.now())
            return True
        return False

    async def _refresh_entries(self) -> None:
        if not self._entries_due:
            return
        self._entries_due = False
        try:
            entries = await self._upstream.authorized_entries(self._cache.now.entries)
        except VestibuleError:
            self._entries_due = True
            raise
        self.seen_at = self._clock.now()
        self._refused.clear()
        self._become(replace(self._cache.now, entries=entries))

    async def _refresh_svids(self) -> None:
        due = self._due()
        for start in range(0, len(due), BATCH):
            await self._refresh_batch(due[start : start + BATCH])

    def _due(self) -> list[Entry]:
        holdings, now = self._cache.now, self._clock.now()
        missing, ageing = [], []
        for entry in holdings.entries.values():
            held = holdings.svids.get(entry.id)
            if self._refused.get(entry.id, now) > now:
                continue
            if held is None or not held.fits(entry):
                missing.append(entry)
            elif held.renew_at <= now:
                ageing.append((held.svid.not_after, entry.id, entry))
        # Who has nothing comes first, then who runs out first.
        return missing + [entry for *_, entry in sorted(ageing, key=lambda each: each[:2])]

    async def _refresh_batch(self, entries: list[Entry]) -> None:
        keys = {entry.id: generate_key() for entry in entries}
        requests = {entry.id: make_csr(keys[entry.id], entry.spiffe_id) for entry in entries}
        answers = await self._upstream.new_svids(requests)
        self.seen_at = self._clock.now()
        fresh: dict[str, Held] = {}
        for entry in entries:
            try:
                fresh[entry.id] = self._issued(entry, keys[entry.id], answers[entry.id])
                self._refused.pop(entry.id, None)
            except VestibuleError as error:
                _log.error("no new SVID for %s (entry %s): %s", entry.spiffe_id, entry.id, error)
                self._refused[entry.id] = self._clock.now() + timedelta(seconds=REFUSED_PAUSE)
        now = self._cache.now
        self._become(replace(now, svids={**now.svids, **fresh}))

    def _issued(self, entry: Entry, key: EllipticCurvePrivateKey, answer: Chain | VestibuleError) -> Held:
        if isinstance(answer, VestibuleError):
            raise answer
        return self._held(self._checked(key, answer, entry.spiffe_id), entry)

    def _held(self, svid: X509Svid, entry: Entry | None) -> Held:
        due = renew_at(svid.not_before, svid.not_after, self._clock.now(), self._jitter())
        if entry is None:
            return Held(svid=svid, renew_at=due)
        return Held(svid=svid, renew_at=due, dns_names=entry.dns_names, ttl=entry.x509_svid_ttl)

    def _checked(self, key: EllipticCurvePrivateKey, chain: Chain, expected: SpiffeId | None) -> X509Svid:
        """The SVID, if it is for our key, for the expected identity, and valid under our bundle."""
        if not chain or self._cache.now.bundle is None:
            raise WRONG_SVID.error("the server returned no certificate")
        try:
            found = verify_x509_svid(chain, self._cache.now.bundle, self._clock.now())
        except VestibuleError as error:
            self._bundle_due = True
            raise WRONG_SVID.error(f"the server's answer is not a valid SVID: {error.message}") from error
        if expected is not None and found != expected:
            raise WRONG_SVID.error(f"the server returned an SVID of {found} for {expected}")
        theirs = public_key_der(certifiable(load_certificate(chain[0]).public_key()))
        if theirs != public_key_der(key.public_key()):
            raise WRONG_SVID.error(f"the server returned an SVID of {found} for another key")
        facts = leaf_facts(chain[0])
        return X509Svid(
            spiffe_id=found,
            chain=tuple(chain),
            key=key_to_pkcs8(key),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )


class Pause:
    """Growing pauses between attempts, moved by up to a quarter so that agents do not march in step."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._seconds = PAUSE_FIRST

    def next(self) -> float:
        """The seconds to wait now; the next answer is longer."""
        seconds, self._seconds = self._seconds, min(self._seconds * 2, PAUSE_LONGEST)
        return seconds * (1 + 0.25 * self._jitter())

    def reset(self) -> None:
        """An attempt succeeded."""
        self._seconds = PAUSE_FIRST
