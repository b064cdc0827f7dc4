"""Which secrets an Envoy has under which names, and in which form."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf.json_format import ParseDict

from vestibule.agent.workloads import Identities
from vestibule.doors.sds_secrets import BUILT_IN, Role, SdsSettings, secrets_of, takes_validator
from vestibule.envoy.names import AUTHORITIES_SECRET
from vestibule.testing import TestAuthority
from vestibule.xds.resources import SECRET, Snapshot

AUTHORITY = TestAuthority("example.org")
IDENTITIES = Identities(svids=(AUTHORITY.svid("/a"), AUTHORITY.svid("/b")), bundle=AUTHORITY.bundle)
BY_ID = {"spiffe://example.org/a", "spiffe://example.org/b", "spiffe://example.org"}


def secrets(snapshot: Snapshot) -> dict[str, secret_pb2.Secret]:
    found = snapshot.of_type(SECRET)
    return {name: secret_pb2.Secret.FromString(each.body) for name, each in found.items()}


def node(**fields: Any) -> Any:
    return ParseDict(fields, base_pb2.Node())


def version(major: int, minor: int) -> dict[str, Any]:
    return {"user_agent_build_version": {"version": {"major_number": major, "minor_number": minor}}}


def test_who_asks_for_everything_gets_each_secret_once_by_its_id() -> None:
    assert secrets(secrets_of(IDENTITIES, asked=())).keys() == BY_ID
    assert secrets(secrets_of(IDENTITIES, asked=("ROOTCA",))).keys() == BY_ID | {"ROOTCA"}


def test_short_names_can_be_others_and_the_built_in_ones_stay_unless_they_are_given_away() -> None:
    istio = SdsSettings(default_bundle_name="null", default_all_bundles_name="ROOTCA")
    assert istio.short_names == {
        "default": Role.SVID,
        "null": Role.BUNDLE,
        "ROOTCA": Role.ALL_BUNDLES,
        "ALL": Role.ALL_BUNDLES,
        AUTHORITIES_SECRET: Role.AUTHORITIES,
    }
    assert SdsSettings().short_names == BUILT_IN
    found = secrets(secrets_of(IDENTITIES, short_names=SdsSettings(default_svid_name="mine").short_names))
    assert found["mine"].tls_certificate == found["spiffe://example.org/a"].tls_certificate


@pytest.mark.parametrize(
    "names",
    [
        {"default_svid_name": ""},
        {"default_svid_name": "ALL"},
        {"default_bundle_name": "spiffe://example.org"},
        {"default_bundle_name": "x", "default_all_bundles_name": "x"},
    ],
)
def test_short_names_that_would_be_taken_for_others_are_refused(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="default name"):
        SdsSettings(**names)  # type: ignore[arg-type]


def test_without_the_validator_a_context_has_plain_authorities_and_there_is_none_for_all() -> None:
    found = secrets(secrets_of(IDENTITIES, validator=False))
    assert found.keys() == BY_ID | {"default", "ROOTCA", AUTHORITIES_SECRET}
    for name in ("ROOTCA", "spiffe://example.org"):
        context = found[name].validation_context
        assert context.trusted_ca.inline_bytes.count(b"BEGIN CERTIFICATE") == 1
        assert not context.HasField("custom_validator_config")
        assert not context.match_typed_subject_alt_names, "they would widen the operator's own"


def test_with_the_validator_there_are_no_plain_authorities() -> None:
    context = secrets(secrets_of(IDENTITIES))["ROOTCA"].validation_context
    assert context.custom_validator_config.name == "envoy.tls.cert_validator.spiffe"
    assert not context.HasField("trusted_ca")


def test_of_the_authorities_alone_there_are_only_those_of_the_own_trust_domain_whoever_asks() -> None:
    for validator in (True, False):
        context = secrets(secrets_of(IDENTITIES, validator=validator))[AUTHORITIES_SECRET].validation_context
        # With somebody else's beside them, these could vouch for identities of ours.
        assert context.trusted_ca.inline_bytes.count(b"BEGIN CERTIFICATE") == 1
        assert not context.HasField("custom_validator_config")


@pytest.mark.parametrize(
    ("said", "disabled_by_setting", "validator"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"metadata": {"disable_spiffe_cert_validation": True}}, False, False),
        ({"metadata": {"disable_spiffe_cert_validation": "true"}}, False, False),
        ({"metadata": {"disable_spiffe_cert_validation": "T"}}, False, False),
        ({"metadata": {"disable_spiffe_cert_validation": "1"}}, False, False),
        ({"metadata": {"disable_spiffe_cert_validation": False}}, True, True),
        ({"metadata": {"disable_spiffe_cert_validation": "FALSE"}}, True, True),
        ({"metadata": {"disable_spiffe_cert_validation": "0"}}, True, True),
        ({"metadata": {"disable_spiffe_cert_validation": "yes"}}, False, True),
        ({"metadata": {"disable_spiffe_cert_validation": "yes"}}, True, False),
        ({"metadata": {"disable_spiffe_cert_validation": 1}}, False, True),
        ({"metadata": {"disable_spiffe_cert_validation": {"a": True}}}, False, True),
        ({"metadata": {"disable_spiffe_cert_validation": None}}, True, False),
        ({"metadata": {"something_else": True}}, False, True),
        (version(1, 17), False, False),
        (version(1, 18), False, True),
        (version(1, 40), False, True),
        (version(1, 40), True, False),
        (version(2, 0), False, True),
        ({**version(1, 17), "metadata": {"disable_spiffe_cert_validation": False}}, False, False),
    ],
)
def test_the_node_s_metadata_wins_over_the_setting_and_its_age_over_both(
    said: dict[str, Any], disabled_by_setting: bool, validator: bool
) -> None:
    settings = SdsSettings(disable_spiffe_cert_validation=disabled_by_setting)
    assert takes_validator(node(**said), settings) is validator
