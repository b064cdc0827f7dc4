"""WIT-SVIDs, by the rules of the standard (WIT-SVID.md); T1 to T3 as the reference numbers them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_jwks, to_jwks, to_jwt_jwks, to_wit_jwks
from vestibule.pki.jwk import encode_base64url, key_of_jwk
from vestibule.pki.jwt import verify_jwt_svid
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.wit import TYPE, bound_key, private_jwk, read_wit_svid, verify_wit_svid, wit_claims
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TD, OTHER = TrustDomain.parse("example.org"), TrustDomain.parse("other.org")
WEB = SpiffeId.of(TD, "/web")
SIGNER, FOREIGN, HOLDER = generate_key(), generate_key(), generate_key()
JWK = bound_key(public_key_der(HOLDER.public_key()), "ES256")
CLAIMS = wit_claims(WEB, JWK, NOW, 5 * MINUTE, NOW + timedelta(hours=1), "one")


def authority(name: str, key: Any, **more: Any) -> JwtAuthority:
    return JwtAuthority(key_id=name, public_key=public_key_der(key.public_key()), **more)


BUNDLE = TrustBundle(
    trust_domain=TD,
    x509_authorities=(),
    jwt_authorities=(authority("j", FOREIGN),),
    wit_authorities=(authority("k", SIGNER),),
    sequence=1,
)
TRUST = {TD: BUNDLE, OTHER: replace(BUNDLE, trust_domain=OTHER, wit_authorities=(authority("k", FOREIGN),))}


def part(value: object) -> str:
    return encode_base64url(json.dumps(value).encode())


def kept(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not ...}


def token(header: dict[str, Any] | None = None, key: Any = SIGNER, **claims: Any) -> str:
    """A token with a right signature, whatever it says; ``...`` leaves a claim or header out."""
    merged = kept({"alg": "ES256", "kid": "k", "typ": TYPE} | (header or {}))
    signed = f"{part(merged)}.{part(kept(CLAIMS | claims))}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
    return f"{signed}.{encode_base64url(r.to_bytes(32) + s.to_bytes(32))}"


def code_of(text: str, now: datetime = NOW) -> str:
    with pytest.raises(VestibuleError) as caught:
        verify_wit_svid(text, TRUST.get, now)
    return caught.value.code.code


def test_a_token_says_who_has_which_key() -> None:
    svid = verify_wit_svid(token(), TRUST.get, NOW)
    assert svid.spiffe_id == WEB
    assert svid.public_key == public_key_der(HOLDER.public_key())
    assert (svid.algorithm, svid.key_id) == ("ES256", "k")
    assert svid.expires_at == NOW + 5 * MINUTE
    assert svid.token not in repr(svid)


@pytest.mark.parametrize(
    "header",
    [
        {"kid": ...},
        {"kid": ""},
        {"typ": ...},
        {"typ": "JWT"},
        {"typ": "WIT+JWT"},
        {"alg": ...},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "EdDSA"},
        {"crit": ["b64"], "b64": False},
    ],
)
def test_t1_the_header_names_its_key_its_type_and_an_algorithm_of_the_list(header: dict[str, Any]) -> None:
    assert code_of(token(header)) == "VST1021"


def test_t1_other_headers_are_passed_over() -> None:
    assert verify_wit_svid(token({"x": 1}), TRUST.get, NOW).spiffe_id == WEB


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ...},
        {"sub": "web"},
        {"sub": "spiffe://example.org"},
        {"sub": "spiffe://EXAMPLE.org/web"},
        {"exp": ...},
        {"exp": "soon"},
        {"exp": True},
        {"cnf": ...},
        {"cnf": {}},
        {"cnf": {"jwk": {**JWK, "alg": ...}}},
        {"cnf": {"jwk": {**JWK, "alg": "ES384"}}},
        {"cnf": {"jwk": {**JWK, "alg": "HS256"}}},
        {"cnf": {"jwk": {**JWK, "crv": "P-384"}}},
        {"cnf": {"jwk": {**JWK, "d": "AA"}}},
        {"cnf": {"jwk": {"kty": "oct", "k": "AA", "alg": "HS256"}}},
        {"cnf": {"jkt": "thumbprint"}},
        {"nbf": "later"},
    ],
)
def test_t2_it_has_a_subject_an_end_and_a_public_key_with_an_algorithm(claims: dict[str, Any]) -> None:
    if isinstance(claims.get("cnf"), dict) and "jwk" in claims["cnf"]:
        claims = {"cnf": {"jwk": kept(claims["cnf"]["jwk"])}}
    assert code_of(token(**claims)) == "VST1021"


@pytest.mark.parametrize("audience", ["db", ["db"], [], None])
def test_t3_it_has_no_audience_of_any_form(audience: object) -> None:
    assert "aud" not in CLAIMS
    assert "iss" not in CLAIMS
    assert code_of(token(aud=audience)) == "VST1021"


def test_t3_it_is_no_bearers_token() -> None:
    both = replace(BUNDLE, jwt_authorities=BUNDLE.jwt_authorities + BUNDLE.wit_authorities)
    for text in (token(), token(aud=["db"]), token({"typ": "JWT"})):
        with pytest.raises(VestibuleError, match="VST1012"):
            verify_jwt_svid(text, ["db"], {TD: both}.get, NOW)
    # Even one that looks like a JWT-SVID: its key is not one of those that sign them.
    with pytest.raises(VestibuleError, match="VST1013"):
        verify_jwt_svid(token({"typ": "JWT"}, aud=["db"]), ["db"], TRUST.get, NOW)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", f"{token()}.x", token()[:-1] + "=", "x" * 20_000])
def test_what_is_no_token_is_refused(text: str) -> None:
    assert code_of(text) == "VST1021"


def test_only_a_wit_authority_of_the_subject_s_own_trust_domain_counts() -> None:
    assert code_of(token(key=FOREIGN)) == "VST1013"
    assert code_of(token({"kid": "j"}, key=FOREIGN)) == "VST1013", "a key of JWT-SVIDs"
    assert code_of(token({"kid": "x"})) == "VST1013"
    assert code_of(token(sub="spiffe://other.org/web")) == "VST1013"
    assert code_of(token(sub="spiffe://third.org/web")) == "VST1013"
    with pytest.raises(VestibuleError, match="VST1013"):
        verify_wit_svid(token(), lambda _: TRUST[OTHER], NOW)
    over = replace(BUNDLE, wit_authorities=(authority("k", SIGNER, expires_at=NOW),))
    with pytest.raises(VestibuleError, match="VST1013"):
        verify_wit_svid(token(), lambda _: over, NOW)


def test_it_ends_and_begins() -> None:
    assert code_of(token(), NOW + 5 * MINUTE) == "VST1015"
    assert code_of(token(nbf=int((NOW + 2 * MINUTE).timestamp()))) == "VST1015"
    assert verify_wit_svid(token(nbf=int((NOW + MINUTE).timestamp())), TRUST.get, NOW).spiffe_id == WEB


def test_no_token_outlives_its_signer() -> None:
    claims = wit_claims(WEB, JWK, NOW, timedelta(hours=2), NOW + timedelta(hours=1), "x")
    assert claims["exp"] == (NOW + timedelta(hours=1)).timestamp()
    with pytest.raises(VestibuleError, match="VST1004"):
        wit_claims(WEB, JWK, NOW, MINUTE, NOW, "x")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (generate_key(), ("ES256",), ("ES384", "RS256", "none", "", "EdDSA")),
        (generate_private_key(SECP384R1()), ("ES384",), ("ES256",)),
        (rsa.generate_private_key(65537, 2048), ("RS256", "PS512"), ("ES256", "HS256")),
    ],
)
def test_a_key_is_bound_for_an_algorithm_of_its_own(key: Any, good: tuple[str], bad: tuple[str]) -> None:
    der = public_key_der(key.public_key())
    for algorithm in good:
        assert bound_key(der, algorithm)["alg"] == algorithm
    for algorithm in bad:
        with pytest.raises(VestibuleError, match="VST1016"):
            bound_key(der, algorithm)


def test_what_is_no_public_key_is_not_bound() -> None:
    for der in (b"", b"x" * 40, public_key_der(rsa.generate_private_key(65537, 1024).public_key())):
        with pytest.raises(VestibuleError, match="VST1016"):
            bound_key(der, "RS256")


def test_a_private_key_is_told_as_a_jwk() -> None:
    jwk = json.loads(private_jwk(HOLDER, "ES256"))
    assert jwk["alg"] == "ES256"
    assert key_of_jwk(jwk) == HOLDER.public_key()
    assert len(jwk["d"]) == 43


def test_the_bundle_says_which_keys_are_for_what() -> None:
    document = json.loads(to_jwks(BUNDLE))
    assert [(key["use"], key["kid"]) for key in document["keys"]] == [("jwt-svid", "j"), ("wit-svid", "k")]
    assert from_jwks(TD, to_jwks(BUNDLE)) == BUNDLE
    assert [key["kid"] for key in json.loads(to_wit_jwks(BUNDLE))["keys"]] == ["k"]
    assert [key["kid"] for key in json.loads(to_jwt_jwks(BUNDLE))["keys"]] == ["j"]


def test_no_kid_is_used_twice_in_a_bundle_whatever_for() -> None:
    document = json.loads(to_jwks(BUNDLE))
    document["keys"][1]["kid"] = "j"
    with pytest.raises(VestibuleError, match="VST1009"):
        from_jwks(TD, json.dumps(document).encode())


def test_reading_is_not_believing() -> None:
    assert read_wit_svid(token(key=FOREIGN)).spiffe_id == WEB
