"""What people are told of certificates: whose they are and how long they last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from vestibule.pki.certificates import load_certificate
from vestibule.pki.names import NamesError, read_names
from vestibule.spiffe import SpiffeId, TrustBundle

_NAMES: Final[Mapping[x509.ObjectIdentifier, str]] = {NameOID.SERIAL_NUMBER: "SERIALNUMBER"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """One certificate; ``spiffe_id`` is missing where it names none, ``subject`` is RFC 4514 text."""

    spiffe_id: SpiffeId | None
    not_after: datetime
    subject: str


def describe_chain(chain: Sequence[bytes], bundle: TrustBundle) -> tuple[CertificateFacts, ...]:
    """The certificates of a chain (DER, leaf first) and the authority of the bundle that it ends at, if any.

    A description, not a verification.  Raises: VST1005.
    """
    certificates = [load_certificate(der) for der in chain]
    return tuple(_facts(each) for each in (*certificates, *_root_of(certificates, bundle)))


def _root_of(certificates: Sequence[x509.Certificate], bundle: TrustBundle) -> Iterator[x509.Certificate]:
    for authority in map(load_certificate, bundle.x509_authorities):
        if authority in certificates:
            return
        try:
            certificates[-1].verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        yield authority
        return


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    try:
        spiffe_id, _ = read_names(certificate.extensions)
    except NamesError:
        spiffe_id = None
    return CertificateFacts(
        spiffe_id=spiffe_id,
        not_after=certificate.not_valid_after_utc,
        subject=certificate.subject.rfc4514_string(dict(_NAMES)),
    )
