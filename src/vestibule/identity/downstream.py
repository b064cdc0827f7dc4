"""What servers below this one may have: signing certificates, and their JWT keys in the bundle.

Who is such a server is decided before (``doors.access``): an identity with a ``downstream`` entry.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import FOREIGN_CSR_ID, INVALID_TTL, MISSING_PARAMETER
from vestibule.identity.issuance_gate import IssuanceGate, OpenGate
from vestibule.pki.certificates import load_certificate
from vestibule.pki.csr import parse_csr
from vestibule.pki.profiles import intermediate_ca, key_identifier, lifetime
from vestibule.pki.revocation import fingerprint, key_fingerprint
from vestibule.records import LowerAuthority
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustDomain
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamCa:
    """A signing certificate for a server below.

    ``chain`` is DER, the new certificate first, up to but without the root; ``roots`` are the bundle's.
    """

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]


class Downstream:
    """Serves the servers below this one."""

    def __init__(
        self,
        authorities: Authorities,
        store: Store,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        default_ttl: timedelta,
        gate: IssuanceGate | None = None,
    ) -> None:
        """``default_ttl`` is the life of a signing certificate whose server asks for none in particular.

        ``gate`` knows who is revoked.
        """
        self._gate: IssuanceGate = gate or OpenGate()
        self._authorities = authorities
        self._store = store
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._default_ttl = default_ttl

    async def sign_ca(
        self, server: SpiffeId, csr: bytes, ttl: timedelta | None, *, serial: int = 0
    ) -> DownstreamCa:
        """A signing certificate for the key in ``csr``, at most as long as what signs it.

        ``serial`` is of the certificate that the server called with: it says through which agent it was issued.
        The server below may have servers below it in turn: no limit is set for how many levels there are.
        Raises: VST1200, VST1202, VST1209, VST1250 (revoked), VST1300, errors of ``pki.csr``, of the audit log and of
        the store: a certificate that could not be taken back is not handed out.
        """
        if not csr:
            raise MISSING_PARAMETER.error("missing CSR")
        if ttl is not None and ttl <= timedelta():
            raise INVALID_TTL.error("the TTL is not positive")
        facts = parse_csr(csr)
        if facts.spiffe_id not in (None, self._trust_domain.id):
            raise FOREIGN_CSR_ID.error(
                f"the CSR names {facts.spiffe_id}, but a signing certificate of {self._trust_domain.id} "
                "would be issued"
            )
        await self._gate.admit(server)
        signer = self._authorities.signer
        valid = lifetime(self._clock.now(), ttl or self._default_ttl, signer.issuer.not_after)
        signed = await signer.sign(intermediate_ca(facts.public_key, valid, signer.issuer, None))
        event = AuditEvent(
            actor=str(server),
            action="downstream-ca.issue",
            subject=str(self._trust_domain.id),
            details={
                "serial": str(load_certificate(signed).serial_number),
                # By this it can be revoked, where nobody but a thief has the certificate.
                "sha256": hashlib.sha256(signed).hexdigest(),
                "not_after": valid.not_after.isoformat(),
                "csr_sha256": hashlib.sha256(csr).hexdigest(),
                "authority_id": signer.authority.id,
            },
        )
        await self._audit.record([event])
        await self._store.lower_authorities.put(_kept(server, signed, serial >> MARK_BITS), self._clock.now())
        return DownstreamCa(
            chain=(signed, *signer.intermediates), roots=self._authorities.bundle().x509_authorities
        )

    async def publish_jwt(self, server: SpiffeId, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        """Put a server's JWT key into the bundle; returns all keys of the trust domain.

        Raises: VST1313, VST1314, VST1315, errors of audit, store and upstream.
        """
        return await self._authorities.publish_jwt(key, server)

    async def publish_wit(self, server: SpiffeId, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        """Put a server's WIT key into the bundle; returns all WIT keys of the trust domain.

        Raises: VST1312, VST1313, VST1314, VST1315, errors of audit and store.
        """
        return await self._authorities.publish_wit(key, server)


def _kept(server: SpiffeId, signed: bytes, mark: int) -> LowerAuthority:
    certificate = load_certificate(signed)
    return LowerAuthority(
        fingerprint=fingerprint(signed),
        key=key_fingerprint(signed),
        authority_id=key_identifier(certificate.public_key()).digest.hex(),
        server=server,
        mark=mark if mark < 2**MARK_BITS else 0,
        not_after=certificate.not_valid_after_utc,
    )
