"""What passes for a token of ours: attacks on it, one by one.  Whoever asks what such a token says hears nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.tokens.conftest import READ
from tests.unit.tokens.forging import claims_of, header_of, part, with_parts, with_true_signature

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.jwk import decode_base64url, encode_base64url, jwk_parameters
from vestibule.pki.keys import generate_key
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import ISSUER, MemoryTokens, client, signed
from vestibule.tokens import codes
from vestibule.tokens.keyring import thumbprint
from vestibule.tokens.types import ACCESS_TOKEN


@pytest.fixture
async def token(lab: MemoryTokens) -> str:
    return (await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])).text


async def refused(lab: MemoryTokens, text: str, code: ErrorCode) -> None:
    """It gives nothing in exchange, and introspection says no more than that."""
    with pytest.raises(VestibuleError) as caught:
        await lab.service.exchange(
            client("orders"), subject_token=text, subject_type=ACCESS_TOKEN, audiences=["reports"]
        )
    assert caught.value.code is code
    assert text[:40] not in str(caught.value)
    assert await lab.service.inspect(client("orders"), text) == {"active": False}
    assert await lab.service.revoke(client("web"), text) is None


async def test_a_true_token_is_believed(lab: MemoryTokens, token: str) -> None:
    told = await lab.service.inspect(client("orders"), token)
    assert told["active"] is True
    assert told["scope"] == READ


async def test_a_token_that_says_it_needs_no_signature_is_refused(lab: MemoryTokens, token: str) -> None:
    header, payload, _ = with_parts(token, header={"alg": "none"}).split(".")
    await refused(lab, f"{header}.{payload}.", codes.HEADER_REFUSED)


@pytest.mark.parametrize("none", ["None", "NONE", "nOnE", "", None, 0, ["ES256"]])
async def test_no_spelling_of_none_helps(lab: MemoryTokens, token: str, none: Any) -> None:
    await refused(lab, with_parts(token, header={"alg": none}), codes.HEADER_REFUSED)


@pytest.mark.parametrize("shown", ["set", "jwk", "point"])
async def test_the_public_key_is_no_secret_to_sign_with(lab: MemoryTokens, token: str, shown: str) -> None:
    """Algorithm confusion: HMAC with what everybody knows."""
    keys = lab.service.key_source.now
    jwk = json.loads(keys)["keys"][0]
    secret = {
        "set": keys.encode(),
        "jwk": json.dumps(jwk).encode(),
        "point": b"\x04" + decode_base64url(jwk["x"]) + decode_base64url(jwk["y"]),
    }[shown]
    body = with_parts(token, header={"alg": "HS256"}).rpartition(".")[0]
    tag = hmac.digest(secret, body.encode(), hashlib.sha256)
    await refused(lab, f"{body}.{encode_base64url(tag)}", codes.HEADER_REFUSED)
    # Nor under the right algorithm's name.
    body = token.rpartition(".")[0]
    tag = hmac.digest(secret, body.encode(), hashlib.sha256)
    await refused(lab, f"{body}.{encode_base64url(tag)}", codes.SIGNATURE_WRONG)


@pytest.mark.parametrize("algorithm", ["ES384", "ES512", "RS256", "PS256", "EdDSA", "ES256K"])
async def test_another_algorithm_is_refused_even_a_good_one(
    lab: MemoryTokens, token: str, algorithm: str
) -> None:
    await refused(lab, await with_true_signature(lab, token, header={"alg": algorithm}), codes.HEADER_REFUSED)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "txntoken+jwt", "id+jwt", "", None, 1])
async def test_a_token_of_another_type_is_no_access_token(lab: MemoryTokens, token: str, typ: Any) -> None:
    await refused(lab, await with_true_signature(lab, token, header={"typ": typ}), codes.HEADER_REFUSED)


@pytest.mark.parametrize("name", ["jku", "x5u", "x5c", "jwk", "crit", "b64", "zip"])
async def test_a_header_that_asks_for_something_is_refused_even_under_a_true_signature(
    lab: MemoryTokens, token: str, name: str
) -> None:
    await refused(
        lab,
        await with_true_signature(lab, token, header={name: "https://evil.example"}),
        codes.HEADER_REFUSED,
    )


async def test_a_key_that_the_token_brings_along_is_not_used(lab: MemoryTokens, token: str) -> None:
    key = generate_key()
    header = {**header_of(token), "jwk": jwk_parameters(key.public_key())}
    await refused(lab, signed(header, claims_of(token), key), codes.HEADER_REFUSED)


async def test_a_strangers_key_is_unknown_whatever_it_is_called(lab: MemoryTokens, token: str) -> None:
    key = generate_key()
    header = header_of(token)
    strange = {**header, "kid": thumbprint(key.public_key())}
    await refused(lab, signed(strange, claims_of(token), key), codes.KEY_UNKNOWN)
    await refused(lab, signed(header, claims_of(token), key), codes.SIGNATURE_WRONG)


@pytest.mark.parametrize("kid", [None, 7, ["x"], {"a": 1}])
async def test_a_token_without_a_key_id_is_refused(lab: MemoryTokens, token: str, kid: Any) -> None:
    await refused(lab, await with_true_signature(lab, token, header={"kid": kid}), codes.HEADER_REFUSED)


@pytest.mark.parametrize(
    "kid",
    ["../../etc/passwd", "' OR 1=1 --", "", "x" * 5000, "\u0000"],
    ids=["path", "sql", "", "long", "nul"],
)
async def test_a_key_id_is_looked_up_and_nothing_else_is_done_with_it(
    lab: MemoryTokens, token: str, kid: str
) -> None:
    await refused(lab, await with_true_signature(lab, token, header={"kid": kid}), codes.KEY_UNKNOWN)


async def test_many_unknown_keys_do_not_ask_the_database_each_time(lab: MemoryTokens, token: str) -> None:
    asked = 0
    get = lab.barrier.get

    async def counted(space: str, key: str) -> Any:
        nonlocal asked
        asked += 1
        return await get(space, key)

    lab.barrier.get = counted  # type: ignore[method-assign]
    for number in range(100):
        await lab.service.inspect(client("orders"), with_parts(token, header={"kid": f"k{number}"}))
    assert asked == 1


@pytest.mark.parametrize("claim", ["sub", "client_id", "aud", "scope", "exp", "act"])
async def test_a_changed_claim_breaks_the_signature(lab: MemoryTokens, token: str, claim: str) -> None:
    await refused(lab, with_parts(token, claims={claim: "admin"}), codes.SIGNATURE_WRONG)


async def test_a_signature_of_zeros_is_none(lab: MemoryTokens, token: str) -> None:
    """CVE-2022-21449: zero for both numbers."""
    body = token.rpartition(".")[0]
    await refused(lab, f"{body}.{encode_base64url(bytes(64))}", codes.SIGNATURE_WRONG)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 70, 128])
async def test_a_signature_of_another_length_is_none(lab: MemoryTokens, token: str, length: int) -> None:
    body, _, signature = token.rpartition(".")
    raw = (decode_base64url(signature) * 2)[:length]
    await refused(lab, f"{body}.{encode_base64url(raw)}", codes.SIGNATURE_WRONG)


async def test_a_token_of_another_issuer_is_none_of_ours(lab: MemoryTokens, token: str) -> None:
    for issuer in ("https://tokens.evil.example", ISSUER + "/", ISSUER.upper(), None):
        forged = await with_true_signature(lab, token, iss=issuer)
        await refused(lab, forged, codes.ISSUER_UNKNOWN)


async def test_an_ended_token_is_refused_with_thirty_seconds_for_clocks(
    lab: MemoryTokens, token: str, clock: FakeClock
) -> None:
    clock.advance(timedelta(minutes=10, seconds=29))
    assert (await lab.service.inspect(client("orders"), token))["active"] is True
    clock.advance(1)
    await refused(lab, token, codes.NOT_VALID_NOW)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_from_the_future_is_refused(
    lab: MemoryTokens, token: str, clock: FakeClock, claim: str
) -> None:
    now = int(clock.now().timestamp())
    soon, later = [await with_true_signature(lab, token, None, **{claim: now + each}) for each in (30, 31)]
    assert (await lab.service.inspect(client("orders"), soon))["active"] is True
    await refused(lab, later, codes.NOT_VALID_NOW)


@pytest.mark.parametrize("exp", [None, "tomorrow", True, [], 1e300, -1e300])
async def test_an_end_that_is_no_instant_is_no_end(lab: MemoryTokens, token: str, exp: Any) -> None:
    await refused(lab, await with_true_signature(lab, token, exp=exp), codes.CLAIMS_UNFIT)


def _not_three_parts(token: str) -> str:
    return token.rpartition(".")[0]


def _five_parts(token: str) -> str:
    return f"{token}.x.y"


def _padded(token: str) -> str:
    return token + "="


def _spaced(token: str) -> str:
    return token.replace(".", ". ", 1)


def _json_form(token: str) -> str:
    header, payload, signature = token.split(".")
    return json.dumps({"protected": header, "payload": payload, "signature": signature})


def _loose_bits(token: str) -> str:
    """The last character of 64 bytes in base64url has four bits that say nothing: another token of the same worth."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) | 1]


