"""Token exchange: on behalf of whom a token is of, elsewhere, with no more than it allows (RFC 8693)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.tokens.conftest import READ, WRITE

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.intent.token_groups import MOST_DEPTH
from vestibule.pki.jwk import decode_base64url
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import MemoryTokens, client, spiffe_id
from vestibule.tokens import codes
from vestibule.tokens.codes import TokenRefusedError, word_of
from vestibule.tokens.ports import Minted, RevokedBy, Verb
from vestibule.tokens.requests import Context
from vestibule.tokens.types import ACCESS_TOKEN, JWT, TRANSACTION_TOKEN

WEB, ORDERS, REPORTS = (str(spiffe_id(each)) for each in ("web", "orders", "reports"))


def claims_of(minted: Minted) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(decode_base64url(minted.text.split(".")[1]))
    return said


async def of_user(lab: MemoryTokens, *scopes: str, **more: Any) -> Minted:
    """A token that web has for user U, to call orders."""
    now = int(lab.clock.now().timestamp())
    issuer = lab.issuers["https://login.corp.example"]
    id_token = issuer.token({"sub": "U", "aud": "shop-web", "iat": now, "exp": now + 3600, **more})
    return await lab.service.admit(client("web"), assertion=id_token, audiences=["orders"], scopes=scopes)


async def exchanged(
    lab: MemoryTokens, service: str, token: Minted, audience: str, *scopes: str, **more: Any
) -> Minted:
    return await lab.service.exchange(
        client(service),
        subject_token=token.text,
        subject_type=ACCESS_TOKEN,
        audiences=[audience],
        scopes=scopes,
        **more,
    )


async def refused(code: ErrorCode, lab: MemoryTokens, *args: Any, **more: Any) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await exchanged(lab, *args, **more)
    assert caught.value.code is code
    return caught.value


async def test_three_hops_tell_for_whom_and_by_whom(lab: MemoryTokens) -> None:
    first = await of_user(lab, READ, WRITE)
    second = await exchanged(lab, "orders", first, "reports", READ)
    third = await exchanged(lab, "reports", second, "archive", READ)

    said = claims_of(third)
    assert said["sub"] == "U"
    assert said["client_id"] == REPORTS
    assert said["act"] == {"sub": REPORTS, "act": {"sub": ORDERS, "act": {"sub": WEB}}}
    assert said["txn"] == first.token_id == second.transaction == third.transaction
    assert said["sub_iss"] == "https://login.corp.example"
    assert third.actors == (REPORTS, ORDERS, WEB)
    assert len({first.token_id, second.token_id, third.token_id}) == 3


async def test_a_tokens_client_is_its_newest_actor_so_that_proxies_ask_for_one_of_them(
    lab: MemoryTokens,
) -> None:
    first = await of_user(lab, READ)
    second = await exchanged(lab, "orders", first, "reports", READ)
    for minted in (first, second, await exchanged(lab, "reports", second, "archive", READ)):
        said = claims_of(minted)
        assert said["client_id"] == said["act"]["sub"]
        assert list(said)[:4] == ["iss", "aud", "scope", "client_id"]


async def test_a_service_for_itself_becomes_the_subject_of_the_chain(lab: MemoryTokens) -> None:
    own = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    second = await exchanged(lab, "orders", own, "reports", READ)
    assert claims_of(second)["sub"] == WEB
    assert claims_of(second)["act"] == {"sub": ORDERS}


async def test_scopes_only_get_fewer(lab: MemoryTokens) -> None:
    first = await of_user(lab, READ)
    refusal = await refused(codes.SCOPE_WIDENED, lab, "orders", first, "reports", READ, WRITE)
    assert word_of(refusal) == "invalid_scope"


async def test_without_a_scope_asked_there_is_none(lab: MemoryTokens) -> None:
    first = await of_user(lab, READ)
    second = await exchanged(lab, "orders", first, "reports")
    assert "scope" not in claims_of(second)
    await refused(codes.SCOPE_WIDENED, lab, "reports", second, "archive", READ)


async def test_a_token_got_in_exchange_ends_no_later_than_the_given_one(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    first = await of_user(lab)
    clock.advance(timedelta(minutes=7))
    second = await exchanged(lab, "orders", first, "reports")
    assert second.expires == first.expires
    assert second.lasts == timedelta(minutes=3)


async def test_an_ended_token_gives_nothing_even_while_clocks_are_forgiven(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    first = await of_user(lab)
    clock.set(first.expires + timedelta(seconds=10))
    await refused(codes.NOT_VALID_NOW, lab, "orders", first, "reports")
    clock.set(first.expires + timedelta(seconds=31))
    await refused(codes.NOT_VALID_NOW, lab, "orders", first, "reports")


async def test_a_stolen_token_is_of_no_use_to_whom_it_was_not_made_for(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    lab.access.allow("thief", Verb.RECEIVE, "reports")
    refusal = await refused(codes.TARGET_DENIED, lab, "thief", first, "reports")
    assert word_of(refusal) == "invalid_target"
    assert isinstance(refusal, TokenRefusedError)
    assert (refusal.subject, refusal.transaction) == ("U", first.token_id)


async def test_a_token_may_be_given_and_still_nothing_be_had_for_it(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    await refused(codes.TARGET_DENIED, lab, "orders", first, "archive")


async def test_the_policy_hears_what_the_given_token_says(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    lab.access.asked.clear()
    await exchanged(lab, "orders", first, "reports")
    assert [(each.verb, each.audience, each.subject["sub"]) for each in lab.access.asked] == [
        (Verb.EXCHANGE, "orders", "U"),
        (Verb.RECEIVE, "reports", "U"),
    ]


async def test_of_a_token_for_several_each_audience_must_let_it_be_exchanged(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.MINT, "vault")
    both = await lab.service.mint(client("web"), audiences=["orders", "vault"])
    assert claims_of(both)["aud"] == ["orders", "vault"]
    await refused(codes.TARGET_DENIED, lab, "orders", both, "reports")


async def test_exchange_does_not_go_in_circles(lab: MemoryTokens) -> None:
    lab.access.allow("reports", Verb.RECEIVE, "orders")
    lab.access.allow("web", Verb.EXCHANGE, "orders")
    lab.access.allow("web", Verb.RECEIVE, "reports")
    first = await of_user(lab)
    second = await exchanged(lab, "orders", first, "reports")
    third = await exchanged(lab, "reports", second, "orders")
    await refused(codes.CHAIN_LOOPS, lab, "orders", third, "reports")
    await refused(codes.CHAIN_LOOPS, lab, "web", third, "reports")


async def test_nobody_acts_for_itself_by_way_of_others(lab: MemoryTokens) -> None:
    own = await lab.service.mint(client("web"), audiences=["orders"])
    lab.access.allow("web", Verb.EXCHANGE, "orders")
    lab.access.allow("web", Verb.RECEIVE, "reports")
    await refused(codes.CHAIN_LOOPS, lab, "web", own, "reports")


async def test_a_chain_is_no_longer_than_its_target_allows(lab: MemoryTokens) -> None:
    lab.access.allow("reports", Verb.RECEIVE, "archive", depth=2)
    second = await exchanged(lab, "orders", await of_user(lab), "reports")
    await refused(codes.CHAIN_TOO_LONG, lab, "reports", second, "archive")


async def test_a_chain_has_four_actors_at_most_where_nothing_else_is_said(lab: MemoryTokens) -> None:
    hops = ["a", "b", "c", "d"]
    lab.access.allow("web", Verb.ADMIT, "a")
    token = await lab.service.admit(client("web"), assertion=_id_token(lab), audiences=["a"])
    for hop, following in pairwise(hops):
        lab.access.allow(hop, Verb.EXCHANGE, hop)
        lab.access.allow(hop, Verb.RECEIVE, following)
        token = await exchanged(lab, hop, token, following)
    lab.access.allow("d", Verb.EXCHANGE, "d")
    lab.access.allow("d", Verb.RECEIVE, "e")
    await refused(codes.CHAIN_TOO_LONG, lab, "d", token, "e")


async def test_the_longest_chain_that_an_intent_allows_is_read_and_revoked_as_any_other(
    lab: MemoryTokens,
) -> None:
    hops = [f"hop-{number}" for number in range(MOST_DEPTH)]
    lab.access.allow("web", Verb.ADMIT, hops[0])
    token = await lab.service.admit(client("web"), assertion=_id_token(lab), audiences=[hops[0]])
    for hop, following in pairwise(hops):
        lab.access.allow(hop, Verb.EXCHANGE, hop)
        lab.access.allow(hop, Verb.RECEIVE, following, depth=MOST_DEPTH)
        token = await exchanged(lab, hop, token, following)
    assert len(token.actors) == MOST_DEPTH
    last = client(hops[-2])
    assert (await lab.service.inspect(last, token.text))["active"]
    await lab.service.revoke_by(RevokedBy.CLIENT, WEB)  # the innermost actor
    assert not (await lab.service.inspect(last, token.text))["active"]


def _id_token(lab: MemoryTokens) -> str:
    now = int(lab.clock.now().timestamp())
    issuer = lab.issuers["https://login.corp.example"]
    return issuer.token({"sub": "U", "aud": "shop-web", "iat": now, "exp": now + 3600})


async def test_who_is_named_to_act_needs_no_rule_to_give_the_token(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.ADMIT, "orders", may_act=spiffe_id("orders"))
    lab.access.deny("orders", Verb.EXCHANGE, "orders")
    first = await of_user(lab)
    assert claims_of(first)["may_act"] == {"sub": ORDERS}
    await exchanged(lab, "orders", first, "reports")


async def test_where_another_is_named_to_act_no_rule_helps(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.ADMIT, "orders", may_act=spiffe_id("billing"))
    await refused(codes.NOT_THE_ACTOR, lab, "orders", await of_user(lab), "reports")


async def test_who_may_act_for_one_of_two_audiences_is_not_named_for_both(lab: MemoryTokens) -> None:
    lab.access.allow("web", Verb.ADMIT, "orders", may_act=spiffe_id("orders"))
    lab.access.allow("web", Verb.ADMIT, "vault")
    token = await lab.service.admit(client("web"), assertion=_id_token(lab), audiences=["orders", "vault"])
    assert "may_act" not in claims_of(token)


async def test_an_actor_token_has_to_be_the_clients_own(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    lab.access.allow("orders", Verb.MINT, "reports")
    own = await lab.service.mint(client("orders"), audiences=["reports"])
    await exchanged(lab, "orders", first, "reports", actor_token=own.text, actor_type=ACCESS_TOKEN)

    others = await lab.service.mint(client("web"), audiences=["orders"])
    await refused(
        *(codes.ACTOR_WRONG, lab, "orders", first, "reports"), actor_token=others.text, actor_type=JWT
    )
    await refused(
        *(codes.ACTOR_WRONG, lab, "orders", first, "reports"), actor_token=first.text, actor_type=JWT
    )


@pytest.mark.parametrize(
    "more",
    [
        {"actor_token": "x"},
        {"actor_type": ACCESS_TOKEN},
        {"actor_token": "x", "actor_type": "urn:ietf:params:oauth:token-type:saml2"},
        {"requested_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"requested_type": TRANSACTION_TOKEN},
    ],
    ids=["actor without type", "type without actor", "SAML", "refresh token", "experimental and off"],
)
async def test_other_types_are_neither_taken_nor_given(lab: MemoryTokens, more: Mapping[str, Any]) -> None:
    refusal = await refused(codes.TYPE_UNSUPPORTED, lab, "orders", await of_user(lab), "reports", **more)
    assert word_of(refusal) == "invalid_request"


async def test_an_id_token_is_no_subject_token(lab: MemoryTokens) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.exchange(
            client("orders"),
            subject_token=_id_token(lab),
            subject_type="urn:ietf:params:oauth:token-type:id_token",
            audiences=["reports"],
        )
    assert caught.value.code is codes.TYPE_UNSUPPORTED
    with pytest.raises(VestibuleError) as caught:
        await lab.service.exchange(
            client("orders"), subject_token=_id_token(lab), subject_type=JWT, audiences=["reports"]
        )
    assert caught.value.code is codes.HEADER_REFUSED


async def test_a_revoked_token_gives_nothing_and_what_was_got_for_it_neither(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    second = await exchanged(lab, "orders", first, "reports")
    await lab.service.revoke_by(RevokedBy.TOKEN, first.token_id)
    await refused(codes.REVOKED, lab, "orders", first, "reports")
    await refused(codes.REVOKED, lab, "reports", second, "archive")


async def test_a_certificate_bound_token_is_bound_to_whom_it_is_given_now(lab: MemoryTokens) -> None:
    lab.access.allow("orders", Verb.RECEIVE, "reports", certificate=True)
    asker = client("orders")
    said = claims_of(await exchanged(lab, "orders", await of_user(lab), "reports"))
    assert asker.thumbprint is not None
    assert said["cnf_x5t_hex"] == asker.thumbprint.hex()
    assert decode_base64url(said["cnf"]["x5t#S256"]) == asker.thumbprint


# ------------------------------------------------------------------------------------------- transaction tokens


@pytest.fixture
async def transactions(clock: FakeClock) -> MemoryTokens:
    lab = MemoryTokens(clock, transaction_tokens=True)
    lab.access.allow("web", Verb.MINT, "orders", READ)
    lab.access.allow("orders", Verb.EXCHANGE, "orders")
    lab.access.allow("orders", Verb.RECEIVE, "example.org", READ)
    lab.access.allow("orders", Verb.RECEIVE, "reports", READ)
    await lab.service.start()
    return lab


async def test_a_transaction_token_tells_what_is_done_and_is_no_access_token(
    transactions: MemoryTokens,
) -> None:
    lab = transactions
    first = await lab.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    context = Context(request_context='{"req_ip": "192.0.2.1"}', request_details='{"action": "BUY"}')
    got = await exchanged(
        *(lab, "orders", first, "example.org", READ), requested_type=TRANSACTION_TOKEN, context=context
    )
    assert got.kind == TRANSACTION_TOKEN
    header = json.loads(decode_base64url(got.text.split(".")[0]))
    assert header["typ"] == "txntoken+jwt"
    said = claims_of(got)
    assert said["rctx"] == {"req_ip": "192.0.2.1"}
    assert said["tctx"] == {"action": "BUY"}
    assert (said["aud"], said["req_wl"], said["scope"]) == ("example.org", ORDERS, READ)
    assert got.transaction == first.token_id
    await refused(codes.HEADER_REFUSED, lab, "orders", got, "reports")


@pytest.mark.parametrize(
    ("audience", "scopes", "context", "code"),
    [
        ("reports", [READ], Context(), codes.TARGET_MALFORMED),
        ("example.org", [], Context(), codes.SCOPE_MALFORMED),
        ("example.org", [READ], Context(request_details="[]"), codes.DETAILS_MALFORMED),
        ("example.org", [READ], Context(request_details='{"a": 1, "a": 2}'), codes.DETAILS_MALFORMED),
        ("example.org", [READ], Context(request_context='{"a": 1e999}'), codes.DETAILS_MALFORMED),
        ("example.org", [READ], Context(request_context='{"a": "\\ud800"}'), codes.DETAILS_MALFORMED),
        ("example.org", [READ], Context(request_details=f'{{"a": "{"x" * 5000}"}}'), codes.DETAILS_MALFORMED),
        ("example.org", [READ], Context(request_details=f"{'[' * 4000}"), codes.DETAILS_MALFORMED),
    ],
    ids=["audience", "scope", "list", "twice", "infinite", "half a character", "long", "deep"],
)
async def test_a_transaction_token_is_for_the_trust_domain_with_a_scope_and_a_small_context(
    transactions: MemoryTokens, audience: str, scopes: list[str], context: Context, code: ErrorCode
) -> None:
    first = await transactions.service.mint(client("web"), audiences=["orders"], scopes=[READ])
    more = {"requested_type": TRANSACTION_TOKEN, "context": context}
    await refused(code, transactions, "orders", first, audience, *scopes, **more)
