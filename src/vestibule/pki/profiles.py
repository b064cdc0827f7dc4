"""What our certificates look like: lifetimes, and builders that a key manager signs.

Rules (X509-SVID.md): X1 exactly one URI SAN (§2); X2 a leaf's ID has a path, and its SAN is critical exactly
if the subject is empty (§3.1; ours never is); X3 a signing certificate's ID has no path (§3.2); X4 CA true on
signers and false on leaves (§4.1); X5 key usage critical, digitalSignature on leaves, keyCertSign on signers
(§4.3); X6 leaves are for servers and clients (§4.4).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import INVALID_REQUEST, SIGNER_SPENT
from vestibule.pki.keys import PublicKey
from vestibule.pki.names import alternative_names
from vestibule.spiffe import SpiffeId, TrustDomain

BACKDATE: Final = timedelta(seconds=60)
MIN_TTL: Final = timedelta(seconds=1)
SERIAL_BITS: Final = 128
MAX_COMMON_NAME: Final = 64

_ORGANIZATION = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Vestibule")
_ANONYMOUS = x509.Name([_ORGANIZATION])


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


# What is the same in every leaf is made once: of issuing, all but the cryptography counts.
_NO_SIGNER = _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
_SERVERS_AND_CLIENTS = _extension(
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """When a certificate is valid, both ends included, in whole seconds."""

    not_before: datetime
    not_after: datetime


def lifetime(now: datetime, ttl: timedelta, signer_not_after: datetime | None = None) -> Lifetime:
    """The lifetime of a certificate issued now: at most ``ttl`` from now, never past the signer's own end.

    It starts 60 s ago, for peers whose clocks are slow.  ``signer_not_after`` is ``None`` for a self-signed one.
    Raises: VST1004 when the signer is spent, VST1011 for a ``ttl`` under one second.
    """
    if ttl < MIN_TTL:
        raise INVALID_REQUEST.error(f"a lifetime of {ttl.total_seconds():g} s is too short")
    not_after = _whole_seconds(now + ttl)
    if signer_not_after is not None:
        not_after = min(not_after, _whole_seconds(signer_not_after))
        if not_after <= now:
            raise SIGNER_SPENT.error(f"the signing authority expired at {signer_not_after.isoformat()}")
    return Lifetime(not_before=_whole_seconds(now - BACKDATE), not_after=not_after)


def _whole_seconds(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What a certificate says about its signer; read once per authority, used for every certificate."""

    name: x509.Name
    key_identifier: bytes
    trust_domain: TrustDomain
    not_after: datetime
    name_der: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name_der", self.name.public_bytes())

    @classmethod
    def of(cls, der: bytes, trust_domain: TrustDomain) -> Issuer:
        """Read the signing certificate ``der`` of ``trust_domain``.  Raises: VST1005."""
        certificate = load_certificate(der)
        return cls(
            name=certificate.subject,
            key_identifier=key_identifier(certificate.public_key()).digest,
            trust_domain=trust_domain,
            not_after=certificate.not_valid_after_utc,
        )


def key_identifier(public_key: object) -> x509.SubjectKeyIdentifier:
    """The subject key identifier (RFC 5280 §4.2.1.2, method 1): a name for the key, not a promise about it."""
    return x509.SubjectKeyIdentifier.from_public_key(public_key)  # type: ignore[arg-type]  # any X.509 key


def authority_id(public_key: PublicKey) -> str:
    """An authority's ID: the key identifier in lower-case hex."""
    return key_identifier(public_key).digest.hex()


