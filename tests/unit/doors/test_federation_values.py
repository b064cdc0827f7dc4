"""Federation relationships as they come in (SPIFFE_Federation.md, section 5.1)."""

from __future__ import annotations

import pytest

from vestibule.doors.identity_api.bundle_values import domain_from_wire, profile_from_wire
from vestibule.doors.identity_api.trust_domain import _read
from vestibule.errors import VestibuleError
from vestibule.identity.relationships import endpoint_url
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import types_pb2 as types

WEB = types.HTTPSWebProfile()
ENDPOINT = "spiffe://west.org/spire/server"


def relationship(**changes: object) -> types.FederationRelationship:
    plain = {"trust_domain": "west.org", "bundle_endpoint_url": "https://west.org/", "https_web": WEB}
    return types.FederationRelationship(**(plain | changes))  # type: ignore[arg-type]


def test_both_profiles_are_read() -> None:
    assert profile_from_wire(relationship()) is None
    spiffe = types.HTTPSSPIFFEProfile(endpoint_spiffe_id=ENDPOINT)
    assert profile_from_wire(relationship(https_spiffe=spiffe, https_web=None)) == SpiffeId.parse(ENDPOINT)


def test_f2_trust_domain_url_and_profile_are_given_and_never_guessed() -> None:
    assert not isinstance(_read(relationship()), VestibuleError)
    for lacking in (
        relationship(https_web=None),
        relationship(https_web=None, https_spiffe=types.HTTPSSPIFFEProfile()),
        relationship(trust_domain=""),
    ):
        assert isinstance(_read(lacking), VestibuleError)
    with pytest.raises(VestibuleError, match="VST1234"):
        endpoint_url(relationship(bundle_endpoint_url="").bundle_endpoint_url)
    with pytest.raises(VestibuleError):
        domain_from_wire("")
