"""JWT-SVIDs, by the rules of the standard (JWT-SVID.md); J1 to J5 as the reference numbers them."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki.jwk import encode_base64url
from vestibule.pki.jwt import (
    MAX_TOKEN,
    UnsignedJwt,
    check_audience,
    read_jwt_svid,
    svid_claims,
    verify_jwt_svid,
)
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.spiffe import JwtAuthority, JwtSvid, SpiffeId, TrustBundle, TrustDomain

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TD, OTHER = TrustDomain.parse("example.org"), TrustDomain.parse("other.org")
WEB = SpiffeId.of(TD, "/web")
KEY, FOREIGN = generate_key(), generate_key()
RSA = rsa.generate_private_key(65537, 2048)
P384 = generate_private_key(SECP384R1())


def bundle(domain: TrustDomain = TD, **keys: Any) -> TrustBundle:
    authorities = tuple(
        JwtAuthority(key_id=name, public_key=public_key_der(key.public_key())) for name, key in keys.items()
    )
    return TrustBundle(trust_domain=domain, x509_authorities=(), jwt_authorities=authorities)


TRUST = {TD: bundle(k=KEY, r=RSA, p=P384), OTHER: bundle(OTHER, k=FOREIGN)}
CLAIMS = svid_claims(WEB, ["db"], NOW, 5 * MINUTE, NOW + timedelta(hours=1))


def part(value: object) -> str:
    return encode_base64url(json.dumps(value).encode())


def token(header: dict[str, Any] | None = None, key: Any = KEY, **claims: Any) -> str:
    """A token with a right signature, whatever it says; ``...`` leaves a claim or header out."""
    merged = {"alg": "ES256", "kid": "k", "typ": "JWT"} | (header or {})
    signed = f"{part(_kept(merged))}.{part(_kept(CLAIMS | claims))}".encode()
    r, s = decode_dss_signature(key.sign(signed, ECDSA(SHA256())))
    return f"{signed.decode()}.{encode_base64url(r.to_bytes(32) + s.to_bytes(32))}"


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not ...}


def verify(text: str, audience: str = "db", now: datetime = NOW) -> JwtSvid:
    return verify_jwt_svid(text, [audience], TRUST.get, now)


def refused(text: str, code: str, now: datetime = NOW) -> None:
    with pytest.raises(VestibuleError) as caught:
        verify(text, now=now)
    assert caught.value.code.code == code


def test_what_was_signed_verifies() -> None:
    unsigned = UnsignedJwt(key_id="k", claims=CLAIMS)
    svid = verify(unsigned.signed(KEY.sign(unsigned.signing_input, ECDSA(SHA256()))))
    assert (svid.spiffe_id, svid.audience, svid.key_id) == (WEB, ("db",), "k")
    assert (svid.issued_at, svid.expires_at) == (NOW, NOW + 5 * MINUTE)
    assert svid.token not in repr(svid)


def test_a_made_token_has_the_header_of_the_standard_and_a_list_for_its_audience() -> None:
    header, claims, _ = (
        UnsignedJwt(key_id="k", claims=CLAIMS).signed(KEY.sign(b"", ECDSA(SHA256()))).split(".")
    )
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "ES256", "kid": "k", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"] == ["db"]


def test_a_token_does_not_outlive_the_key_that_signed_it() -> None:
    claims = svid_claims(WEB, ["db"], NOW, 5 * MINUTE, NOW + MINUTE)
    assert claims["exp"] == (NOW + MINUTE).timestamp()
    with pytest.raises(VestibuleError, match="VST1004"):
        svid_claims(WEB, ["db"], NOW, 5 * MINUTE, NOW)


def test_an_issuer_is_said_where_there_is_one() -> None:
    assert "iss" not in CLAIMS
    end = NOW + timedelta(hours=1)
    assert (
        svid_claims(WEB, ["db"], NOW, MINUTE, end, "https://id.example.org")["iss"]
        == "https://id.example.org"
    )


@pytest.mark.parametrize("audience", [[], [""], ["a", ""], ["x" * 2049], [str(n) for n in range(65)]])
def test_no_token_is_made_without_a_sensible_audience(audience: list[str]) -> None:
    with pytest.raises(VestibuleError, match="VST1016"):
        check_audience(audience)


# ------------------------------------------------------------------------------- J1: form and header


@pytest.mark.parametrize(
    "header", [{"jku": "x"}, {"jwk": {}}, {"x5c": []}, {"crit": []}, {"b64": False}, {"cty": "x"}]
)
def test_j1_no_other_header_is_accepted(header: dict[str, Any]) -> None:
    refused(token(header), "VST1012")


def test_j1_only_the_compact_form_is_accepted() -> None:
    good = token()
    head, payload, signature = good.split(".")
    document = {"payload": payload, "signatures": [{"protected": head, "signature": signature}]}
    for text in (
        "",
        ".",
        "..",
        f"{head}.{payload}",
        f"{good}.",
        f"{good}.x.y",
        json.dumps(document),
        good + "=",
    ):
        refused(text, "VST1012")


def test_j1_each_part_has_one_spelling() -> None:
    head, payload, signature = token().split(".")
    for text in (
        f"{head}=.{payload}.{signature}",
        f" {head}.{payload}.{signature}",
        f"{head}\n.{payload}.{signature}",
    ):
        refused(text, "VST1012")
    twice = encode_base64url(b'{"alg":"ES256","alg":"none","kid":"k"}')
    refused(f"{twice}.{payload}.{signature}", "VST1012")


def test_a_token_of_absurd_length_is_refused_unread() -> None:
    refused("a" * (MAX_TOKEN + 1), "VST1012")


# -------------------------------------------------------------------------------- J2, J3: alg and typ


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512", "EdDSA", "ES256K", "", None, 5, ...])
def test_j2_no_other_algorithm_is_accepted(algorithm: object) -> None:
    refused(token({"alg": algorithm}), "VST1012")


def test_j2_the_public_key_is_never_a_shared_secret() -> None:
    # The classic confusion: HS256 with the verifier's public key as the secret.
    refused(token({"alg": "HS256"}), "VST1012")


@pytest.mark.parametrize("algorithm", ["ES384", "ES512", "RS256", "PS256"])
def test_j2_the_header_does_not_choose_how_a_key_is_used(algorithm: str) -> None:
    refused(token({"alg": algorithm}), "VST1013")


def test_j2_other_keys_of_the_list_verify_with_their_own_algorithms() -> None:
    for algorithm, pads in (
        ("RS256", padding.PKCS1v15()),
        ("PS256", padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)),
    ):
        signed = f"{part({'alg': algorithm, 'kid': 'r'})}.{part(CLAIMS)}".encode()
        signature = RSA.sign(signed, pads, SHA256())
        assert verify(f"{signed.decode()}.{encode_base64url(signature)}").spiffe_id == WEB
    signed = f"{part({'alg': 'ES384', 'kid': 'p'})}.{part(CLAIMS)}".encode()
    r, s = decode_dss_signature(P384.sign(signed, ECDSA(SHA384())))
    assert verify(f"{signed.decode()}.{encode_base64url(r.to_bytes(48) + s.to_bytes(48))}").spiffe_id == WEB


def test_j3_typ_is_jwt_or_jose_or_absent() -> None:
    for typ in ("JWT", "JOSE", ...):
        assert verify(token({"typ": typ})).spiffe_id == WEB
    for other in ("jwt", "wit+jwt", "at+jwt", "", None, 1):
        refused(token({"typ": other}), "VST1012")


# ------------------------------------------------------------------------------------ J4: claims


@pytest.mark.parametrize("exp", [..., None, "1", True, [], 1e300, -1e300])
def test_j4_a_token_without_an_expiry_is_refused(exp: object) -> None:
    refused(token(exp=exp), "VST1012")


def test_j4_an_expired_token_is_refused_from_the_second_on() -> None:
    good = token()
    assert verify(good, now=NOW + 5 * MINUTE - timedelta(seconds=1)).spiffe_id == WEB
    refused(good, "VST1015", NOW + 5 * MINUTE)


def test_j4_a_token_from_the_future_is_refused_beyond_a_slow_clock() -> None:
    soon, later = (NOW + timedelta(seconds=n) for n in (59, 61))
    for name in ("iat", "nbf"):
        ahead, far, odd = (
            dict[str, Any]({name: each}) for each in (soon.timestamp(), later.timestamp(), "soon")
        )
        assert verify(token(**ahead)).spiffe_id == WEB
        refused(token(**far), "VST1015")
        refused(token(**odd), "VST1012")


@pytest.mark.parametrize("aud", [..., None, [], "", [""], [1], {"db": 1}, ["db", None]])
def test_j4_a_token_without_an_audience_is_refused(aud: object) -> None:
    refused(token(aud=aud), "VST1012")


def test_j4_the_verifier_is_among_the_audiences() -> None:
    assert verify(token(aud="db")).audience == ("db",)
    assert verify(token(aud=["other", "db"])).spiffe_id == WEB
    for audience in ("DB", "db2", ["other"], ["d"]):
        refused(token(aud=audience), "VST1014")


@pytest.mark.parametrize(
    "sub",
    [
        ..., None, "", 7, "web", "https://example.org/web", "spiffe://example.org", "spiffe://example.org/",
        "spiffe://example.org/a/../b", "SPIFFE://example.org/web", "spiffe://EXAMPLE.org/web", ["spiffe://example.org/web"],
    ],
)  # fmt: skip
def test_j4_the_subject_is_the_id_of_a_workload(sub: object) -> None:
    refused(token(sub=sub), "VST1012")


# ------------------------------------------------------------------------------------ J5: the key


def test_j5_the_key_is_the_one_that_the_own_trust_domain_lists() -> None:
    refused(token({"kid": "unknown"}), "VST1013")
    refused(token(key=FOREIGN), "VST1013")
    for kid in (..., "", None, 5):
        refused(token({"kid": kid}), "VST1012")


def test_no_other_trust_domains_key_makes_our_identities() -> None:
    # The partner's key has the same kid, and signs one of our IDs.
    refused(token(key=FOREIGN), "VST1013")
    assert verify(token(key=FOREIGN, sub="spiffe://other.org/web")).spiffe_id.trust_domain == OTHER
    refused(token(key=KEY, sub="spiffe://other.org/web"), "VST1013")
    refused(token(sub="spiffe://third.org/web"), "VST1013")


def test_j5_a_key_that_expired_is_none_even_where_the_bundle_is_old() -> None:
    # An agent that was cut off for long still has it: whoever finds the old key may not sign on.
    [authority] = bundle(k=KEY).jwt_authorities
    good, aged = (
        {TD: replace(bundle(), jwt_authorities=(replace(authority, expires_at=ends),))}
        for ends in (NOW + MINUTE, NOW)
    )
    assert verify_jwt_svid(token(), ["db"], good.get, NOW).spiffe_id == WEB
    with pytest.raises(VestibuleError, match="VST1013"):
        verify_jwt_svid(token(), ["db"], aged.get, NOW)


def test_a_changed_token_is_refused() -> None:
    head, payload, signature = token().split(".")
    refused(f"{head}.{part(CLAIMS | {'sub': 'spiffe://example.org/admin'})}.{signature}", "VST1013")
    refused(f"{head}.{payload}.{encode_base64url(bytes(64))}", "VST1013")
    refused(f"{head}.{payload}.", "VST1013")


def test_a_token_can_be_read_without_its_key() -> None:
    assert read_jwt_svid(token(key=FOREIGN)).spiffe_id == WEB


# ------------------------------------------------------------------------------------ whatever comes

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Signatures and imports take their time on a busy machine."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@PATIENT
@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
def test_any_text_is_refused_as_such(text: str) -> None:
    refused(text, "VST1012")


@PATIENT
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "jku"]), JSON | st.sampled_from(["ES256", "k", "JWT"])
    ),
    st.dictionaries(st.sampled_from(["sub", "aud", "exp", "iat", "nbf"]), JSON),
)
def test_whatever_a_signed_token_says_it_is_refused_or_keeps_every_rule(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    with suppress(VestibuleError):
        svid = verify(token(header, **claims))
        assert svid.spiffe_id.trust_domain == TD
        assert "db" in svid.audience
        assert svid.expires_at > NOW


@PATIENT
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_any_flipped_letter_breaks_the_token(place: int, by: int) -> None:
    good = token()
    at = place % len(good)
    changed = good[:at] + chr((ord(good[at]) + by) % 128) + good[at + 1 :]
    if changed != good:
        with pytest.raises(VestibuleError):
            verify(changed)