def _list(token: str) -> str:
    header, _, signature = token.split(".")
    return ".".join([header, part(["a"]), signature])


def _twice(token: str) -> str:
    header, payload, signature = token.split(".")
    text = decode_base64url(payload).decode()
    return ".".join([header, encode_base64url((text[:-1] + ',"sub":"admin"}').encode()), signature])


def _header_twice(token: str) -> str:
    header, payload, signature = token.split(".")
    text = decode_base64url(header).decode()
    return ".".join([encode_base64url(('{"alg":"none",' + text[1:]).encode()), payload, signature])


def _deep(token: str) -> str:
    return with_parts(token, claims={"x": json.loads("[" * 20 + "]" * 20)})


def _very_deep(token: str) -> str:
    header, _, signature = token.split(".")
    return ".".join([header, encode_base64url(b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"), signature])


def _wide(token: str) -> str:
    return with_parts(token, claims={"x": [0] * 1001})


def _huge(token: str) -> str:
    return with_parts(token, claims={"x": "x" * 20_000})


def _infinite(token: str) -> str:
    header, _, signature = token.split(".")
    return ".".join([header, encode_base64url(b'{"exp":NaN}'), signature])


def _huge_number(token: str) -> str:
    header, _, signature = token.split(".")
    return ".".join([header, encode_base64url(b'{"exp":' + b"9" * 5000 + b"}"), signature])


def _half_a_character(token: str) -> str:
    return with_parts(token, claims={"x": "\ud800"})


def _not_utf8(token: str) -> str:
    header, _, signature = token.split(".")
    return ".".join([header, encode_base64url(b'{"sub":"\xff"}'), signature])


def _beyond_ascii(token: str) -> str:
    return token[:-1] + "é"


@pytest.mark.parametrize(
    "forge",
    [
        *(_not_three_parts, _five_parts, _padded, _spaced, _json_form, _loose_bits, _list, _twice),
        *(_header_twice, _deep, _very_deep, _wide, _huge, _infinite, _huge_number, _half_a_character),
        *(_not_utf8, _beyond_ascii),
    ],
    ids=lambda each: each.__name__.strip("_").replace("_", " "),
)
async def test_what_is_not_written_as_a_token_is_not_read(
    lab: MemoryTokens, token: str, forge: Callable[[str], str]
) -> None:
    await refused(lab, forge(token), codes.UNREADABLE_TOKEN)


@pytest.mark.parametrize("text", ["", ".", "..", "...", "a.b.c", "\x00", "=.=.="])
async def test_rubbish_is_rubbish(lab: MemoryTokens, text: str) -> None:
    assert await lab.service.inspect(client("orders"), text) == {"active": False}


async def test_a_token_is_none_of_the_business_of_whom_it_was_not_made_for(
    lab: MemoryTokens, token: str
) -> None:
    assert await lab.service.inspect(client("reports"), token) == {"active": False}
    assert (await lab.service.inspect(client("web"), token))["active"] is True


async def test_introspection_says_what_rfc_7662_has_words_for(lab: MemoryTokens, token: str) -> None:
    told = await lab.service.inspect(client("orders"), token)
    said = claims_of(token)
    assert told == {"active": True, "token_type": "Bearer", **said}


async def test_without_any_key_nothing_is_said_of_tokens_rather_than_that_they_are_bad(
    lab: MemoryTokens, token: str
) -> None:
    fresh = lab.another()
    lab.barrier.is_sealed = True
    with pytest.raises(VestibuleError) as caught:
        await fresh.inspect(client("orders"), token)
    assert caught.value.code is codes.NO_SIGNING_KEY
