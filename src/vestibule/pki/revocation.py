"""Holding chains and tokens against a list of revocations (``spiffe.revocations``).

A path through a revoked authority is never taken, whichever certificates the peer chose to send: authorities of the
bundle that are revoked are no anchors, and a chain that shows a revoked certificate is refused as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.codes import REVOKED
from vestibule.pki.jwt import BundleOf, verify_jwt_svid
from vestibule.pki.names import NamesError, read_names
from vestibule.spiffe import JwtSvid, Revocation, Revocations, SpiffeId, TrustBundle, WitSvid
from vestibule.spiffe.revocations import CertificateFacts

AGENT_CLAIM: Final = "vestibule:via"
"""The claim of our JWT-SVIDs that holds the mark of the agent that they were issued through, in hex."""


def revoked(revocations: Revocations, chain: Sequence[bytes], now: datetime) -> Revocation | None:
    """Why a chain (DER, leaf first) does not count; ``None`` if nothing in it is revoked.

    Raises: VST1005 for bytes that are no certificate.
    """
    if not revocations:
        return None
    for number, der in enumerate(chain):
        facts = _leaf_facts(der) if number == 0 else _signer_facts(der)
        if (why := revocations.of_certificate(facts, now)) is not None:
            return why
    return None


def revoked_token(revocations: Revocations, svid: JwtSvid | WitSvid, now: datetime) -> Revocation | None:
    """Why a token does not count: its key, its subject (``iat``: issued when), or the agent it came through."""
    if not revocations:
        return None
    mark = _mark(svid.claims.get(AGENT_CLAIM))
    return (
        revocations.of_jwt_key(svid.spiffe_id.trust_domain, svid.key_id, now)
        or revocations.of_identity(svid.spiffe_id, svid.issued_at, now)
        or (revocations.of_mark(mark, now) if mark else None)
    )


def unrevoked(bundle: TrustBundle, revocations: Revocations, now: datetime) -> TrustBundle:
    """The bundle without the authorities that are revoked; the same object if that is all of it."""
    if not revocations:
        return bundle
    kept = tuple(each for each in bundle.x509_authorities if _anchor_is_good(each, revocations, now))
    keys = tuple(
        each
        for each in bundle.jwt_authorities
        if revocations.of_jwt_key(bundle.trust_domain, each.key_id, now) is None
    )
    if len(kept) == len(bundle.x509_authorities) and len(keys) == len(bundle.jwt_authorities):
        return bundle
    return replace(bundle, x509_authorities=kept, jwt_authorities=keys)


def verify_unrevoked(
    chain: Sequence[bytes], bundle: TrustBundle, now: datetime, revocations: Revocations
) -> SpiffeId:
    """The SPIFFE ID that ``chain`` proves at ``now``, nothing of it being revoked.

    1. It holds against the authorities of the bundle (``pki.chains.verify_x509_svid``) that are not revoked.
    2. No certificate in it is revoked, by serial, fingerprint, key, identity, or the agent it was issued through.

    Raises: VST1020 (revoked), and what ``verify_x509_svid`` raises.
    """
    trusted = unrevoked(bundle, revocations, now)
    try:
        spiffe_id = verify_x509_svid(chain, trusted, now)  # 1
    except VestibuleError:
        if trusted is bundle:
            raise
        # Told apart for whoever reads the refusal: it would be trusted, were it not revoked.
        verify_x509_svid(chain, bundle, now)
        raise REVOKED.error("an authority above the certificate was revoked") from None
    if (why := revoked(revocations, chain, now)) is not None:  # 2
        raise REVOKED.error(f"the certificate of {spiffe_id} does not count: {why}")
    return spiffe_id


def verify_unrevoked_token(
    token: str, audience: Collection[str], bundle_of: BundleOf, now: datetime, revocations: Revocations
) -> JwtSvid:
    """The JWT-SVID that ``token`` is, if it proves an identity at ``now`` and is not revoked.

    Raises: VST1020 (revoked), and what ``pki.jwt.verify_jwt_svid`` raises.
    """
    svid = verify_jwt_svid(token, audience, bundle_of, now)
    if (why := revoked_token(revocations, svid, now)) is not None:
        raise REVOKED.error(f"the token of {svid.spiffe_id} does not count: {why}")
    return svid


def fingerprint(der: bytes) -> str:
    """The SHA-256 of a certificate, in lower-case hex."""
    return hashlib.sha256(der).hexdigest()


@lru_cache(maxsize=256)
def key_fingerprint(der: bytes) -> str:
    """The SHA-256 of a certificate's public key (SubjectPublicKeyInfo), in lower-case hex.  Raises: VST1005."""
    return _key_hash(load_certificate(der))


def _key_hash(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _anchor_is_good(der: bytes, revocations: Revocations, now: datetime) -> bool:
    return revocations.of_authority(fingerprint(der), key_fingerprint(der), now) is None


@lru_cache(maxsize=256)
def _signer_facts(der: bytes) -> CertificateFacts:
    return certificate_facts(der)


@lru_cache(maxsize=4096)
def _leaf_facts(der: bytes) -> CertificateFacts:
    return certificate_facts(der)


def certificate_facts(der: bytes) -> CertificateFacts:
    """What of a certificate a list is asked with.  Raises: VST1005."""
    certificate = load_certificate(der)
    try:
        spiffe_id, _ = read_names(certificate.extensions)
    except NamesError:
        spiffe_id = None  # such a certificate is refused for that, not here
    return CertificateFacts(
        fingerprint=fingerprint(der),
        key=_key_hash(certificate),
        authority_id=_authority_id(certificate),
        serial=certificate.serial_number,
        spiffe_id=spiffe_id,
        not_before=certificate.not_valid_before_utc,
    )


def _authority_id(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return found.key_identifier.hex() if found.key_identifier else ""


def _mark(value: object) -> int:
    if not isinstance(value, str) or len(value) != 16:
        return 0
    try:
        return int(value, 16)
    except ValueError:
        return 0
