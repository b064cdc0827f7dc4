"""Issuing JWT-SVIDs: from a right to an identity and an audience, to a token that is on record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import ENTRY_NOT_AUTHORIZED, INVALID_TTL, JWT_SVIDS_DISABLED
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.issuance_gate import IssuanceGate, OpenGate
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.names import workload_id
from vestibule.pki.jwt import UnsignedJwt, read_jwt_svid, svid_claims
from vestibule.pki.revocation import AGENT_CLAIM
from vestibule.records import Entry
from vestibule.spiffe import JwtSvid, SpiffeId, TrustDomain

DEFAULT_JWT_SVID_TTL: Final = timedelta(minutes=5)
_RECORDED: Final = 16
_RECORDED_CHARACTERS: Final = 300
"""Of what a workload or an agent may choose, so much goes on record: they must not fill the audit log's disk."""


class JwtIssuance:
    """Issues JWT-SVIDs.  What is not in the audit log does not leave; the token itself is in no log."""

    def __init__(
        self,
        authorities: JwtAuthorities | None,
        entitlements: Entitlements,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        default_ttl: timedelta = DEFAULT_JWT_SVID_TTL,
        issuer: str = "",
        gate: IssuanceGate | None = None,
    ) -> None:
        """Without ``authorities`` there are no JWT-SVIDs; ``issuer`` goes into every token as ``iss``.

        ``gate`` knows who is revoked.
        """
        self._gate: IssuanceGate = gate or OpenGate()
        self._authorities = authorities
        self._entitlements = entitlements
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._default_ttl = default_ttl
        self._issuer = issuer

    async def for_workload(self, agent_id: SpiffeId, entry_id: str, audience: Sequence[str]) -> JwtSvid:
        """A token for an entry of an agent.

        1. JWT-SVIDs are not switched off.
        2. The entry is one of this agent's, now.
        3. Identity, lifetime and further claims are the entry's; the audience is what was asked for, and not empty.

        Raises: VST1303 (step 1), VST1201 (2), VST1016 (3), VST1250 (revoked), VST1300, VST1004, errors of the audit
        log.
        """
        authorities = self._enabled()  # 1
        actor, subject = str(agent_id), f"entry:{entry_id}"
        try:
            entry = self._entitlements.entry_for(agent_id, entry_id)
            if entry is None:  # 2
                raise ENTRY_NOT_AUTHORIZED.error(f"entry {entry_id!r} not found or not authorized")
            ttl = entry.jwt_svid_ttl or self._default_ttl
            extra = _extra(entry)
            svid = await self._sign(
                authorities, entry.spiffe_id, audience, ttl, entry.hint, extra, agent_id
            )  # 3
        except VestibuleError as error:
            await self._audit.record([_refused(actor, "jwt-svid.issue", subject, error)])
            raise
        await self._audit.record([_issued(actor, "jwt-svid.issue", svid, entry_id)])
        return svid

    async def mint(
        self, actor: str, spiffe_id: SpiffeId, audience: Sequence[str], ttl: timedelta | None
    ) -> JwtSvid:
        """A token that the operator asks for directly.

        Raises: VST1303, VST1204, VST1205, VST1209, VST1016, VST1300, VST1004, errors of the audit log.
        """
        authorities = self._enabled()
        if ttl is not None and ttl <= timedelta():
            raise INVALID_TTL.error("the TTL is not positive")
        workload_id(spiffe_id, self._trust_domain)
        svid = await self._sign(authorities, spiffe_id, audience, ttl or self._default_ttl)
        await self._audit.record([_issued(actor, "jwt-svid.mint", svid)])
        return svid

    def _enabled(self) -> JwtAuthorities:
        if self._authorities is None:
            raise JWT_SVIDS_DISABLED.error("JWT functionality is disabled")
        return self._authorities

    async def _sign(
        self,
        authorities: JwtAuthorities,
        spiffe_id: SpiffeId,
        audience: Sequence[str],
        ttl: timedelta,
        hint: str = "",
        extra: Mapping[str, Any] | None = None,
        agent_id: SpiffeId | None = None,
    ) -> JwtSvid:
        terms = await self._gate.admit(spiffe_id, agent_id)
        signer = authorities.signer
        claims = svid_claims(spiffe_id, audience, self._clock.now(), ttl, signer.key.not_after, self._issuer)
        # The registered claims win, whatever an entry may have been kept with.
        claims = {**(extra or {}), **claims}
        if terms.mark:
            claims[AGENT_CLAIM] = f"{terms.mark:016x}"
        unsigned = UnsignedJwt(key_id=signer.key.id, claims=claims)
        token = unsigned.signed(await signer.sign(unsigned.signing_input))
        return replace(read_jwt_svid(token), hint=hint)


def _extra(entry: Entry) -> dict[str, Any]:
    """What the entry adds to its tokens."""
    return entry.claims | ({"jti": str(uuid.uuid4())} if entry.jwt_svid_include_jti else {})


def _issued(actor: str, action: str, svid: JwtSvid, entry_id: str = "") -> AuditEvent:
    shown = [each[:_RECORDED_CHARACTERS] for each in svid.audience[:_RECORDED]]
    details: dict[str, Detail] = {
        **({"entry_id": entry_id} if entry_id else {}),
        "audience": shown,
        **({"audiences": len(svid.audience)} if len(svid.audience) > len(shown) else {}),
        "not_after": svid.expires_at.isoformat(),
        "kid": svid.key_id,
    }
    return AuditEvent(actor=actor, action=action, subject=str(svid.spiffe_id), details=details)


def _refused(actor: str, action: str, subject: str, error: VestibuleError) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        action=action,
        subject=subject[:_RECORDED_CHARACTERS],
        outcome=error.code.code,
        details={"error": error.message[:_RECORDED_CHARACTERS]},
    )
