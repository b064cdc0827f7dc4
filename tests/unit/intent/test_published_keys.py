"""What of a published key set is of use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from vestibule.intent.key_sets import why_not
from vestibule.intent.published_keys import published

EC = {**ECKey.generate_key("P-256", private=False).as_dict(), "kid": "a", "use": "sig", "alg": "ES256"}
RSA = {
    **RSAKey.generate_key(2048, private=False).as_dict(),
    "kid": "r",
    "x5c": ["MII…"],
    "key_ops": ["verify"],
}


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_keys_for_signatures_are_of_use_without_what_nobody_needs() -> None:
    found = published(document(RSA, EC))
    assert (found.ids, found.left_out, found.why) == (("a", "r"), (), "")
    first, second = json.loads(found.keys)["keys"]
    assert first == {name: EC[name] for name in ("kty", "kid", "use", "alg", "crv", "x", "y")}
    assert set(second) == {"kty", "kid", "n", "e"}
    assert why_not(found.keys) is None


def test_the_same_keys_in_another_order_are_the_same_set() -> None:
    assert published(document(RSA, EC)) == published(document(EC, RSA))


def test_a_single_key_needs_no_name() -> None:
    nameless = {name: value for name, value in EC.items() if name != "kid"}
    assert published(document(nameless)).ids == ("",)


OF_NO_USE: dict[str, Any] = {
    "for encryption": {**RSA, "kid": "other", "use": "enc"},
    "of another curve": {**ECKey.generate_key("secp256k1", private=False).as_dict(), "kid": "k"},
    "for agreement": {**OKPKey.generate_key("X25519", private=False).as_dict(), "kid": "x"},
    "too short": {**RSA, "kid": "s", "n": RSA["n"][:171]},
    "of an unknown kind": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "pq"},
    "no point": {**EC, "kid": "other", "x": EC["y"], "y": EC["x"]},
    "too long": {**RSA, "kid": "other", "n": "A" * 20_000},
    "without a name": {name: value for name, value in RSA.items() if name != "kid"},
    "of another's name": {**RSA, "kid": "a"},
    "no object": "a",
    "of odd members": {**RSA, "kid": 7},
}


@pytest.mark.parametrize("key", OF_NO_USE.values(), ids=OF_NO_USE)
def test_what_is_of_no_use_is_left_out_and_said(key: Any) -> None:
    found = published(document(EC, key))
    assert found.ids == ("a",)
    (told,) = found.left_out
    assert told.startswith("key 2 ")


NONE: dict[str, bytes] = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "no keys": b'{"keys": []}',
    "too deep": b"[" * 100_000,
    "too many": document(*({**EC, "kid": str(number)} for number in range(101))),
    "only such as are of no use": document({"kty": "AKP", "kid": "pq"}),
    "a private key": document(EC, ECKey.generate_key("P-256").as_dict(private=True)),
    "a shared one": document(EC, OctKey.generate_key(256).as_dict()),
}


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_no_set_of_public_keys_gives_none_and_says_why(text: bytes) -> None:
    found = published(text)
    assert (found.keys, found.ids) == ("", ())
    assert found.why
