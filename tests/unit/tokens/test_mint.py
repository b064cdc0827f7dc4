"""Tokens of a client's own (RFC 6749, section 4.4; RFC 9068; RFC 8707)."""

from __future__ import annotations

import json
from datetime import timedelta

import jwt
import pytest
from tests.unit.tokens.conftest import READ, WRITE
from tests.unit.tokens.forging import claims_of, header_of

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.token_texts import HEADER_BEGINS, beginning
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import ISSUER, MemoryTokens, client, spiffe_id
from vestibule.tokens import codes
from vestibule.tokens.codes import TokenRefusedError, word_of
from vestibule.tokens.ports import Client, Proof, Verb

WEB = str(spiffe_id("web"))


async def test_a_token_says_what_rfc_9068_asks_for(lab: MemoryTokens, clock: FakeClock) -> None:
    minted = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ, WRITE])
    now = int(clock.now().timestamp())
    said = claims_of(minted.text)
    assert said == {
        "iss": ISSUER,
        "sub": WEB,
        "client_id": WEB,
        "aud": "orders",
        "iat": now,
        "exp": now + 600,
        "jti": minted.token_id,
        "txn": minted.token_id,
        "scope": f"{READ} {WRITE}",
    }
    header = header_of(minted.text)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": lab.service.keys()[0].key_id}


async def test_proxies_know_a_token_by_how_its_text_begins(lab: MemoryTokens) -> None:
    minted = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ, WRITE])
    header, said, _ = minted.text.split(".")
    assert header.startswith(HEADER_BEGINS)
    assert said.startswith(beginning(ISSUER, "orders", (READ, WRITE), WEB))
    assert not said.startswith(beginning(ISSUER, "orders", (READ,)))


async def test_a_token_is_verified_by_other_people_with_the_published_keys(lab: MemoryTokens) -> None:
    for _ in range(64):  # numbers in signatures are of different lengths
        minted = await lab.service.mint(client("web"), audiences=["orders"])
        keys = jwt.PyJWKSet.from_json(lab.service.key_source.now)
        key = keys[jwt.get_unverified_header(minted.text)["kid"]]
        options = {"verify_exp": False, "verify_iat": False}
        said = jwt.decode(minted.text, key, algorithms=["ES256"], audience="orders", options=options)  # type: ignore[arg-type]
        assert said["sub"] == WEB


async def test_the_record_of_a_token_says_why_it_could_be_had(lab: MemoryTokens) -> None:
    minted = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    assert (minted.rule, minted.commit) == ("orders/web-mint", "c0ffee")
    assert minted.text not in repr(minted)


async def test_tokens_never_have_the_same_id(lab: MemoryTokens) -> None:
    tokens = [await lab.service.mint(client("web"), audiences=["orders"]) for _ in range(50)]
    assert len({each.token_id for each in tokens}) == 50


async def test_no_rule_no_token(lab: MemoryTokens) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        await lab.service.mint(client("orders"), audiences=["orders"])
    assert caught.value.code is codes.TARGET_DENIED
    assert word_of(caught.value) == "invalid_target"
    assert caught.value.commit == "c0ffee"


async def test_one_scope_that_is_denied_denies_all(lab: MemoryTokens) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ, "report:delete"])
    assert caught.value.code is codes.SCOPE_DENIED
    assert word_of(caught.value) == "invalid_scope"


async def test_one_audience_that_is_denied_denies_all(lab: MemoryTokens) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=["orders", "reports"])
    assert caught.value.code is codes.TARGET_DENIED


async def test_a_resource_is_the_audience_of_its_name(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "https://orders.example/api")
    minted = await lab.service.mint(client("web"), resources=["https://orders.example/api"])
    assert claims_of(minted.text)["aud"] == "https://orders.example/api"


async def test_a_token_for_several_lasts_as_long_as_the_strictest_allows(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "vault", lasts=timedelta(minutes=2), certificate=True)
    minted = await lab.service.mint(client("web"), audiences=["orders", "vault"])
    assert minted.lasts == timedelta(minutes=2)
    assert "cnf" in claims_of(minted.text)


async def test_no_rule_gives_more_than_a_quarter_of_an_hour(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "orders", lasts=timedelta(hours=8))
    minted = await lab.service.mint(client("web"), audiences=["orders"])
    assert minted.lasts == timedelta(minutes=15)


async def test_a_token_bound_to_a_certificate_needs_one(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "vault", certificate=True)
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web", Proof.JWT_SVID), audiences=["vault"])
    assert caught.value.code is codes.NOT_BOUND


