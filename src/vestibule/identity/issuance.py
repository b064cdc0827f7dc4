"""Issuing X509-SVIDs: from a request and a right to it, to a certificate that is on record."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import (
    BATCH_TOO_LARGE,
    ENTRY_NOT_AUTHORIZED,
    FOREIGN_CSR_ID,
    INVALID_TTL,
    MISSING_PARAMETER,
)
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.issuance_gate import IssuanceGate, OpenGate
from vestibule.identity.names import workload_id
from vestibule.pki.csr import parse_csr
from vestibule.pki.keys import PublicKey
from vestibule.pki.leaves import unsigned_svid
from vestibule.pki.profiles import lifetime
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store.issued import Issued

DEFAULT_SVID_TTL: Final = timedelta(hours=1)
MAX_BATCH: Final = 500
_TURN: Final = 16
"""After so many signatures others get their turn on the event loop."""
_MAX_RECORDED: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """What an agent asks for: an SVID for an entry and the key in the CSR (PKCS #10, DER)."""

    entry_id: str
    csr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A certificate chain (DER, leaf first), without its key, which never left the requester."""

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    serial: str
    not_before: datetime
    not_after: datetime
    entry_id: str = ""
    authority_id: str = ""

    @property
    def record(self) -> Issued:
        """What is remembered of it, so that it can be taken back."""
        return Issued.of(int(self.serial), self.spiffe_id, self.authority_id, self.not_after)


Outcome: TypeAlias = IssuedSvid | VestibuleError


class Issuance:
    """Issues SVIDs.  What is not in the audit log does not leave: each batch is recorded before it is returned."""

    def __init__(
        self,
        authorities: Authorities,
        entitlements: Entitlements,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        default_ttl: timedelta = DEFAULT_SVID_TTL,
        agent_ttl: timedelta | None = None,
        gate: IssuanceGate | None = None,
    ) -> None:
        """``gate`` knows who is revoked, and remembers what is issued."""
        self._authorities = authorities
        self._entitlements = entitlements
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._default_ttl = default_ttl
        self._agent_ttl = agent_ttl or default_ttl
        self._gate: IssuanceGate = gate or OpenGate()
        self._newest: dict[tuple[SpiffeId, SpiffeId], datetime] = {}

    async def for_workloads(self, agent_id: SpiffeId, requests: Sequence[SvidRequest]) -> list[Outcome]:
        """SVIDs for entries of an agent; a request's own error stands in its place.

        Raises: VST1202 (no requests), VST1207 (more than 500), errors of the audit log.
        """
        if not requests:
            raise MISSING_PARAMETER.error("the batch holds no requests")
        if len(requests) > MAX_BATCH:
            raise BATCH_TOO_LARGE.error(f"the batch holds {len(requests)} requests; {MAX_BATCH} is the limit")
        outcomes: list[Outcome] = []
        for number, request in enumerate(requests):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            try:
                outcomes.append(await self._for_entry(agent_id, request))
            except VestibuleError as error:
                outcomes.append(error)
        self._gate.note([each.record for each in outcomes if isinstance(each, IssuedSvid)])
        events = [_event(str(agent_id), *pair) for pair in zip(requests, outcomes, strict=True)]
        await self._audit.record(events)
        for outcome in outcomes:
            if isinstance(outcome, IssuedSvid):
                self._newest[agent_id, outcome.spiffe_id] = outcome.not_after
        return outcomes

    async def for_agent(self, agent_id: SpiffeId, csr: bytes) -> tuple[IssuedSvid, AuditEvent]:
        """An agent's own SVID, with the event that the caller records together with its own.

        Raises: VST1200, VST1202, errors of ``pki.csr``.
        """
        key = self._read_csr(csr, agent_id)
        issued = await self._issue(agent_id, key, self._agent_ttl, agent_id=agent_id)
        self._gate.note([issued.record])
        return issued, _event(str(agent_id), SvidRequest(entry_id="", csr=csr), issued)

    def check_csr(self, csr: bytes) -> None:
        """Whether a CSR is one that an SVID can be issued for.  Raises: errors of ``pki.csr``."""
        parse_csr(csr)

    async def mint(
        self,
        actor: str,
        csr: bytes,
        ttl: timedelta | None,
        permit: Callable[[SpiffeId, Sequence[str]], None] = lambda _id, _names: None,
    ) -> IssuedSvid:
        """An SVID that an operator asks for directly; the CSR itself names the identity.

        ``permit`` raises where the caller may not have one of this identity with these DNS names.

        Raises: VST1202, VST1204, VST1205, VST1209, errors of ``pki.csr``, errors of the audit log.
        """
        if not csr:
            raise MISSING_PARAMETER.error("the request holds no CSR")
        if ttl is not None and ttl <= timedelta():
            raise INVALID_TTL.error("the TTL is not positive")
        facts = parse_csr(csr)
        if facts.spiffe_id is None:
            raise MISSING_PARAMETER.error("the CSR names no SPIFFE ID")
        spiffe_id = workload_id(facts.spiffe_id, self._trust_domain)
        permit(spiffe_id, facts.dns_names)
        issued = await self._issue(
            spiffe_id, facts.public_key, ttl or self._default_ttl, dns_names=facts.dns_names
        )
        self._gate.note([issued.record])
        await self._audit.record([_event(actor, SvidRequest(entry_id="", csr=csr), issued, "svid.mint")])
        return issued

    async def for_server(
        self, server_id: SpiffeId, key: PublicKey, dns_names: Sequence[str] = ()
    ) -> IssuedSvid:
        """An SVID of the server's own.  Raises: errors of the audit log."""
        issued = await self._issue(server_id, key, self._default_ttl, dns_names)
        self._gate.note([issued.record])
        await self._audit.record([_event("server", SvidRequest(entry_id="", csr=b""), issued)])
        return issued

    def newest_expiry(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> datetime | None:
        """When the newest SVID of an identity under an agent ends, as far as this process issued it."""
        return self._newest.get((agent_id, spiffe_id))

    async def _for_entry(self, agent_id: SpiffeId, request: SvidRequest) -> IssuedSvid:
        # 1. The request is complete.
        if not request.entry_id:
            raise MISSING_PARAMETER.error("a request names no entry")
        # 2. The entry is one of this agent's, now.
        entry = self._entitlements.entry_for(agent_id, request.entry_id)
        if entry is None:
            raise ENTRY_NOT_AUTHORIZED.error(f"entry {request.entry_id!r} not found or not authorized")
        # 3. The CSR proves its key, and asks for no other identity than the entry's.
        key = self._read_csr(request.csr, entry.spiffe_id)
        # 4. Identity, names and lifetime are the entry's.
        ttl = entry.x509_svid_ttl or self._default_ttl
        return await self._issue(entry.spiffe_id, key, ttl, entry.dns_names, entry.id, agent_id)

    def _read_csr(self, csr: bytes, expected: SpiffeId) -> PublicKey:
        if not csr:
            raise MISSING_PARAMETER.error("a request holds no CSR")
        facts = parse_csr(csr)
        if facts.spiffe_id not in (None, expected):
            raise FOREIGN_CSR_ID.error(f"the CSR names {facts.spiffe_id}, but {expected} would be issued")
        return facts.public_key

    async def _issue(
        self,
        spiffe_id: SpiffeId,
        key: PublicKey,
        ttl: timedelta,
        dns_names: Sequence[str] = (),
        entry_id: str = "",
        agent_id: SpiffeId | None = None,
    ) -> IssuedSvid:
        terms = await self._gate.admit(spiffe_id, agent_id)
        signer = self._authorities.signer
        valid = terms.lifetime(lifetime(self._clock.now(), ttl, signer.issuer.not_after))
        serial = terms.serial()
        unsigned = unsigned_svid(spiffe_id, key, valid, signer.issuer, dns_names, serial=serial)
        leaf = await signer.sign_svid(unsigned)
        return IssuedSvid(
            spiffe_id=spiffe_id,
            chain=(leaf, *signer.intermediates),
            serial=str(serial),
            not_before=valid.not_before,
            not_after=valid.not_after,
            entry_id=entry_id,
            authority_id=signer.authority.id,
        )


def _event(actor: str, request: SvidRequest, outcome: Outcome, action: str = "svid.issue") -> AuditEvent:
    # An agent may send anything for an ID; what it sent must not fill the disk.
    entry_id = request.entry_id[:_MAX_RECORDED]
    details: dict[str, str] = {"entry_id": entry_id} if entry_id else {}
    if request.csr:
        details["csr_sha256"] = hashlib.sha256(request.csr).hexdigest()
    if isinstance(outcome, VestibuleError):
        details["error"] = outcome.message[:_MAX_RECORDED]
        subject = f"entry:{entry_id}"
        return AuditEvent(
            actor=actor, action=action, subject=subject, outcome=outcome.code.code, details=details
        )
    details |= {"serial": outcome.serial, "not_after": outcome.not_after.isoformat()}
    return AuditEvent(actor=actor, action=action, subject=str(outcome.spiffe_id), details=details)
