"""Certificate revocation lists (RFC 5280 section 5): builders that a key manager signs, and reading them back.

Rules: C1 version 2, with authority key identifier and a number that grows with each list (§5.2.1, §5.2.3); C2 always
a next update (§5.1.2.5); C3 a reason is written only where there is one: "unspecified" is its absence, and
"removeFromCRL" belongs to delta lists (§5.3.1); C4 each serial once, revoked for good at its first date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from vestibule.pki.certificates import PARSE_ERRORS
from vestibule.pki.codes import CRL_NOT_TRUSTED, CRL_REFUSED, MALFORMED_CRL
from vestibule.pki.profiles import key_identifier

UNSPECIFIED: Final = "unspecified"
REASONS: Final = frozenset(
    {
        UNSPECIFIED,
        "keyCompromise",
        "cACompromise",
        "affiliationChanged",
        "superseded",
        "cessationOfOperation",
        "privilegeWithdrawn",
        "aACompromise",
    }
)
"""Why a certificate may be revoked, in RFC 5280's words.  A revocation is for good, so there is no
``certificateHold``."""

MAX_NUMBER: Final = 2**159 - 1  # 20 octets with the sign (§5.2.3)
MAX_SERIAL: Final = 2**159 - 1  # as in certificates (§4.1.2.2)
MAX_CRL_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSerial:
    """One certificate that its issuer takes back, since ``at``; ``reason`` is one of ``REASONS``."""

    serial: int
    at: datetime
    reason: str = UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlFacts:
    """What a list says: its number, its span in time, and the serials taken back, as they stand in it."""

    number: int
    this_update: datetime
    next_update: datetime
    revoked: tuple[RevokedSerial, ...]

    def revokes(self, serial: int) -> bool:
        """Whether the certificate with this serial is taken back."""
        return any(each.serial == serial for each in self.revoked)


def crl_builder(
    issuer: x509.Certificate,
    revoked: Sequence[RevokedSerial],
    *,
    number: int,
    now: datetime,
    next_update: datetime,
) -> x509.CertificateRevocationListBuilder:
    """The list of what ``issuer`` revoked, to be signed with the issuer's own key.

    Both instants are in whole seconds; parts are cut off.  Entries are in the order of their serials, so that equal
    lists are equal bytes up to the signature.  ``next_update`` is a promise: clients refuse a list that is older.

    Raises: VST1017 for an issuer that may not sign lists, a number or serial out of range, an unknown reason, or a
    span that is none.
    """
    _check_issuer(issuer)
    if not 0 <= number <= MAX_NUMBER:
        raise CRL_REFUSED.error("the number of the list is negative or longer than 20 octets")
    this_update, next_update = now.replace(microsecond=0), next_update.replace(microsecond=0)
    if next_update <= this_update:
        raise CRL_REFUSED.error("the list would be replaced before it is made")
    authority = x509.AuthorityKeyIdentifier(key_identifier(issuer.public_key()).digest, None, None)
    # Given all at once: adding them one by one takes time with the square of their number.
    entries = [_entry(entry) for entry in _earliest(revoked)]
    return (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(issuer.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(authority, critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )


def read_crl(der: bytes, issuer: x509.Certificate) -> CrlFacts:
    """Read a list, if ``issuer`` signed it.  Whether it is current is the caller's question.

    1. It is of a sane size and is a CRL.
    2. It names the issuer, and the issuer may sign lists.
    3. The issuer's key signed it.
    4. It has a number and a next update.

    Raises: VST1018 (malformed), VST1019 (not this issuer's).
    """
    if len(der) > MAX_CRL_BYTES:  # 1
        raise MALFORMED_CRL.error(f"the list is larger than {MAX_CRL_BYTES} bytes")
    try:
        crl = x509.load_der_x509_crl(der)
        if crl.issuer != issuer.subject or not _signs_crls(issuer):  # 2
            raise CRL_NOT_TRUSTED.error("the list names another issuer, or one that may sign none")
        if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]  # 3; any X.509 key
            raise CRL_NOT_TRUSTED.error("the list is not signed by the issuer's key")
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number  # 4
        revoked = tuple(_read_entry(each) for each in crl)
    except x509.ExtensionNotFound as error:
        raise MALFORMED_CRL.error("the list has no number") from error
    except PARSE_ERRORS as error:
        raise MALFORMED_CRL.error("the bytes are not a certificate revocation list in DER") from error
    if crl.next_update_utc is None:
        raise MALFORMED_CRL.error("the list has no next update")
    return CrlFacts(
        number=number,
        this_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        revoked=revoked,
    )


def _check_issuer(issuer: x509.Certificate) -> None:
    if not _signs_crls(issuer):
        raise CRL_REFUSED.error("the issuer's certificate does not allow it to sign revocation lists")


def _signs_crls(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return False


def _earliest(revoked: Sequence[RevokedSerial]) -> list[RevokedSerial]:
    """Each serial once, with its first date: what was invalid then does not become valid later."""
    first: dict[int, RevokedSerial] = {}
    for entry in sorted(revoked, key=lambda each: (each.serial, each.at)):
        first.setdefault(entry.serial, entry)
    return list(first.values())


def _entry(entry: RevokedSerial) -> x509.RevokedCertificate:
    if not 0 < entry.serial <= MAX_SERIAL:
        raise CRL_REFUSED.error(f"{entry.serial} can not be the serial number of a certificate")
    if entry.reason not in REASONS:
        raise CRL_REFUSED.error(f"{entry.reason[:40]!r} is no reason; known are {', '.join(sorted(REASONS))}")
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(entry.serial)
        .revocation_date(entry.at.replace(microsecond=0))
    )
    if entry.reason != UNSPECIFIED:
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason)), critical=False)
    return builder.build()


def _read_entry(entry: x509.RevokedCertificate) -> RevokedSerial:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = UNSPECIFIED
    return RevokedSerial(serial=entry.serial_number, at=entry.revocation_date_utc, reason=reason)