@pytest.mark.parametrize(
    ("audiences", "resources", "scopes", "code"),
    [
        ([], [], [], codes.TARGET_MISSING),
        ([""], [], [], codes.TARGET_MALFORMED),
        (["a b"], [], [], codes.TARGET_MALFORMED),
        (["a\n"], [], [], codes.TARGET_MALFORMED),
        (["á"], [], [], codes.TARGET_MALFORMED),
        (["x" * 513], [], [], codes.TARGET_MALFORMED),
        ([str(each) for each in range(9)], [], [], codes.TARGET_MALFORMED),
        ([], ["orders"], [], codes.TARGET_MALFORMED),
        ([], ["/orders"], [], codes.TARGET_MALFORMED),
        ([], ["https://orders/#x"], [], codes.TARGET_MALFORMED),
        ([], ["https://orders/#"], [], codes.TARGET_MALFORMED),
        ([], ["https://[orders"], [], codes.TARGET_MALFORMED),
        (["orders"], [], ['"'], codes.SCOPE_MALFORMED),
        (["orders"], [], ["a\\b"], codes.SCOPE_MALFORMED),
        (["orders"], [], [""], codes.SCOPE_MALFORMED),
        (["orders"], [], ["a b"], codes.SCOPE_MALFORMED),
        (["orders"], [], ["x" * 257], codes.SCOPE_MALFORMED),
        (["orders"], [], [str(each) for each in range(65)], codes.SCOPE_MALFORMED),
    ],
)
async def test_what_is_asked_for_has_a_form(
    lab: MemoryTokens, audiences: list[str], resources: list[str], scopes: list[str], code: ErrorCode
) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=audiences, resources=resources, scopes=scopes)
    assert caught.value.code is code
    assert lab.access.asked == []


async def test_what_is_asked_for_twice_is_said_once(lab: MemoryTokens) -> None:
    minted = await lab.service.mint(client("web"), audiences=["orders"] * 2, scopes=[READ, READ])
    assert claims_of(minted.text)["aud"] == "orders"
    assert claims_of(minted.text)["scope"] == READ


async def test_while_sealed_there_are_no_tokens(lab: MemoryTokens) -> None:
    lab.barrier.is_sealed = True
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=["orders"])
    assert caught.value.code is codes.NO_SIGNING_KEY
    assert word_of(caught.value) == "temporarily_unavailable"


async def test_who_asks_is_counted(lab: MemoryTokens, clock: FakeClock) -> None:
    await lab.service.mint(client("web"), audiences=["orders"])
    clock.advance(5)
    for _ in range(2):
        with pytest.raises(VestibuleError):
            await lab.service.mint(client("orders"), audiences=["orders"])
    told = [(each.client.path, each.tokens, each.refusals) for each in lab.service.clients()]
    assert told == [("/ns/prod/sa/orders", 0, 2), ("/ns/prod/sa/web", 1, 0)]
    assert lab.service.clients()[0].last == clock.now()


async def test_every_error_has_a_word_of_rfc_6749() -> None:
    words = {word_of(each.error("x")) for each in vars(codes).values() if isinstance(each, ErrorCode)}
    assert words == {
        *("invalid_request", "invalid_target", "invalid_scope", "unauthorized_client"),
        "temporarily_unavailable",
    }


async def test_published_keys_hold_nothing_secret(lab: MemoryTokens) -> None:
    for key in json.loads(lab.service.key_source.now)["keys"]:
        assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}


async def test_the_policy_is_asked_every_time(lab: MemoryTokens) -> None:
    first = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    lab.access.allow("web", Verb.MINT, "orders", READ, lasts=timedelta(minutes=1))
    second = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    assert (first.lasts, second.lasts) == (timedelta(minutes=10), timedelta(minutes=1))
    lab.access.allow("web", Verb.MINT, "orders")
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    assert caught.value.code is codes.SCOPE_DENIED
    lab.access.deny("web", Verb.MINT, "orders")
    with pytest.raises(VestibuleError) as caught:
        await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    assert caught.value.code is codes.TARGET_DENIED


async def test_a_token_is_bound_to_the_certificate_that_is_shown_now(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "vault", certificate=True)
    before = client("web")
    after = Client(spiffe_id=before.spiffe_id, thumbprint=bytes(32))
    bound = [await lab.service.mint(each, audiences=["vault"]) for each in (before, after, before)]
    assert [claims_of(each.text)["cnf_x5t_hex"] for each in bound] == [
        each.thumbprint.hex() for each in (before, after, before) if each.thumbprint
    ]


async def test_clients_do_not_get_each_others_tokens(lab: MemoryTokens) -> None:
    lab.access.allow("billing", Verb.MINT, "orders", READ)
    names = ["web", "billing", "web"]
    tokens = [await lab.service.mint(client(each), audiences=["orders"], scopes=[READ]) for each in names]
    assert [claims_of(each.text)["sub"] for each in tokens] == [str(spiffe_id(each)) for each in names]


async def test_what_is_remembered_of_requests_is_bounded(
    lab: MemoryTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.tokens.own.MOST_KEPT", 3)
    for number in range(10):
        lab.access.allow("web", Verb.MINT, f"a{number}")
        await lab.service.mint(client("web"), audiences=[f"a{number}"])
    assert len(lab.service._own._kept) <= 3
