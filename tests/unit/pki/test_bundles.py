"""Bundle documents (SPIFFE_Trust_Domain_and_Bundle.md, section 4)."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki.bundles import (
    from_jwks,
    from_jwt_jwks,
    from_pem,
    sha256_fingerprint,
    to_jwks,
    to_jwt_jwks,
    to_oidc_jwks,
    to_pem,
)
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TD = TrustDomain.parse("example.org")
A, B = (TestAuthority(TD, now=NOW).certificate for _ in range(2))
BUNDLE = TrustBundle(trust_domain=TD, x509_authorities=(A, B), sequence=7, refresh_hint=300)
JWKS = to_jwks(BUNDLE)


def key(**changes: object) -> dict[str, object]:
    jwk: dict[str, object] = json.loads(JWKS)["keys"][0] | changes
    return {name: value for name, value in jwk.items() if value is not ...}


def read(document: object) -> TrustBundle:
    return from_jwks(TD, json.dumps(document).encode())


def refused(document: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1009"):
        from_jwks(TD, document)


def test_a_bundle_survives_being_written_as_jwks_and_read() -> None:
    assert from_jwks(TD, JWKS) == BUNDLE


def test_an_x509_key_of_a_jwks_is_as_the_standard_says() -> None:
    document: dict[str, Any] = json.loads(JWKS)
    assert document["spiffe_sequence"] == 7
    assert document["spiffe_refresh_hint"] == 300
    (first, _) = document["keys"]
    assert (first["use"], first["kty"], first["crv"]) == ("x509-svid", "EC", "P-256")
    assert "kid" not in first
    assert [base64.b64decode(text) for text in first["x5c"]] == [A]
    assert len(base64.urlsafe_b64decode(first["x"] + "=")) == 32


def test_a_bundle_without_keys_is_a_bundle() -> None:
    assert read({"keys": []}).x509_authorities == ()


def test_keys_of_other_or_unknown_kinds_are_passed_over() -> None:
    others = [key(use="jwt-svid"), key(use=...), key(kty="OKP"), key(kty=...), key(x5c=...), key(x5c=[]), {}]
    assert read({"keys": [*others, key()]}).x509_authorities == (A,)


def test_only_the_first_certificate_of_a_key_counts() -> None:
    jwk = key(x5c=[base64.b64encode(der).decode() for der in (B, A)])
    assert read({"keys": [jwk]}).x509_authorities == (B,)


def test_an_authority_that_stands_twice_counts_once() -> None:
    assert read({"keys": [key(), key()]}).x509_authorities == (A,)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        b'{"keys": [], "spiffe_sequence": -1}',
        b'{"keys": [], "spiffe_sequence": 1.5}',
        b'{"keys": [], "spiffe_sequence": "1"}',
        b'{"keys": [], "spiffe_sequence": true}',
        b'{"keys": [], "spiffe_sequence": 18446744073709551616}',
        b'{"keys": [], "spiffe_refresh_hint": NaN}',
        b'{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["AAAA"]}]}',
        b'{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["*"]}]}',
        b'{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": [3]}]}',
        b'{"keys": ' + b"[" * 100_000,
        b'{"keys": [], "spiffe_sequence": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b" " * (4 * 1024 * 1024 + 1),
    ],
    ids=lambda document: document[:40].decode(errors="replace"),
)
def test_a_malformed_document_is_refused(document: bytes) -> None:
    refused(document)


def test_a_sequence_may_take_64_bits() -> None:
    assert read({"keys": [], "spiffe_sequence": 2**64 - 1}).sequence == 2**64 - 1


def test_a_bundle_survives_being_written_as_pem_and_read() -> None:
    assert from_pem(TD, to_pem(BUNDLE)).x509_authorities == BUNDLE.x509_authorities


@pytest.mark.parametrize("pem", [b"", b"hello", to_pem(BUNDLE)[:200], to_pem(BUNDLE).replace(b"MII", b"AAA")])
def test_malformed_pem_is_refused(pem: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1009"):
        from_pem(TD, pem)


def test_the_fingerprint_of_one_authority_is_the_one_openssl_prints(tmp_path: Path) -> None:
    one = TrustBundle(trust_domain=TD, x509_authorities=(A,))
    assert sha256_fingerprint(one) == hashlib.sha256(A).hexdigest()
    (tmp_path / "a.pem").write_bytes(to_pem(one))
    printed = subprocess.run(
        ["openssl", "x509", "-fingerprint", "-sha256", "-noout", "-in", tmp_path / "a.pem"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split("=")[1].strip().replace(":", "").lower() == sha256_fingerprint(one)


def test_the_fingerprint_depends_on_the_authorities_and_on_nothing_else() -> None:
    swapped = TrustBundle(trust_domain=TD, x509_authorities=(B, A), sequence=9)
    assert sha256_fingerprint(swapped) == sha256_fingerprint(BUNDLE)
    assert sha256_fingerprint(TrustBundle(trust_domain=TD, x509_authorities=(B,))) != sha256_fingerprint(
        BUNDLE
    )


def read_or_vst1009(document: bytes) -> None:
    try:
        from_jwks(TD, document)
    except VestibuleError as error:
        assert error.code.code == "VST1009"  # noqa: PT017 - either outcome is fine


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
odd_keys = st.dictionaries(
    st.sampled_from(["use", "kty", "x5c", "kid"]),
    st.sampled_from(["x509-svid", "EC", "RSA", "jwt-svid", base64.b64encode(A).decode()])
    | st.lists(st.text(), max_size=2)
    | json_values,
)


@given(st.binary(max_size=300) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused_with_a_code(document: bytes) -> None:
    read_or_vst1009(document)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {"keys": st.lists(odd_keys) | json_values}, optional={"spiffe_sequence": json_values}
    )
)
def test_any_json_is_read_or_refused_with_a_code(document: dict[str, object]) -> None:
    read_or_vst1009(json.dumps(document).encode())


@given(st.lists(st.tuples(st.integers(0, len(JWKS) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_any_damaged_document_is_read_or_refused_with_a_code(damage: list[tuple[int, int]]) -> None:
    document = bytearray(JWKS)
    for place, value in damage:
        document[place] = value
    read_or_vst1009(bytes(document))


@given(st.binary(max_size=200), st.integers(0, 500))
def test_any_pem_is_read_or_refused_with_a_code(noise: bytes, place: int) -> None:
    pem = to_pem(BUNDLE)
    try:
        from_pem(TD, pem[:place] + noise + pem[place:])
    except VestibuleError as error:
        assert error.code.code == "VST1009"  # noqa: PT017 - either outcome is fine


# ---------------------------------------------------------------------------------------- JWT keys


def jwt_authority(name: str) -> JwtAuthority:
    return JwtAuthority(key_id=name, public_key=public_key_der(generate_key().public_key()))


BOTH = replace(BUNDLE, jwt_authorities=(jwt_authority("one"), jwt_authority("two")))


def test_a_bundle_with_jwt_keys_survives_being_written_and_read() -> None:
    assert from_jwks(TD, to_jwks(BOTH)) == BOTH


def test_a_jwt_key_of_a_jwks_is_as_the_standard_says() -> None:
    document = json.loads(to_jwks(BOTH))
    jwt = [each for each in document["keys"] if each["use"] == "jwt-svid"]
    assert [each["kid"] for each in jwt] == ["one", "two"]
    assert all(each.keys() == {"use", "kid", "kty", "crv", "x", "y"} for each in jwt)


def test_the_workload_apis_set_holds_jwt_keys_and_nothing_of_spiffes_own() -> None:
    document = json.loads(to_jwt_jwks(BOTH))
    assert document.keys() == {"keys"}
    assert [each.keys() for each in document["keys"]] == [{"kid", "kty", "crv", "x", "y"}] * 2
    assert from_jwt_jwks(TD, to_jwt_jwks(BOTH)).jwt_authorities == BOTH.jwt_authorities
    assert from_jwt_jwks(TD, to_jwks(BOTH)).x509_authorities == ()


def test_readers_of_openid_connect_are_told_how_each_key_is_used() -> None:
    keys: Any = to_oidc_jwks(BOTH)["keys"]
    assert [(each["kid"], each["alg"], each["use"]) for each in keys] == [
        ("one", "ES256", "sig"),
        ("two", "ES256", "sig"),
    ]


def test_rsa_keys_and_all_curves_are_read() -> None:
    keys = [rsa.generate_private_key(65537, 2048)]
    keys += [ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)]  # type: ignore[misc]
    authorities = tuple(
        JwtAuthority(key_id=str(n), public_key=public_key_der(key.public_key())) for n, key in enumerate(keys)
    )
    bundle = TrustBundle(trust_domain=TD, x509_authorities=(), jwt_authorities=authorities)
    assert from_jwks(TD, to_jwks(bundle)) == bundle


def jwt_key(**changes: object) -> dict[str, object]:
    jwk: dict[str, object] = json.loads(to_jwks(BOTH))["keys"][2] | changes
    return {name: value for name, value in jwk.items() if value is not ...}


def test_jwt_keys_that_cannot_be_used_are_passed_over() -> None:
    useless = [
        jwt_key(kid=...), jwt_key(kid=""), jwt_key(kid=5), jwt_key(crv="secp256k1"), jwt_key(x=...),
        jwt_key(x="AAAA"), jwt_key(y="!"), jwt_key(kty="oct", k="AAAA"), jwt_key(use="wit-svid", kid="w"),
        {"use": "jwt-svid", "kid": "small", "kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"use": "jwt-svid", "kid": "even", "kty": "RSA", "n": "_" * 342, "e": "Ag"},
    ]  # fmt: skip
    assert read({"keys": [*useless, jwt_key()]}).jwt_authorities == BOTH.jwt_authorities[:1]


def test_a_name_of_two_different_keys_is_refused() -> None:
    other: dict[str, object] = json.loads(to_jwks(BOTH))["keys"][3] | {"kid": "one"}
    refused(json.dumps({"keys": [jwt_key(), other]}).encode())
    assert len(read({"keys": [jwt_key(), jwt_key()]}).jwt_authorities) == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid"]), st.text() | st.integers()))
def test_whatever_a_jwt_key_says_the_bundle_is_read(changes: dict[str, object]) -> None:
    assert len(read({"keys": [jwt_key(**changes)]}).jwt_authorities) <= 1
