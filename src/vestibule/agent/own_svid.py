"""The agent's own SVID: joined for, renewed at half-life, attested for again where that is the way.

One that has expired is not the end: the agent comes back with the key of it (``calls.presence``), as long as the server
lets it; else it attests, where it has evidence that can be repeated, or that was not used up.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vestibule.agent.accepting import accept, hold
from vestibule.agent.codes import CANNOT_JOIN, WRONG_SVID
from vestibule.agent.contact import Contact
from vestibule.agent.keeping import Keeping
from vestibule.agent.ports import Chain, Upstream
from vestibule.agent.tainting import again
from vestibule.attest.node import NodeProof
from vestibule.calls.codes import BANNED, MUST_ATTEST, NOT_LET_BACK
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.pki.chains import is_tainted
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import X509Svid

AGENT_PATH: Final = "/spire/agent/"
REFUSED_PAUSE: Final = 30.0
"""Seconds until an SVID that was refused is asked for again."""

BACK_PAUSE: Final = timedelta(minutes=10)
"""How long an agent that was not let back waits until it asks that again; evidence is tried meanwhile."""

TEMPORARY: Final = frozenset({Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.INTERNAL})
"""Kinds of failures that pass by themselves."""

_log = logging.getLogger(__name__)


class OwnSvid:
    """Gets and keeps the agent's own certificate."""

    def __init__(
        self,
        *,
        keeping: Keeping,
        upstream: Upstream,
        proof: Callable[[], NodeProof],
        reattests: bool,
        contact: Contact,
        clock: Clock,
        jitter: Callable[[], float],
        renewed: Callable[[], None],
        joined: Callable[[], None],
    ) -> None:
        """``renewed`` hears when ``credential`` changed, ``joined`` when everything is to be looked at anew."""
        self._keeping = keeping
        self._upstream = upstream
        self._proof = proof
        self._reattests = reattests
        self._contact = contact
        self._clock = clock
        self._jitter = jitter
        self._renewed = renewed
        self._joined = joined
        self._spent: set[bytes] = set()
        self._rejoin = False
        self._not_back: VestibuleError | None = None
        self._wrong: VestibuleError | None = None
        self._wrong_until: datetime | None = None
        self._back_again_at: datetime | None = None
        self.reattest_at: datetime | None = None
        """When to attest again after a refusal."""

    @property
    def credential(self) -> X509Svid | None:
        """The SVID to show to the server; none while joining, and never one that expired or was rejected."""
        own = self._keeping.now.own
        return None if own is None or self._rejoin or self.is_spent() else own.svid

    @property
    def is_joining(self) -> bool:
        """Whether there is no SVID that the server would accept."""
        return self._keeping.now.own is None or self._rejoin

    def is_spent(self) -> bool:
        """Whether there is no SVID, or one that has expired."""
        own = self._keeping.now.own
        return own is None or own.svid.not_after <= self._clock.now()

    def is_returning(self) -> bool:
        """Whether this agent was joined, and has no SVID that counts any more."""
        return self._keeping.now.own is not None and (self._rejoin or self.is_spent())

    def next_duty(self) -> datetime | None:
        """When the SVID is to be renewed."""
        own = self._keeping.now.own
        return (self.reattest_at or own.renew_at) if own else None

    def rejected(self) -> bool:
        """The server wants us to attest; whether that is news."""
        if self.is_joining:
            return False
        self._rejoin = True
        self._renewed()
        return True

    async def ensure(self) -> None:
        """Join, renew or attest again, if it is time to.

        Raises: VST2101, VST2109, the errors of ``Upstream`` and of the evidence.
        """
        own = self._keeping.now.own
        self._wait_after_a_wrong_one()
        if own is None or self.is_spent() or self._rejoin:
            if not await self._come_back():
                await self._join()
        elif own.renew_at <= self._clock.now():
            await (self._reattest() if self._reattests else self._renew())

    def _wait_after_a_wrong_one(self) -> None:
        # Each one that is of no use to us, by a wrong clock of ours, say, is a signature and a record of the server's.
        if self._wrong is None or self._wrong_until is None:
            return
        left = self._wrong_until - self._clock.now()
        if timedelta() < left <= timedelta(seconds=REFUSED_PAUSE):
            raise self._wrong.code.error(self._wrong.message)
        self._wrong = self._wrong_until = None

    async def _come_back(self) -> bool:
        """Return with the last key; whether the server let us.  Who can attest again is expected to do that."""
        own, now = self._keeping.now.own, self._clock.now()
        if own is None or self._reattests or (self._back_again_at is not None and now < self._back_again_at):
            return False
        key = generate_key()
        try:
            chain = await self._upstream.come_back(own.svid, make_csr(key))
        except VestibuleError as error:
            if error.code is not NOT_LET_BACK:
                raise
            _log.warning("%s", error)
            self._not_back, self._back_again_at = error, now + BACK_PAUSE
            return False
        await self._take(key, chain)
        self._settled()
        _log.info("back as %s", own.svid.spiffe_id)
        return True

    def _settled(self) -> None:
        self._rejoin, self.reattest_at = False, None
        self._not_back = self._back_again_at = None
        self._joined()

    async def _join(self) -> None:
        try:
            await self._join_anew()
        except VestibuleError as error:
            if error.code is CANNOT_JOIN and self._not_back is not None:
                raise CANNOT_JOIN.error(f"{error.message}; {self._not_back.message}") from error
            raise

    async def _join_anew(self) -> None:
        proof = self._proof()
        try:
            evidence = hashlib.sha256(await proof.payload()).digest() if proof.single_use else b""
            if evidence in self._spent:
                raise CANNOT_JOIN.error("the agent has to join again, and its join token is used up")
            key = generate_key()
            chain = await self._attest(proof, make_csr(key), evidence)
        finally:
            await proof.close()
        await self._take(key, chain)
        self._settled()
        assert self._keeping.now.own is not None
        _log.info("joined as %s", self._keeping.now.own.svid.spiffe_id)

    async def _attest(self, proof: NodeProof, csr: bytes, evidence: bytes) -> Chain:
        try:
            chain = await self._upstream.attest(proof, csr)
        except VestibuleError as error:
            if evidence and error.code.kind not in TEMPORARY and error.code is not MUST_ATTEST:
                # The server would refuse, and put on record, every further attempt.
                self._spent.add(evidence)
            raise
        if evidence:
            self._spent.add(evidence)
        return chain

    async def _reattest(self) -> None:
        """Attest again while the SVID is still valid; a refusal does not keep from the other duties."""
        if self.reattest_at is not None and self.reattest_at > self._clock.now():
            return
        try:
            await self._join()
        except VestibuleError as error:
            if error.code is BANNED or error.code.kind in TEMPORARY:
                raise
            _log.error("cannot attest again: %s (%s)", error, error.advice)
            self.reattest_at = self._clock.now() + timedelta(seconds=REFUSED_PAUSE)

    async def _renew(self) -> None:
        key = generate_key()
        await self._take(key, await self._upstream.renew(make_csr(key)))

    async def _take(self, key: EllipticCurvePrivateKey, chain: Chain) -> None:
        now = self._clock.now()
        try:
            svid = accept(key, chain, self._keeping.now.bundle, now)
        except VestibuleError as error:
            self._wrong, self._wrong_until = error, now + timedelta(seconds=REFUSED_PAUSE)
            raise
        if not svid.spiffe_id.path.startswith(AGENT_PATH):
            raise WRONG_SVID.error(f"the server calls this agent {svid.spiffe_id}, which is no agent's name")
        # On disk before it is shown: the token is used up, and once the server sees the new certificate it takes
        # no other.
        held, bundle = hold(svid, None, now, self._jitter()), self._keeping.now.bundle
        if bundle is not None and is_tainted(svid.chain, bundle, now):
            held = again(held, now)
        holdings = replace(self._keeping.now, own=held)
        try:
            await self._keeping.save(holdings)
        finally:
            # Also when cancelled: what is written at the end must not be the SVID before.
            self._keeping.become(holdings)
        self._contact.seen()
        self._renewed()