def svid(
    spiffe_id: SpiffeId,
    public_key: PublicKey,
    valid: Lifetime,
    issuer: Issuer,
    dns_names: Sequence[str] = (),
    *,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    """An X509-SVID.  The first DNS name is also the common name, as old TLS clients want it.

    This says what one looks like; a server makes the same bytes by ``leaves.unsigned_svid``.  ``serial`` is one of
    ``serial_number``'s; by default a new one.

    Raises: VST1011 for an ID without a path or of a foreign trust domain, or for malformed DNS names.
    """
    check_workload_id(spiffe_id, issuer.trust_domain)
    names = alternative_names(spiffe_id, tuple(dns_names))
    subject = _subject(names) if dns_names else _ANONYMOUS
    extensions = [
        _extension(key_identifier(public_key)),
        _authority_identifier(issuer.key_identifier),
        _NO_SIGNER,
        _leaf_usage(public_key),
        _SERVERS_AND_CLIENTS,
        _extension(names),
    ]
    return _signed_by(
        x509.CertificateBuilder(extensions=extensions), subject, issuer.name, public_key, valid, serial
    )


def check_workload_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    """Raises: VST1011 for an ID without a path or of another trust domain."""
    if not spiffe_id.path or spiffe_id.trust_domain != trust_domain:
        raise INVALID_REQUEST.error(f"{spiffe_id} is not the ID of a workload of {trust_domain}")


def serial_number() -> int:
    """A random serial number of 128 bits, never 0."""
    return secrets.randbits(SERIAL_BITS) or 1


def _subject(names: x509.SubjectAlternativeName) -> x509.Name:
    common = next(iter(names.get_values_for_type(x509.DNSName)), "")
    if not 0 < len(common) <= MAX_COMMON_NAME:
        return _ANONYMOUS
    return x509.Name([_ORGANIZATION, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def self_signed_ca(
    trust_domain: TrustDomain, public_key: PublicKey, valid: Lifetime, name: str = ""
) -> x509.CertificateBuilder:
    """The trust domain's own signing certificate, to be signed with the key it is for; ``name`` is for people."""
    subject = _ca_name(public_key, name)
    builder = _builder(subject, subject, public_key, valid, key_identifier(public_key).digest)
    return _signer(builder, trust_domain)


def intermediate_ca(
    public_key: PublicKey, valid: Lifetime, issuer: Issuer, path_length: int | None = 0, name: str = ""
) -> x509.CertificateBuilder:
    """A signing certificate of the same trust domain under another one.

    ``path_length`` says how many signers may follow below it: none, so that it signs leaves only, unless another
    number is given; ``None`` sets no limit.  ``name`` is for people, such as ``prod-2026-Q4``.
    """
    subject = _ca_name(public_key, name)
    builder = _builder(subject, issuer.name, public_key, valid, issuer.key_identifier)
    return _signer(builder, issuer.trust_domain, path_length=path_length)


def _signer(
    builder: x509.CertificateBuilder, trust_domain: TrustDomain, path_length: int | None = None
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_SIGNER_USAGE, critical=True)
        .add_extension(alternative_names(trust_domain.id), critical=False)
    )


def _ca_name(public_key: PublicKey, name: str = "") -> x509.Name:
    """The subject of a signing certificate; its common name is what people call it, if they do."""
    # The key's identifier makes the name unique, so that a path is never built through a namesake.
    identifier = x509.NameAttribute(NameOID.SERIAL_NUMBER, authority_id(public_key))
    common = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    return x509.Name([_ORGANIZATION, *common, identifier])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, valid: Lifetime, signer_identifier: bytes
) -> x509.CertificateBuilder:
    extensions = [_extension(key_identifier(public_key)), _authority_identifier(signer_identifier)]
    return _signed_by(x509.CertificateBuilder(extensions=extensions), subject, issuer, public_key, valid)


def _signed_by(
    builder: x509.CertificateBuilder,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    valid: Lifetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        builder.subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial or serial_number())
        .not_valid_before(valid.not_before)
        .not_valid_after(valid.not_after)
    )


@lru_cache(maxsize=16)
def _authority_identifier(signer_identifier: bytes) -> x509.Extension[x509.ExtensionType]:
    return _extension(x509.AuthorityKeyIdentifier(signer_identifier, None, None))


def _usage(*, signer: bool, key_encipherment: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signer,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signer,
        crl_sign=signer,
        encipher_only=False,
        decipher_only=False,
    )


_SIGNER_USAGE = _usage(signer=True)
_LEAF_USAGE = _extension(_usage(signer=False), critical=True)
_RSA_LEAF_USAGE = _extension(_usage(signer=False, key_encipherment=True), critical=True)


def _leaf_usage(public_key: PublicKey) -> x509.Extension[x509.ExtensionType]:
    return _LEAF_USAGE if isinstance(public_key, EllipticCurvePublicKey) else _RSA_LEAF_USAGE
