"""What may be kept as another trust domain's bundle, whoever brings it: an operator or an endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.identity.codes import FOREIGN_BUNDLE_REFUSED, OWN_TRUST_DOMAIN
from vestibule.pki.certificates import load_certificate
from vestibule.pki.jwk import load_jwt_key
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain

MAX_AUTHORITIES: Final = 500
"""Of either kind.  Every agent and workload that federates gets them all."""
MAX_KEY_ID: Final = 1024
MAX_HINT: Final = 2**31 - 1
"""Seconds; what is more than 68 years is cut to that."""


def foreign(trust_domain: TrustDomain, own: TrustDomain) -> TrustDomain:
    """``trust_domain`` if it is not our own.  Raises: VST1231."""
    if trust_domain == own:
        raise OWN_TRUST_DOMAIN.error(f"{trust_domain} is the server's own trust domain")
    return trust_domain


def check_foreign_bundle(bundle: TrustBundle, own: TrustBundle) -> TrustBundle:
    """The bundle, in normal form, if it may be kept.

    1. It is not for our own trust domain.
    2. It is of a size that real bundles have; its certificates and keys can be read, and keys are told apart.
    3. No certificate in it is one of our trust domain (by its URI): such an authority is for minting our IDs.
    4. No key in it is one of ours: a shared authority blurs who may speak for whom.

    Raises: VST1231 (step 1), VST1230 (2 to 4), VST1005 (2).
    """
    foreign(bundle.trust_domain, own.trust_domain)  # 1
    _check_size(bundle)  # 2
    certificates = [load_certificate(der) for der in bundle.x509_authorities]
    keys = [_key_of(each) for each in certificates] + [each.public_key for each in _token_keys(bundle)]
    for key in keys:
        _check_readable(key, bundle.trust_domain)
    for certificate in certificates:
        _check_name(certificate, bundle.trust_domain, own.trust_domain)  # 3
    ours = {_key_of(load_certificate(der)) for der in own.x509_authorities}
    ours |= {key.public_key for key in _token_keys(own)}
    if not ours.isdisjoint(keys):  # 4
        raise FOREIGN_BUNDLE_REFUSED.error(
            f"the bundle of {bundle.trust_domain} holds an authority of {own.trust_domain}, this trust domain"
        )
    return replace(
        bundle,
        x509_authorities=tuple(dict.fromkeys(bundle.x509_authorities)),
        refresh_hint=min(max(bundle.refresh_hint, 0), MAX_HINT),
    )


def _check_size(bundle: TrustBundle) -> None:
    domain = bundle.trust_domain
    for authorities in (bundle.x509_authorities, bundle.jwt_authorities, bundle.wit_authorities):
        if len(authorities) > MAX_AUTHORITIES:
            raise FOREIGN_BUNDLE_REFUSED.error(
                f"the bundle of {domain} holds {len(authorities)} authorities of one kind"
            )
    key_ids = [key.key_id for key in _token_keys(bundle)]
    if len(set(key_ids)) < len(key_ids):
        raise FOREIGN_BUNDLE_REFUSED.error(
            f"two keys for tokens in the bundle of {domain} have the same key ID"
        )
    if any(not key_id or len(key_id) > MAX_KEY_ID for key_id in key_ids):
        raise FOREIGN_BUNDLE_REFUSED.error(f"a key for tokens in the bundle of {domain} has no usable key ID")


def _token_keys(bundle: TrustBundle) -> tuple[JwtAuthority, ...]:
    return (*bundle.jwt_authorities, *bundle.wit_authorities)


def _check_name(certificate: x509.Certificate, theirs: TrustDomain, ours: TrustDomain) -> None:
    for name in _uris(certificate):
        if name.lower().startswith("spiffe://") and _domain_of(name) == ours.name:
            raise FOREIGN_BUNDLE_REFUSED.error(f"the bundle of {theirs} holds an authority named {ours.id}")


def _check_readable(key: bytes, theirs: TrustDomain) -> None:
    try:
        load_jwt_key(key)
    except ValueError as error:
        raise FOREIGN_BUNDLE_REFUSED.error(f"a key in the bundle of {theirs} is unusable: {error}") from error


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _domain_of(uri: str) -> str:
    return uri[len("spiffe://") :].partition("/")[0].lower()


def _key_of(certificate: x509.Certificate) -> bytes:
    # Any key, also one of a type that is refused in the next step.
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
