"""Bundles and federation relationships between SPIRE's messages and the house's own values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from vestibule.doors.identity_api.values import bundle_to_wire
from vestibule.identity.codes import INVALID_RELATIONSHIP, MISSING_PARAMETER
from vestibule.pki.certificates import load_certificate
from vestibule.records import EndpointProfile, FederationRelationship
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import types_pb2 as types

_Field: TypeAlias = Literal["bundle_endpoint_url", "https_web", "https_spiffe", "trust_domain_bundle"]
MASKED: Final = {
    "x509_authorities": "x509_authorities",
    "jwt_authorities": "jwt_authorities",
    "refresh_hint": "refresh_hint",
    "sequence_number": "sequence",
}
"""The fields of a ``BundleMask``, and ours that they stand for."""
_RELATIONSHIP_FIELDS: Final[Mapping[str, Sequence[_Field]]] = {
    "bundle_endpoint_url": ("bundle_endpoint_url",),
    "bundle_endpoint_profile": ("https_web", "https_spiffe"),
    "trust_domain_bundle": ("trust_domain_bundle",),
}


def domain_from_wire(name: str) -> TrustDomain:
    """A trust domain, by name or by SPIFFE ID.  Raises: VST1202 when it is absent, VST1400 when it is malformed."""
    if not name:
        raise MISSING_PARAMETER.error("missing trust domain")
    return TrustDomain.parse(name)


def bundle_from_wire(message: types.Bundle) -> TrustBundle:
    """Raises: VST1202, VST1400, VST1005."""
    return TrustBundle(
        trust_domain=domain_from_wire(message.trust_domain),
        x509_authorities=certificates_from_wire(message.x509_authorities),
        jwt_authorities=jwt_keys_from_wire(message.jwt_authorities),
        sequence=message.sequence_number,
        refresh_hint=max(message.refresh_hint, 0),
    )


def certificates_from_wire(messages: Iterable[types.X509Certificate]) -> tuple[bytes, ...]:
    """Raises: VST1005."""
    certificates = tuple(each.asn1 for each in messages)
    for der in certificates:
        load_certificate(der)
    return certificates


def jwt_keys_from_wire(messages: Iterable[types.JWTKey]) -> tuple[JwtAuthority, ...]:
    """The keys, which are not read yet.  Raises: VST1202 for one without an ID or an impossible end."""
    return tuple(_jwt_key(each) for each in messages)


def _jwt_key(message: types.JWTKey) -> JwtAuthority:
    if not message.key_id:
        raise MISSING_PARAMETER.error("unable to parse JWT authority: missing key ID")
    try:
        ends = datetime.fromtimestamp(message.expires_at, UTC) if message.expires_at else None
    except (ValueError, OverflowError, OSError) as error:
        raise MISSING_PARAMETER.error(f"expires_at {message.expires_at} is not an instant") from error
    return JwtAuthority(key_id=message.key_id, public_key=message.public_key, expires_at=ends)


def profile_from_wire(message: types.FederationRelationship) -> SpiffeId | None:
    """The endpoint's SPIFFE ID, or ``None`` for ``https_web``.  Raises: VST1234 (no profile), VST1400 (ID)."""
    profile = message.WhichOneof("bundle_endpoint_profile")
    if profile == EndpointProfile.HTTPS_WEB.value:
        return None
    if profile == EndpointProfile.HTTPS_SPIFFE.value:
        return SpiffeId.parse(message.https_spiffe.endpoint_spiffe_id)
    raise INVALID_RELATIONSHIP.error("unsupported bundle endpoint profile type: none is given")


def relationship_to_wire(
    relationship: FederationRelationship,
    bundle: TrustBundle | None,
    mask: types.FederationRelationshipMask | None = None,
) -> types.FederationRelationship:
    """A relationship with its trust domain's bundle, reduced to what the mask asks for."""
    profile: dict[str, Any] = {"https_web": types.HTTPSWebProfile()}
    if relationship.endpoint_spiffe_id is not None:
        endpoint = str(relationship.endpoint_spiffe_id)
        profile = {"https_spiffe": types.HTTPSSPIFFEProfile(endpoint_spiffe_id=endpoint)}
    message = types.FederationRelationship(
        trust_domain=str(relationship.trust_domain),
        bundle_endpoint_url=relationship.bundle_endpoint_url,
        trust_domain_bundle=bundle_to_wire(bundle) if bundle is not None else None,
        **profile,
    )
    if mask is not None:
        # The mask's names are the message's, except that of the choice between the profiles.
        for wanted, fields in _RELATIONSHIP_FIELDS.items():
            if not getattr(mask, wanted):
                for field in fields:
                    message.ClearField(field)
    return message
