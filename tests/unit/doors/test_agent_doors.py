"""What the agent's doors make of a workload's identities."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2
from google.protobuf.json_format import MessageToDict

from vestibule.agent.cache import Bundles
from vestibule.agent.workloads import Identities
from vestibule.calls.workload_api import SERVICE as WORKLOAD
from vestibule.doors.sds_secrets import secrets_of
from vestibule.doors.workload_api import (
    bundles_response,
    jwt_bundles_response,
    jwt_response,
    svid_response,
    validation_response,
)
from vestibule.errors import VestibuleError
from vestibule.testing import TestAuthority
from vestibule.xds.resources import SECRET

AUTHORITY = TestAuthority("example.org")
PARTNER, OTHER = TestAuthority("partner.org"), TestAuthority("another.org")
EMPTY = replace(TestAuthority("empty.org").bundle, x509_authorities=())
FIRST, SECOND = AUTHORITY.svid("/a"), AUTHORITY.svid("/b")


def identities(*hints: str) -> Identities:
    svids = tuple(replace(svid, hint=hint) for svid, hint in zip((FIRST, SECOND), hints, strict=True))
    return Identities(svids=svids, bundle=AUTHORITY.bundle)


def test_an_svid_has_its_chain_key_and_bundle() -> None:
    response = svid_response(identities("x", "y"))
    assert [each.spiffe_id for each in response.svids] == ["spiffe://example.org/a", "spiffe://example.org/b"]
    assert response.svids[0].x509_svid == FIRST.chain[0]
    assert response.svids[0].x509_svid_key == FIRST.key
    assert response.svids[0].bundle == AUTHORITY.certificate


def test_w3_the_chain_is_leaf_first_the_key_plain_pkcs8_and_the_bundle_all_authorities() -> None:
    below = TestAuthority("example.org", intermediates=2)
    svid = below.svid("/a")
    own = replace(below.bundle, x509_authorities=(below.certificate, AUTHORITY.certificate))
    [told] = svid_response(Identities(svids=(svid,), bundle=own)).svids
    chain = split(told.x509_svid)
    assert [each.subject for each in chain[1:]] == [each.issuer for each in chain[:-1]]
    key = load_der_private_key(told.x509_svid_key, password=None)
    assert key.public_key() == chain[0].public_key()
    assert told.x509_svid_key == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert len(chain) == 3
    assert [der(each) for each in split(told.bundle)] == list(own.x509_authorities)


def split(concatenated: bytes) -> list[x509.Certificate]:
    """The certificates that stand one after the other, with nothing between them."""
    found = []
    while concatenated:
        assert concatenated[:2] == b"\x30\x82", "a DER sequence whose length takes two bytes"
        length = 4 + int.from_bytes(concatenated[2:4], "big")
        found.append(x509.load_der_x509_certificate(concatenated[:length]))
        concatenated = concatenated[length:]
    return found


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_w1_e5_the_workload_api_has_the_calls_of_the_standard_and_no_others() -> None:
    assert WORKLOAD.full_name == "SpiffeWorkloadAPI", "a service without a package"
    assert {(each.name, each.server_streaming) for each in WORKLOAD.methods} == {
        ("FetchX509SVID", True),
        ("FetchX509Bundles", True),
        ("FetchJWTSVID", False),
        ("FetchJWTBundles", True),
        ("ValidateJWTSVID", False),
        ("FetchWITSVID", True),
        ("FetchWITBundles", True),
    }
    assert not any(each.client_streaming for each in WORKLOAD.methods)


def test_a_hint_is_given_once() -> None:
    assert [each.hint for each in svid_response(identities("same", "same")).svids] == ["same", ""]


def test_bundles_go_by_the_trust_domains_id() -> None:
    bundles = Bundles(own=AUTHORITY.bundle, federated=(PARTNER.bundle, EMPTY))
    assert dict(bundles_response(bundles).bundles) == {
        "spiffe://example.org": AUTHORITY.certificate,
        "spiffe://partner.org": PARTNER.certificate,
    }


def test_the_own_bundle_is_there_also_when_it_is_empty() -> None:
    own = replace(AUTHORITY.bundle, x509_authorities=())
    assert dict(bundles_response(Bundles(own=own)).bundles) == {"spiffe://example.org": b""}
    assert set(jwt_bundles_response(Bundles(own=own)).bundles) == {"spiffe://example.org"}


def test_svids_come_with_the_bundles_of_others() -> None:
    federated = replace(identities("", ""), federated=(PARTNER.bundle, EMPTY))
    response = svid_response(federated)
    assert dict(response.federated_bundles) == {"spiffe://partner.org": PARTNER.certificate}
    assert {each.bundle for each in response.svids} == {AUTHORITY.certificate}, "never merged"


def test_a_federated_trust_domain_is_a_secret_of_its_own_and_part_of_all() -> None:
    snapshot = secrets_of(replace(identities("", ""), federated=(PARTNER.bundle, OTHER.bundle)))
    found = {name: secret_pb2.Secret.FromString(each.body) for name, each in snapshot.of_type(SECRET).items()}
    assert validated(found["spiffe://partner.org"]) == ["partner.org"]
    assert validated(found["spiffe://example.org"]) == validated(found["ROOTCA"]) == ["example.org"]
    assert validated(found["ALL"]) == ["another.org", "example.org", "partner.org"], "sorted"


def validated(secret: secret_pb2.Secret) -> list[str]:
    """The trust domains that a validation context knows, in its order."""
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    return [each.name for each in config.trust_domains]


def test_secrets_go_by_every_name_that_envoy_may_use() -> None:
    snapshot = secrets_of(identities("", ""))
    found = {name: secret_pb2.Secret.FromString(each.body) for name, each in snapshot.of_type(SECRET).items()}
    assert set(found) == {
        "default",
        "vestibule/authorities",
        "spiffe://example.org/a",
        "spiffe://example.org/b",
        "ROOTCA",
        "ALL",
        "spiffe://example.org",
    }
    assert found["default"].tls_certificate == found["spiffe://example.org/a"].tls_certificate
    assert all(secret.name == name for name, secret in found.items())


def test_the_version_follows_the_content_and_nothing_else() -> None:
    same, other = secrets_of(identities("", "")), secrets_of(identities("", "hint"))
    assert same.version == other.version, "a hint is not in any secret"
    renewed = Identities(svids=(AUTHORITY.svid("/a"),), bundle=AUTHORITY.bundle)
    assert secrets_of(renewed).version != same.version


def test_one_identity_from_two_entries_is_one_secret() -> None:
    twice = Identities(svids=(FIRST, AUTHORITY.svid("/a")), bundle=AUTHORITY.bundle)
    assert "spiffe://example.org/a" in secrets_of(twice).of_type(SECRET)


def test_each_token_has_its_identity_and_a_hint_is_given_once() -> None:
    svids = [replace(AUTHORITY.jwt_svid(path, "db"), hint="same") for path in ("/a", "/b")]
    response = jwt_response(svids)
    assert [each.spiffe_id for each in response.svids] == ["spiffe://example.org/a", "spiffe://example.org/b"]
    assert [each.svid for each in response.svids] == [svid.token for svid in svids]
    assert [each.hint for each in response.svids] == ["same", ""]


def test_jwt_bundles_hold_no_keys_of_other_uses() -> None:
    bundles = dict(jwt_bundles_response(Bundles(own=AUTHORITY.jwt_bundle)).bundles)
    document = json.loads(bundles.pop("spiffe://example.org"))
    assert bundles == {}
    assert [key["kid"] for key in document["keys"]] == [AUTHORITY.jwt_authority.key_id]
    assert document.keys() == {"keys"}
    assert all("use" not in key and "x5c" not in key for key in document["keys"])


def test_validated_claims_have_their_audience_as_a_list() -> None:
    svid = AUTHORITY.jwt_svid("/a", "db")
    svid = replace(svid, claims={**svid.claims, "aud": "db", "nested": {"list": [1, None, True]}})
    response = validation_response(svid)
    assert response.spiffe_id == "spiffe://example.org/a"
    claims = MessageToDict(response.claims)
    assert (claims["aud"], claims["sub"]) == (["db"], "spiffe://example.org/a")
    assert claims["nested"] == {"list": [1, None, True]}


@pytest.mark.parametrize("claim", [10**400, "\ud800"])
def test_a_claim_that_cannot_be_passed_on_is_refused(claim: object) -> None:
    svid = AUTHORITY.jwt_svid("/a", "db")
    with pytest.raises(VestibuleError, match="VST2201"):
        validation_response(replace(svid, claims={**svid.claims, "odd": claim}))
