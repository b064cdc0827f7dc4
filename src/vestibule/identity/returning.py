"""Agents that come back after their SVID has expired, by the key of that SVID.

An expired certificate proves nothing any more.  That somebody has the key which the server last certified for an
agent, and does not know to be in other hands, does: for a limited time, to a server that the agent has
authenticated, and for nothing but a new SVID of the same agent.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import (
    AGENT_BANNED,
    AGENT_MUST_REATTEST,
    MISSING_PARAMETER,
    RETURN_OFF,
    RETURN_REFUSED,
    RETURN_TOO_LATE,
)
from vestibule.identity.issuance import Issuance, IssuedSvid
from vestibule.identity.nodes import Nodes
from vestibule.identity.refusals import Refusals
from vestibule.pki.possession import CHALLENGE_BYTES, Statement, holds, key_sha256
from vestibule.records import AgentRecord
from vestibule.spiffe import Revocation, Revocations, SpiffeId

DEFAULT_GRACE: Final = timedelta(days=7)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who says to be back.  ``public_key`` is a SubjectPublicKeyInfo (DER), ``address`` where the claim came from."""

    spiffe_id: SpiffeId
    serial: str
    public_key: bytes
    address: str


class Returning:
    """Lets agents return, for ``grace`` after their last SVID expired; never, where that is zero."""

    def __init__(
        self,
        nodes: Nodes,
        issuance: Issuance,
        audit: Audit,
        clock: Clock,
        grace: timedelta,
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        """``revocations`` are kept for as long as an agent may return, not only while its SVID would be valid."""
        self._revocations = revocations
        self._nodes = nodes
        self._issuance = issuance
        self._audit = audit
        self._clock = clock
        self._grace = grace
        self._refusals = Refusals()

    def challenge(self) -> bytes:
        """For one call: nothing that was signed before holds for it."""
        return secrets.token_bytes(CHALLENGE_BYTES)

    async def back(
        self, claim: Claim, challenge: bytes, server_leaf: bytes, csr: bytes, signature: bytes
    ) -> IssuedSvid:
        """A new SVID for the agent.  ``server_leaf``: SHA-256 of the certificate that we showed on its connection.

        Raises: VST1220 (off), VST1221 (no proof), VST1222 (too late), VST1211 (banned), VST1214 (attests again
        instead), VST1202, errors of ``pki.csr`` and of the audit log.
        """
        try:
            return await self._back(claim, challenge, server_leaf, csr, signature)
        except VestibuleError as error:
            _log.warning("%s may not return (from %s): %s", claim.spiffe_id, claim.address, error)
            await self._record_refusal(claim, error)
            raise

    async def _back(
        self, claim: Claim, challenge: bytes, server_leaf: bytes, csr: bytes, signature: bytes
    ) -> IssuedSvid:
        # 1. Agents may return here at all, and the request is complete.
        if self._grace <= timedelta():
            raise RETURN_OFF.error("agents may not return with an expired SVID")
        if not csr or not signature or not server_leaf:
            raise MISSING_PARAMETER.error("a return needs a CSR and a signature, over TLS")
        self._issuance.check_csr(csr)
        # 2. The serial number and the key are those of the last SVID of this agent (or of the one before, as long as
        #    the last was never used: its answer may have been lost), and the key's holder says so here and now.
        #    Until this is proven, nothing is told of what we know about the agent.
        agent = await self._nodes.known(claim.spiffe_id)
        statement = Statement(
            spiffe_id=claim.spiffe_id,
            serial=claim.serial,
            challenge=challenge,
            server_leaf=server_leaf,
            csr=csr,
        )
        proven = holds(statement, signature, claim.public_key)
        if agent is None or not proven or not _is_last(agent, claim):
            raise RETURN_REFUSED.error(f"no proof that {claim.spiffe_id} has come back")
        # 3. It is not banned (an evicted one is not known), and not one that can attest again.
        if agent.banned:
            raise AGENT_BANNED.error(f"agent {claim.spiffe_id} is banned")
        if agent.can_reattest:
            raise AGENT_MUST_REATTEST.error("agent must reattest instead of return")
        # 4. The SVID that it comes back with is not revoked: whoever has the key may be a thief.
        if (why := self._revoked(claim)) is not None:
            raise RETURN_REFUSED.error(f"no return with what does not count: {why}")
        # 5. It was not away for too long.
        if self._clock.now() > _over(agent) + self._grace:
            raise RETURN_TOO_LATE.error(
                f"the last SVID of {claim.spiffe_id} expired {_over(agent):%Y-%m-%d %H:%M:%S} UTC, "
                f"more than {self._grace} ago"
            )
        # 6. On record before it is known, known before it is told.  A ban or an eviction meanwhile holds.
        svid, issued = await self._issuance.for_agent(claim.spiffe_id, csr)
        await self._audit.record([_returned(claim), issued])
        await self._nodes.note_issued(claim.spiffe_id, svid)
        return svid

    def _revoked(self, claim: Claim) -> Revocation | None:
        now, revocations = self._clock.now(), self._revocations()
        serial = int(claim.serial) if claim.serial.isdecimal() else 0
        # Of an identity, when its last SVID was issued is not known for certain: it attests again.
        return revocations.of_serial(serial, now) or revocations.of_identity(claim.spiffe_id, None, now)

    async def _record_refusal(self, claim: Claim, error: VestibuleError) -> None:
        left_out = self._refusals.next(self._clock.now())
        if left_out is None:
            return
        event = AuditEvent(
            actor=f"anonymous:{claim.address}",
            action="agent.return",
            subject=str(claim.spiffe_id),
            outcome=error.code.code,
            details={
                "serial": claim.serial[:64],
                "error": error.message[:300],
                **({"refusals_left_out": left_out} if left_out else {}),
            },
        )
        try:
            await self._audit.record([event])
        except VestibuleError as failure:
            # It is refused in any case; an unwritable audit log is reported where it stops something.
            _log.error("a refused return is not on record: %s", failure)


def _is_last(agent: AgentRecord, claim: Claim) -> bool:
    shown = key_sha256(claim.public_key)
    known = ((agent.serial, agent.key_sha256), (agent.new_serial, agent.new_key_sha256))
    # Records from before keys were kept have none, and match nothing.
    return any(
        bool(serial and key) and serial == claim.serial and hmac.compare_digest(key, shown)
        for serial, key in known
    )


def _over(agent: AgentRecord) -> datetime:
    return max(agent.expires_at, agent.new_expires_at or agent.expires_at)


def _returned(claim: Claim) -> AuditEvent:
    return AuditEvent(
        actor=str(claim.spiffe_id),
        action="agent.return",
        subject=str(claim.spiffe_id),
        details={"serial": claim.serial, "address": claim.address},
    )
