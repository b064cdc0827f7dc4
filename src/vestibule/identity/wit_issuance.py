"""Issuing WIT-SVIDs: from a right to an identity and a key, to a token that is on record."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import (
    BATCH_TOO_LARGE,
    ENTRY_NOT_AUTHORIZED,
    INVALID_TTL,
    MISSING_PARAMETER,
    WIT_SVIDS_DISABLED,
)
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.issuance_gate import IssuanceGate, OpenGate
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.names import workload_id
from vestibule.pki.jwt import UnsignedJwt
from vestibule.pki.revocation import AGENT_CLAIM
from vestibule.pki.wit import TYPE, bound_key, read_wit_svid, wit_claims
from vestibule.spiffe import SpiffeId, TrustDomain, WitSvid

DEFAULT_WIT_SVID_TTL: Final = timedelta(hours=1)
MAX_BATCH: Final = 500
_RECORDED_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class WitRequest:
    """An entry's identity for the holder of a public key (DER), who signs with ``algorithm``."""

    entry_id: str
    public_key: bytes
    algorithm: str


class WitIssuance:
    """Issues WIT-SVIDs.  What is not in the audit log does not leave."""

    def __init__(
        self,
        authorities: JwtAuthorities | None,
        entitlements: Entitlements,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        default_ttl: timedelta = DEFAULT_WIT_SVID_TTL,
        gate: IssuanceGate | None = None,
    ) -> None:
        """Without ``authorities`` there are no WIT-SVIDs; ``gate`` knows who is revoked."""
        self._authorities = authorities
        self._entitlements = entitlements
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._default_ttl = default_ttl
        self._gate: IssuanceGate = gate or OpenGate()

    async def for_workloads(
        self, agent_id: SpiffeId, requests: Sequence[WitRequest]
    ) -> list[WitSvid | VestibuleError]:
        """Tokens for entries of an agent; a request's own error stands in its place.

        1. WIT-SVIDs are switched on, and there are requests, not too many.
        2. Each entry is one of this agent's, now.
        3. Each key is of a kind that fits its algorithm.

        The lifetime is that of the entry's certificates, as in SPIRE.
        Raises: VST1312, VST1202, VST1207 (step 1), errors of the audit log.  In place of a token: VST1202, VST1201 (2),
        VST1016 (3), VST1250, VST1300, VST1004.
        """
        authorities = self._enabled()  # 1
        if not requests:
            raise MISSING_PARAMETER.error("missing parameters")
        if len(requests) > MAX_BATCH:
            raise BATCH_TOO_LARGE.error(f"the batch holds {len(requests)} requests; {MAX_BATCH} is the limit")
        outcomes: list[WitSvid | VestibuleError] = []
        for request in requests:
            try:
                outcomes.append(await self._for_entry(authorities, agent_id, request))
            except VestibuleError as error:
                outcomes.append(error)
        events = [_event(str(agent_id), *pair) for pair in zip(requests, outcomes, strict=True)]
        await self._audit.record(events)
        return outcomes

    async def mint(
        self, actor: str, spiffe_id: SpiffeId, public_key: bytes, algorithm: str, ttl: timedelta | None
    ) -> WitSvid:
        """A token that the operator asks for directly.

        Raises: VST1312, VST1204, VST1205, VST1209, VST1016, VST1250, VST1300, VST1004, errors of the audit log.
        """
        authorities = self._enabled()
        if ttl is not None and ttl <= timedelta():
            raise INVALID_TTL.error("the TTL is not positive")
        workload_id(spiffe_id, self._trust_domain)
        svid = await self._sign(authorities, spiffe_id, public_key, algorithm, ttl or self._default_ttl, None)
        await self._audit.record([_issued(actor, "wit-svid.mint", svid)])
        return svid

    def _enabled(self) -> JwtAuthorities:
        if self._authorities is None:
            raise WIT_SVIDS_DISABLED.error("WIT functionality is disabled")
        return self._authorities

    async def _for_entry(
        self, authorities: JwtAuthorities, agent_id: SpiffeId, request: WitRequest
    ) -> WitSvid:
        if not request.entry_id or not request.public_key:
            raise MISSING_PARAMETER.error("missing public key" if request.entry_id else "missing entry ID")
        entry = self._entitlements.entry_for(agent_id, request.entry_id)
        if entry is None:  # 2
            raise ENTRY_NOT_AUTHORIZED.error("entry not found or not authorized")
        ttl = entry.x509_svid_ttl or self._default_ttl
        svid = await self._sign(  # 3
            authorities, entry.spiffe_id, request.public_key, request.algorithm, ttl, agent_id
        )
        return replace(svid, hint=entry.hint)

    async def _sign(
        self,
        authorities: JwtAuthorities,
        spiffe_id: SpiffeId,
        public_key: bytes,
        algorithm: str,
        ttl: timedelta,
        agent_id: SpiffeId | None,
    ) -> WitSvid:
        jwk = bound_key(public_key, algorithm)
        terms = await self._gate.admit(spiffe_id, agent_id)
        signer = authorities.signer
        now, ends = self._clock.now(), signer.key.not_after
        claims = wit_claims(spiffe_id, jwk, now, ttl, ends, str(uuid.uuid4()))
        if terms.mark:
            claims[AGENT_CLAIM] = f"{terms.mark:016x}"
        unsigned = UnsignedJwt(key_id=signer.key.id, claims=claims, typ=TYPE)
        return read_wit_svid(unsigned.signed(await signer.sign(unsigned.signing_input)))


def _event(actor: str, request: WitRequest, outcome: WitSvid | VestibuleError) -> AuditEvent:
    if isinstance(outcome, WitSvid):
        return _issued(actor, "wit-svid.issue", outcome, request.entry_id)
    return AuditEvent(
        actor=actor,
        action="wit-svid.issue",
        subject=f"entry:{request.entry_id}"[:_RECORDED_CHARACTERS],
        outcome=outcome.code.code,
        details={"error": outcome.message[:_RECORDED_CHARACTERS]},
    )


def _issued(actor: str, action: str, svid: WitSvid, entry_id: str = "") -> AuditEvent:
    details: dict[str, Detail] = {
        **({"entry_id": entry_id} if entry_id else {}),
        "not_after": svid.expires_at.isoformat(),
        "kid": svid.key_id,
    }
    return AuditEvent(actor=actor, action=action, subject=str(svid.spiffe_id), details=details)
