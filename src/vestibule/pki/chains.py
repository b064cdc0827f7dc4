"""Verifying X509-SVIDs (X509-SVID.md section 5; RFC 5280 section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    VerificationError,
)
from cryptography.x509.verification import Store as TrustAnchors

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import NOT_AN_SVID, UNTRUSTED_CHAIN, WRONG_TRUST_DOMAIN
from vestibule.pki.keys import certifiable
from vestibule.pki.names import NamesError, read_names
from vestibule.spiffe import SpiffeId, TrustBundle

MAX_CHAIN: Final = 8
"""More certificates than this are refused unread; real chains have one to four."""

_BOTH_USAGES: Final = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafFacts:
    """What an X509-SVID says; true only once its chain is verified.  ``serial`` is in decimal."""

    spiffe_id: SpiffeId
    serial: str
    not_before: datetime
    not_after: datetime


def leaf_facts(der: bytes) -> LeafFacts:
    """Read a leaf and hold it against the profile; its signature is not checked.

    Raises: VST1005 (not a certificate), VST1006 (not an X509-SVID).
    """
    leaf = load_certificate(der)
    return LeafFacts(
        spiffe_id=_leaf_id(leaf),
        serial=str(leaf.serial_number),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def verify_x509_svid(chain: Sequence[bytes], bundle: TrustBundle, now: datetime) -> SpiffeId:
    """The SPIFFE ID that ``chain`` (DER, leaf first) proves at ``now``.

    1. There is a leaf, and not an absurd number of certificates; each one can be read.
    2. The leaf keeps the X509-SVID profile: one URI, with a path; not a CA; key usages of a leaf.
    3. Its trust domain is the one whose bundle this is.  No other authority is ever consulted.
    4. Intermediates are signers with usual keys, and if they carry a URI, it is the trust domain's own.
    5. A path of valid signatures leads from the leaf to an authority of the bundle; all of it is valid now.

    Raises: VST1003 (step 4), VST1005 (1), VST1006 (2 and 4), VST1007 (1 and 5), VST1008 (3).
    """
    if not 0 < len(chain) <= MAX_CHAIN:  # 1
        raise UNTRUSTED_CHAIN.error(f"a chain of {len(chain)} certificates is not accepted")
    leaf, *intermediates = (load_certificate(der) for der in chain)
    spiffe_id = _leaf_id(leaf)  # 2
    if spiffe_id.trust_domain != bundle.trust_domain:  # 3
        raise WRONG_TRUST_DOMAIN.error(f"{spiffe_id} is not of the trust domain {bundle.trust_domain}")
    for intermediate in intermediates:  # 4
        _check_intermediate(intermediate, bundle)
    _check_path(leaf, intermediates, spiffe_id, bundle, now)  # 5
    return spiffe_id


def is_tainted(chain: Sequence[bytes], bundle: TrustBundle, now: datetime) -> bool:
    """Whether a chain leads to nothing but tainted authorities of the bundle, and so is about to be worthless."""
    return bool(bundle.tainted_x509) and not is_sound(chain, bundle, now)


def is_sound(chain: Sequence[bytes], bundle: TrustBundle, now: datetime) -> bool:
    """Whether a chain leads to an authority of the bundle that is not tainted."""
    clean = tuple(der for der in bundle.x509_authorities if der not in bundle.tainted_x509)
    try:
        verify_x509_svid(chain, replace(bundle, x509_authorities=clean), now)
    except VestibuleError:
        return False
    return True


def _leaf_id(leaf: x509.Certificate) -> SpiffeId:
    extensions = leaf.extensions
    try:
        spiffe_id, _ = read_names(extensions)
    except NamesError as error:
        raise NOT_AN_SVID.error(f"the certificate is not an SVID: {error}") from error
    if spiffe_id is None:
        raise NOT_AN_SVID.error("the certificate has no SPIFFE ID")
    if not spiffe_id.path:
        raise NOT_AN_SVID.error(f"{spiffe_id} has no path, so it is not the ID of a workload")
    _check_leaf_usage(extensions, spiffe_id)
    return spiffe_id


def _check_leaf_usage(extensions: x509.Extensions, spiffe_id: SpiffeId) -> None:
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise NOT_AN_SVID.error(f"the certificate of {spiffe_id} is a signing certificate")
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise NOT_AN_SVID.error(f"the certificate of {spiffe_id} lacks the key usage digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise NOT_AN_SVID.error(f"the certificate of {spiffe_id} may sign, which no leaf may")
    if not extensions.get_extension_for_class(x509.KeyUsage).critical:
        raise NOT_AN_SVID.error(f"the key usage of the certificate of {spiffe_id} is not critical")
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if purposes is not None and not set(purposes) >= _BOTH_USAGES:
        raise NOT_AN_SVID.error(f"the certificate of {spiffe_id} is not for both servers and clients")


def _check_intermediate(certificate: x509.Certificate, bundle: TrustBundle) -> None:
    if not is_signer(certificate):
        raise NOT_AN_SVID.error("an intermediate certificate of the chain is not a signing certificate")
    certifiable(certificate.public_key())  # before any arithmetic with a key that nobody vouched for yet
    try:
        spiffe_id, _ = read_names(certificate.extensions)
    except NamesError as error:
        raise NOT_AN_SVID.error(f"an intermediate certificate can not be accepted: {error}") from error
    if spiffe_id not in (None, bundle.trust_domain.id):
        raise NOT_AN_SVID.error(f"an intermediate certificate is that of {spiffe_id}")


def _check_path(
    leaf: x509.Certificate,
    intermediates: list[x509.Certificate],
    spiffe_id: SpiffeId,
    bundle: TrustBundle,
    now: datetime,
) -> None:
    anchors = _anchors(bundle.x509_authorities)
    if anchors is None:
        raise UNTRUSTED_CHAIN.error(f"the trust bundle of {bundle.trust_domain} has no authorities")
    policy = PolicyBuilder().store(anchors).time(now).max_chain_depth(MAX_CHAIN)
    verifier = policy.extension_policies(ca_policy=_SIGNERS, ee_policy=_LEAVES).build_client_verifier()
    try:
        verifier.verify(leaf, intermediates)
    except VerificationError as error:
        why = _reason(leaf, intermediates, bundle, now)
        raise UNTRUSTED_CHAIN.error(f"the certificate of {spiffe_id} is not trusted: {why}") from error


def _reason(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], bundle: TrustBundle, now: datetime
) -> str:
    for name, certificate in (
        ("it", leaf),
        *(("an intermediate certificate", each) for each in intermediates),
    ):
        if now < certificate.not_valid_before_utc:
            begins = certificate.not_valid_before_utc
            return (
                f"{name} is not valid before {begins.isoformat()}, and the clock here says {now.isoformat()}, "
                f"{_seconds(begins - now)} s less: one of the two clocks is wrong"
            )
        if now > certificate.not_valid_after_utc:
            ended = certificate.not_valid_after_utc
            return f"{name} expired at {ended.isoformat()}, {_seconds(now - ended)} s ago by the clock here"
    return f"no valid path leads to a current authority of {bundle.trust_domain}"


def _seconds(span: timedelta) -> int:
    return round(span.total_seconds())


@lru_cache(maxsize=64)
def _anchors(authorities: tuple[bytes, ...]) -> TrustAnchors | None:
    # Parsing the authorities again on every RPC would double the cost of a verification.  The library takes
    # an anchor's word for being one, even a leaf's that stands in the bundle by mistake; we do not.
    certificates = [certificate for der in authorities if is_signer(certificate := load_certificate(der))]
    return TrustAnchors(certificates) if certificates else None


def is_signer(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may sign others."""
    constraints = _find(certificate.extensions, x509.BasicConstraints)
    usage = _find(certificate.extensions, x509.KeyUsage)
    return constraints is not None and constraints.ca and usage is not None and usage.key_cert_sign


def is_signed_by(leaf: bytes, issuers: Sequence[bytes]) -> bool:
    """Whether one of these certificates (DER) signed ``leaf`` itself, whatever path leads from it to a root."""
    return any(_signed(leaf, issuer) for issuer in issuers)


@lru_cache(maxsize=1024)
def _signed(leaf: bytes, issuer: bytes) -> bool:
    try:
        load_certificate(leaf).verify_directly_issued_by(load_certificate(issuer))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _must_sign(_: Policy, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("a signer without keyCertSign")


# The library's own policies are those of the web: they want names and purposes that SVIDs need not have.
# What stays in force whatever the policy: signatures, times, CA flags, path lengths, unknown critical
# extensions refused, and name constraints on URIs refused because they can not be judged.
_SIGNERS = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _must_sign)
)
_LEAVES = ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
)
