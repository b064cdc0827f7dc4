"""Checking the chain of a signing certificate that an upstream authority issued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.pki.chains import MAX_CHAIN, is_signer
from vestibule.pki.codes import UNTRUSTED_CHAIN
from vestibule.pki.keys import PublicKey, certifiable, public_key_der
from vestibule.pki.names import NamesError, read_names
from vestibule.spiffe import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityFacts:
    """What a chain of signing certificates comes to.

    ``not_before`` and ``not_after`` bound the time in which all of it is valid, its root included; ``root_id`` is
    the root's subject key identifier.
    """

    not_before: datetime
    not_after: datetime
    root_id: str


def check_authority_chain(
    chain: Sequence[bytes],
    roots: Sequence[bytes],
    public_key: PublicKey,
    trust_domain: TrustDomain,
    now: datetime,
) -> AuthorityFacts:
    """Hold an issued signing certificate, with what is above it, against what was asked for.

    1. The chain is not empty, and short enough for a leaf and others below it.
    2. Its first certificate is for our key.
    3. Each one is a signer, and names the trust domain or nothing.
    4. Each one is signed by the next, the last one by a root; all of them are valid now.
    5. No signer forbids as many signers below it as there are, or a leaf's issuer at its end.

    Raises: VST1003 (a key), VST1005 (unreadable), VST1007 (the rest).
    """
    if not 0 < len(chain) < MAX_CHAIN:  # 1
        raise UNTRUSTED_CHAIN.error(f"a chain of {len(chain)} signing certificates is not accepted")
    certificates = [load_certificate(der) for der in chain]
    own = certifiable(certificates[0].public_key())
    if public_key_der(own) != public_key_der(public_key):  # 2
        raise UNTRUSTED_CHAIN.error("the signing certificate is for another key than was asked for")
    root = _root_of(certificates[-1], [load_certificate(der) for der in roots])
    path = [*certificates, root]
    for below, certificate in enumerate(path):
        _check_signer(certificate, trust_domain)  # 3
        _check_valid(certificate, now)  # 4
        _check_length(certificate, below)  # 5
    for certificate, issuer in pairwise(path):  # 4
        if not _is_issued(certificate, issuer):
            raise UNTRUSTED_CHAIN.error("a signing certificate is not signed by the one above it")
    return AuthorityFacts(
        not_before=max(each.not_valid_before_utc for each in path),
        not_after=min(each.not_valid_after_utc for each in path),
        root_id=subject_key_id(root),
    )


def _root_of(top: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    found = next((root for root in roots if _is_issued(top, root)), None)
    if found is None:
        raise UNTRUSTED_CHAIN.error("no root of the upstream authority signed the chain that it gave")
    return found


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    certifiable(issuer.public_key())  # before any arithmetic with it
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_signer(certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    if not is_signer(certificate):
        raise UNTRUSTED_CHAIN.error("a certificate of the chain is not a signing certificate")
    try:
        spiffe_id, _ = read_names(certificate.extensions)
    except NamesError as error:
        raise UNTRUSTED_CHAIN.error(f"a signing certificate cannot be accepted: {error}") from error
    if spiffe_id not in (None, trust_domain.id):
        raise UNTRUSTED_CHAIN.error(f"a signing certificate is that of {spiffe_id}, not of {trust_domain.id}")


def _check_valid(certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise UNTRUSTED_CHAIN.error(
            f"a signing certificate is valid from {certificate.not_valid_before_utc.isoformat()} "
            f"to {certificate.not_valid_after_utc.isoformat()} only"
        )


def _check_length(certificate: x509.Certificate, below: int) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length is not None and constraints.path_length < below:
        raise UNTRUSTED_CHAIN.error(f"a signing certificate does not allow {below} signers below it")
