"""Certificates as facts: read, never believed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import PARSE_ERRORS, load_certificate
from vestibule.posture import Certificate, printable
from vestibule.spiffe import SpiffeId

MOST_NAMES: Final = 100
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_certificate(der: bytes) -> Certificate:
    """What a certificate says; of bytes that are none, that they are none."""
    try:
        return _facts(load_certificate(der), der)
    except VestibuleError as error:
        problem = printable(error.message)
    except PARSE_ERRORS:
        problem = "it cannot be read"
    return Certificate(
        subject="",
        issuer="",
        serial="",
        fingerprint=hashlib.sha256(der).hexdigest(),
        not_before=_NEVER,
        not_after=_NEVER,
        key="unknown",
        problem=problem,
    )


def _facts(certificate: x509.Certificate, der: bytes) -> Certificate:
    dns_names, addresses, uris = _names(certificate)
    spiffe_id, problem = _identity(uris)
    key, bits = _key(certificate)
    return Certificate(
        subject=printable(certificate.subject.rfc4514_string()),
        issuer=printable(certificate.issuer.rfc4514_string()),
        serial=f"{certificate.serial_number:x}",
        fingerprint=hashlib.sha256(der).hexdigest(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key=key,
        key_bits=bits,
        signature_hash=_hash(certificate),
        dns_names=dns_names,
        addresses=addresses,
        uris=uris,
        spiffe_id=spiffe_id,
        problem=problem,
    )


def _names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), (), ()
    dns_names = names.get_values_for_type(x509.DNSName)[:MOST_NAMES]
    addresses = names.get_values_for_type(x509.IPAddress)[:MOST_NAMES]
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)[:MOST_NAMES]
    return tuple(map(printable, dns_names)), tuple(map(str, addresses)), tuple(map(printable, uris))


def _identity(uris: tuple[str, ...]) -> tuple[str, str]:
    """The SPIFFE ID, and why there is none although there are URIs (X509-SVID.md, section 2)."""
    if len(uris) > 1:
        return "", f"there are {len(uris)} URIs where one is allowed"
    if not uris:
        return "", ""
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except VestibuleError as error:
        return "", printable(error.message)
    if not spiffe_id.path:
        return "", "its SPIFFE ID has no path: it is that of a trust domain"
    return str(spiffe_id), ""


def _key(certificate: x509.Certificate) -> tuple[str, int]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA", key.key_size
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "EC", key.key_size
    if isinstance(key, dsa.DSAPublicKey):
        return "DSA", key.key_size
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519", 256
    return ("Ed448", 456) if isinstance(key, ed448.Ed448PublicKey) else ("unknown", 0)


def _hash(certificate: x509.Certificate) -> str:
    try:
        found = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "unknown"
    return found.name if found is not None else ""
