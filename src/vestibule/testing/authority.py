"""A certificate authority of a test's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.pki import profiles
from vestibule.pki.chains import leaf_facts
from vestibule.pki.jwt import UnsignedJwt, read_jwt_svid, svid_claims
from vestibule.pki.keys import PublicKey, generate_key, key_to_pkcs8, public_key_der
from vestibule.spiffe import JwtAuthority, JwtSvid, SpiffeId, TrustBundle, TrustDomain, X509Svid

HOUR = timedelta(hours=1)


class TestAuthority:
    """Issues SVIDs of one trust domain, by the same profiles as the server.

    ``now`` is the instant of issue, the machine's time unless given: pass a ``FakeClock``'s.  With
    ``intermediates``, as below an upstream authority, so many certificates stand between an SVID and the bundle's.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(
        self,
        trust_domain: TrustDomain | str = "example.org",
        *,
        now: datetime | None = None,
        ttl: timedelta = 24 * HOUR,
        intermediates: int = 0,
    ) -> None:
        self.trust_domain = TrustDomain.parse(str(trust_domain))
        self.key: EllipticCurvePrivateKey = generate_key()
        valid = profiles.lifetime(now or datetime.now(UTC), ttl)
        builder = profiles.self_signed_ca(self.trust_domain, self.key.public_key(), valid)
        self.certificate = builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)
        self.issuer = profiles.Issuer.of(self.certificate, self.trust_domain)
        self.intermediates: tuple[bytes, ...] = ()
        self._signing_key = self.key
        for below in reversed(range(intermediates)):
            key = generate_key()
            builder = profiles.intermediate_ca(key.public_key(), valid, self.issuer, below)
            signed = builder.sign(self._signing_key, SHA256()).public_bytes(Encoding.DER)
            self.intermediates = (signed, *self.intermediates)
            self.issuer, self._signing_key = profiles.Issuer.of(signed, self.trust_domain), key
        self.jwt_key: EllipticCurvePrivateKey = generate_key()

    @property
    def bundle(self) -> TrustBundle:
        """The trust domain's bundle: this authority alone."""
        return TrustBundle(trust_domain=self.trust_domain, x509_authorities=(self.certificate,), sequence=1)

    @property
    def jwt_authority(self) -> JwtAuthority:
        """The key that verifies its JWT-SVIDs; ``jwt_bundle`` has it."""
        public_key = self.jwt_key.public_key()
        return JwtAuthority(key_id=profiles.authority_id(public_key), public_key=public_key_der(public_key))

    @property
    def jwt_bundle(self) -> TrustBundle:
        """The bundle with the JWT key beside the certificate."""
        return replace(self.bundle, jwt_authorities=(self.jwt_authority,))

    def jwt_svid(
        self,
        spiffe_id: SpiffeId | str,
        *audience: str,
        ttl: timedelta = HOUR / 12,
        now: datetime | None = None,
    ) -> JwtSvid:
        """A JWT-SVID.  A text that starts with a slash is a path in this trust domain."""
        if isinstance(spiffe_id, str):
            spiffe_id = SpiffeId.parse(
                f"{self.trust_domain.id}{spiffe_id}" if spiffe_id[0] == "/" else spiffe_id
            )
        now = now or datetime.now(UTC)
        claims = svid_claims(spiffe_id, audience, now, ttl, now + ttl)
        unsigned = UnsignedJwt(key_id=self.jwt_authority.key_id, claims=claims)
        return read_jwt_svid(unsigned.signed(self.jwt_key.sign(unsigned.signing_input, ECDSA(SHA256()))))

    def svid(
        self,
        spiffe_id: SpiffeId | str,
        *,
        ttl: timedelta = HOUR,
        now: datetime | None = None,
        dns_names: Sequence[str] = (),
    ) -> X509Svid:
        """An SVID with a new key.  A text that starts with a slash is a path in this trust domain."""
        if isinstance(spiffe_id, str):
            spiffe_id = SpiffeId.parse(
                f"{self.trust_domain.id}{spiffe_id}" if spiffe_id[0] == "/" else spiffe_id
            )
        key = generate_key()
        chain = self.issue(spiffe_id, key.public_key(), ttl=ttl, now=now, dns_names=dns_names)
        facts = leaf_facts(chain[0])
        return X509Svid(
            spiffe_id=spiffe_id,
            chain=chain,
            key=key_to_pkcs8(key),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )

    def issue(
        self,
        spiffe_id: SpiffeId,
        public_key: PublicKey,
        *,
        ttl: timedelta = HOUR,
        now: datetime | None = None,
        dns_names: Sequence[str] = (),
    ) -> tuple[bytes, ...]:
        """A chain for somebody else's key.

        The ID may be of a foreign trust domain: a test wants to see what such a certificate is worth.
        """
        valid = profiles.lifetime(now or datetime.now(UTC), ttl, self.issuer.not_after)
        issuer = replace(self.issuer, trust_domain=spiffe_id.trust_domain)
        builder = profiles.svid(spiffe_id, public_key, valid, issuer, dns_names)
        leaf = builder.sign(self._signing_key, SHA256()).public_bytes(Encoding.DER)
        return (leaf, *self.intermediates)
