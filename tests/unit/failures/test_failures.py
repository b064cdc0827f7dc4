"""The failure map names the cause of what Envoy, clients and our own parts say."""

from __future__ import annotations

import re

import pytest

from vestibule.errors import CATALOGUE
from vestibule.failures import FAILURES, Layer, Side, Symptom, explain, named, read_text

TLS = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: "
CONNECT = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"


def seen(**facts: object) -> str:
    """The name of the likeliest failure."""
    return explain(Symptom(**facts))[0].name  # type: ignore[arg-type]


def test_every_failure_can_be_looked_up_by_a_name_of_its_own() -> None:
    assert len({each.name for each in FAILURES}) == len(FAILURES) >= 45
    assert all(named(each.name) is each for each in FAILURES)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: each.name)
def test_every_failure_says_what_it_means_how_to_make_sure_and_what_to_do(failure: object) -> None:
    entry = named(failure.name)  # type: ignore[attr-defined]
    assert entry.signs
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", entry.name)
    for text in (entry.meaning, entry.fix, *entry.confirm):
        assert text.endswith((".", "?"))
    assert entry.confirm
    assert entry.example
    assert not entry.title.endswith(".")


def test_every_layer_has_a_failure() -> None:
    assert {each.layer for each in FAILURES} == set(Layer)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"status": 404, "flags": frozenset({"NR"}), "details": "route_not_found"}, "route-missing"),
        ({"status": 404, "details": "route_configuration_not_found"}, "routes-not-received"),
        ({"status": 503, "flags": frozenset({"NC"})}, "destination-missing"),
        ({"status": 503, "flags": frozenset({"UH"}), "details": "no_healthy_upstream"}, "no-instance"),
        ({"flags": frozenset({"UF"}), "details": CONNECT, "transport": "delayed connect error: Connection refused",
          "side": Side.CALLEE}, "app-not-listening"),
        ({"flags": frozenset({"UF"}), "details": CONNECT, "transport": "delayed connect error: Connection refused",
          "side": Side.CALLER}, "connection-refused"),
        ({"flags": frozenset({"UF"}), "transport": "immediate connect error: Network is unreachable",
          "side": Side.CALLER}, "network-unreachable"),
        ({"flags": frozenset({"UF"}), "transport": TLS + "unable to get local issuer certificate"},
         "peer-of-unknown-authority"),
        ({"flags": frozenset({"UF"}), "transport": TLS + "certificate has expired"},
         "peer-certificate-expired"),
        ({"flags": frozenset({"UF"}), "transport": TLS + "certificate is not yet valid"},
         "peer-certificate-not-yet-valid"),
        ({"flags": frozenset({"UF"}), "transport": TLS + "SAN match"}, "peer-has-another-identity"),
        ({"flags": frozenset({"UF"}), "transport": "TLS_error:|WRONG_VERSION_NUMBER", "side": Side.CALLER},
         "tls-to-plaintext"),
        ({"layer": "listener", "transport": "TLS_error:|268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST",
          "side": Side.CALLEE}, "plaintext-to-tls"),
        ({"layer": "listener", "transport": "PEER_DID_NOT_RETURN_A_CERTIFICATE", "side": Side.CALLEE},
         "no-client-certificate"),
        ({"transport": "TLS_error: Secret is not supplied by SDS"}, "own-certificate-missing"),
        ({"status": 403, "details": "rbac_access_denied_matched_policy[none]"}, "denied-by-no-rule"),
        ({"status": 403, "details": "rbac_access_denied_matched_policy[office-hours]"}, "denied-by-rule"),
        ({"status": 403, "details": "rbac_access_denied_matched_policy[vestibule/revoked/identity]"},
         "caller-revoked"),
        ({"status": 401, "details": "rbac_access_denied_matched_policy[vestibule/revoked-token/token]"},
         "token-revoked"),
        ({"status": 503, "details": "ext_authz_error"}, "no-decision"),
        ({"status": 401, "details": "jwt_authn_access_denied{Jwt_is_missing}"}, "token-missing"),
        ({"status": 401, "details": "jwt_authn_access_denied{Jwt_is_expired}"}, "token-expired"),
        ({"status": 401, "details": "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"},
         "token-for-somebody-else"),
        ({"status": 401, "details": "jwt_authn_access_denied{Jwt_issuer_is_not_configured}"},
         "token-of-unknown-issuer"),
        ({"status": 401, "details": "jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}"},
         "token-key-unknown"),
        ({"status": 401, "details": "jwt_authn_access_denied{Jwt_verification_fails}"}, "token-invalid"),
        ({"status": 429, "flags": frozenset({"RL"})}, "rate-limited"),
        ({"status": 503, "flags": frozenset({"UO"})}, "circuit-open"),
        ({"status": 504, "flags": frozenset({"UT"}), "details": "response_timeout"}, "timeout"),
        ({"status": 503, "flags": frozenset({"UC"}), "side": Side.CALLEE}, "app-broke-off"),
        ({"status": 503, "flags": frozenset({"UC"}), "side": Side.CALLER}, "connection-broke-off"),
        ({"status": 503, "flags": frozenset({"URX"}), "details": "via_upstream"}, "retries-exhausted"),
        ({"status": 500, "details": "via_upstream"}, "app-answered-error"),
        ({"status": 503, "flags": frozenset({"FI"})}, "fault-injected"),
        ({"flags": frozenset({"DF"}), "status": 503}, "name-not-found"),
        ({"flags": frozenset({"DC"})}, "client-left"),
        ({"flags": frozenset({"NFCF"}), "status": 500}, "filter-configuration-missing"),
    ],
)  # fmt: skip
def test_what_envoy_says_is_understood(facts: dict[str, object], name: str) -> None:
    assert seen(**facts) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("curl: (6) Could not resolve host: payments", "name-not-found"),
        ("curl: (7) Failed to connect to 10.0.0.7 port 80: Connection refused", "connection-refused"),
        ("curl: (52) Empty reply from server", "connection-broke-off"),
        ("curl: (56) Received HTTP code 501 from proxy after CONNECT", "tunnel-asked"),
        ("httpx.ConnectError: [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
         "tls-to-plaintext"),
        ("requests.exceptions.SSLError: certificate verify failed: certificate has expired",
         "peer-certificate-expired"),
        ("x509: certificate signed by unknown authority", "peer-of-unknown-authority"),
        ("remote error: tls: certificate required", "no-client-certificate"),
        ("upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, "
         "transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:"
         "CERTIFICATE_VERIFY_FAILED:TLS_error_end",
         "certificate-refused"),
        ("upstream connect error or disconnect/reset before headers. reset reason: overflow", "circuit-open"),
        ("no healthy upstream", "no-instance"),
        ("upstream request timeout", "timeout"),
        ("RBAC: access denied", "denied-by-no-rule"),
        ("Jwt is expired", "token-expired"),
        ("grpc._channel._InactiveRpcError: StatusCode.DEADLINE_EXCEEDED", "timeout"),
        ('{"error": "VST3011", "message": "no instance", "request_id": "1"}', "no-instance"),
        ('[2026-11-22T10:00:00Z] "GET /v1 HTTP/1.1" 503 UF,URX '
         'upstream_reset_before_response_started{connection_failure} - "delayed connect error: 111"',
         "connection-failed"),
        ('{"errors": ["Vault is sealed"]}', "sealed"),
    ],
)  # fmt: skip
def test_what_people_paste_is_understood(text: str, name: str) -> None:
    assert explain(read_text(text))[0].name == name


@pytest.mark.parametrize("text", ["", "hello", "200 OK", "everything is fine", "VST9999"])
def test_what_says_nothing_of_a_failure_is_not_explained(text: str) -> None:
    assert explain(read_text(text)) == ()


def test_a_call_that_went_well_is_no_failure() -> None:
    assert explain(Symptom(status=200, details="via_upstream", verdict="allowed")) == ()


def test_codes_that_are_signs_exist() -> None:
    from scripts.errors_docs import catalogue

    catalogue()
    codes = {code for each in FAILURES for sign in each.signs for code in sign.code}
    assert codes
    assert codes <= set(CATALOGUE)


def test_a_text_as_long_as_a_book_is_read_in_no_time() -> None:
    assert explain(read_text("a" * 5_000_000 + " no healthy upstream")) == ()
