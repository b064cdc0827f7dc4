"""What passes for an access token, and what does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey
from tests.unit.sdk.token_lab import WEB, Issuer

from vestibule.pki.jwk import encode_base64url, jwk_parameters
from vestibule.sdk.oauth import InvalidTokenError, TokenScopeError
from vestibule.sdk.oauth.access_tokens import AccessToken, VerificationKey, keys_of, verified
from vestibule.testing.tokens import ISSUER, signed, spiffe_id
from vestibule.tokens.jwts import taken_apart

ISSUED = Issuer()
KEYS = keys_of(ISSUED.jwks)
ORDERS, REPORTS = str(spiffe_id("orders")), str(spiffe_id("reports"))


def read(text: str, now: datetime | None = None) -> AccessToken:
    return verified(text, KEYS, issuer=ISSUER, audience=["reports"], now=now or datetime.now(UTC))


def refused(text: str, code: str = "VST600") -> str:
    with pytest.raises(InvalidTokenError) as found:
        read(text)
    assert found.value.code.code.startswith(code)
    assert text not in str(found.value)
    return found.value.message


def test_a_token_says_whom_it_is_of_and_what_it_is_good_for() -> None:
    token = read(ISSUED.token(scope="report:read report:write", aud=["reports", "ledger"]))
    assert (token.subject, token.client_id, token.presenter, token.actors) == (WEB, WEB, WEB, ())
    assert token.audience == ("reports", "ledger")
    assert token.scopes == {"report:read", "report:write"}
    assert (token.token_id, token.transaction) == ("j1", "j1")
    assert token.has("report:read")
    with pytest.raises(TokenScopeError, match="VST6124 the token lacks report:delete"):
        token.must_have("report:read", "report:delete")
    assert token.text not in repr(token)


def test_who_acts_for_somebody_is_listed_newest_first() -> None:
    chain = {"sub": ORDERS, "act": {"sub": WEB}}
    token = read(
        ISSUED.token(sub="user-1", client_id=ORDERS, act=chain, may_act={"sub": REPORTS}, scope=None)
    )
    assert (token.subject, token.actors, token.presenter) == ("user-1", (ORDERS, WEB), ORDERS)
    assert (token.may_act, token.scopes) == (REPORTS, frozenset())
    assert read(ISSUED.token(cnf={"x5t#S256": "abc"})).certificate == "abc"


def test_clocks_may_be_half_a_minute_apart() -> None:
    now = datetime.now(UTC)
    text = ISSUED.token(now=now, lasts=60)
    for near in (-29, 89):
        read(text, now + timedelta(seconds=near))
    for off in (-31, 91):
        with pytest.raises(InvalidTokenError, match="VST6006"):
            read(text, now + timedelta(seconds=off))
    later = int(now.timestamp()) + 60
    assert "from the future" in refused(ISSUED.token(nbf=later), "VST6006")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"typ": "JWT"}, "another type"),
        ({"typ": None}, "another type"),
        ({"typ": "txntoken+jwt"}, "another type"),
        ({"alg": "none"}, "algorithm"),
        ({"alg": "HS256"}, "algorithm"),
        ({"alg": "ES384"}, "signature is not one of the key"),
        ({"alg": "RS256"}, "signature is not one of the key"),
        ({"kid": "other"}, "no key 'other'"),
        ({"kid": 7}, "is no text"),
        ({"kid": None}, "does not name its key"),
        ({"jku": "https://attacker.example/keys"}, "header may not have 'jku'"),
        ({"x5u": "https://attacker.example/cert"}, "header may not have 'x5u'"),
        ({"jwk": {}}, "header may not have 'jwk'"),
        ({"crit": ["exp"]}, "header may not have 'crit'"),
        ({"b64": False}, "header may not have 'b64'"),
    ],
)
def test_a_header_that_asks_for_something_else_is_refused(header: dict[str, Any], why: str) -> None:
    assert why in refused(ISSUED.token(header))


@pytest.mark.parametrize(
    "claims",
    [
        *({name: None} for name in ("sub", "client_id", "aud", "jti")),
        {"sub": 1},
        {"aud": []},
        {"aud": [1]},
        {"scope": ["report:read"]},
        {"act": "orders"},
        {"act": {}},
        {"act": {"sub": WEB, "act": {"sub": 1}}},
        {"may_act": WEB},
        {"cnf": "x"},
        {"exp": "soon"},
        {"iat": True},
        {"exp": None},
        {"exp": 1e300},
        {"deep": json.loads("[" * 40 + "]" * 40)},
    ],
)
def test_claims_that_are_missing_or_odd_are_refused(claims: dict[str, Any]) -> None:
    refused(ISSUED.token(**claims))


def test_tokens_of_others_and_for_others_are_refused() -> None:
    assert "another issuer" in refused(ISSUED.token(iss="https://attacker.example"), "VST6123")
    assert "another issuer" in refused(ISSUED.token(iss=f"{ISSUER}/"), "VST6123")
    assert "not made for reports" in refused(ISSUED.token(aud="report"), "VST6123")
    other = Issuer()
    other.key_id = ISSUED.key_id
    assert "signature" in refused(other.token())


def test_what_was_changed_or_is_no_jwt_is_refused() -> None:
    head, body, signature = ISSUED.token().split(".")
    changed = encode_base64url(json.dumps(ISSUED.claims(scope="all")).encode())
    for text in (
        f"{head}.{changed}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.x",
        f"{head}.{body}.{signature}=",
        f"{head}.{body}.{signature}\n",
        "",
        "x" * 20_000,
        "ä.b.c",
    ):
        refused(text) if text else refused("..")


def test_a_name_that_stands_twice_is_refused() -> None:
    head, body, signature = ISSUED.token().split(".")
    twice = encode_base64url(b'{"aud":"reports","aud":"ledger"}')
    refused(f"{twice}.{body}.{signature}")
    refused(f"{head}.{twice}.{signature}")


def test_the_public_key_as_the_secret_of_a_mac_is_refused() -> None:
    """Algorithm confusion (RFC 8725, section 2.1)."""
    public = json.dumps(ISSUED.jwk).encode()
    header = {"alg": "HS256", "kid": ISSUED.key_id, "typ": "at+jwt"}
    refused(jws.serialize_compact(header, json.dumps(ISSUED.claims()), OctKey.import_key(public)))


def test_keys_that_are_none_are_passed_over() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    good = {**jwk_parameters(rsa_key), "kid": "r", "alg": "RS256"}
    odd: list[Any] = [
        "text",
        {"kid": "k"},
        {**ISSUED.jwk, "kid": ""},
        {**ISSUED.jwk, "use": "enc"},
        {**ISSUED.jwk, "alg": "RS256"},
        {**ISSUED.jwk, "alg": 1},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"},
    ]
    assert set(keys_of({"keys": [*odd, good]})) == {"r"}
    assert keys_of({}) == keys_of({"keys": None}) == {}
    jwt = taken_apart(ISSUED.token(), algorithms=["ES256"], types=["at+jwt"])
    assert not VerificationKey(rsa_key, "RS256").has_signed(jwt)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_token_with_a_changed_letter_passes(data: st.DataObject) -> None:
    text = _GOOD
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    if text[at] != letter:
        refused_somehow(text[:at] + letter + text[at + 1 :])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "iat", "act", "scope", "cnf", "may_act", "nbf", "txn"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_whatever_the_issuer_signs_is_a_token_or_refused(claims: dict[str, Any]) -> None:
    header = {"alg": "ES256", "kid": ISSUED.key_id, "typ": "at+jwt"}
    text = signed(header, {**ISSUED.claims(), **claims}, ISSUED.key)
    try:
        token = read(text)
    except InvalidTokenError:
        return
    assert token.issuer == ISSUER
    assert "reports" in token.audience


def refused_somehow(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        read(text)


_GOOD = ISSUED.token(lasts=100_000)
