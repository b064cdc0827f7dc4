"""The SDK's client of the token service: what it sends, what it keeps, and when it asks again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.unit.sdk.test_tls import Holder
from tests.unit.sdk.token_lab import TokenLab, a_token_service

from vestibule.errors import VestibuleError
from vestibule.sdk import authorize_member_of, server_context
from vestibule.sdk.oauth import AsyncTokens, TokenDeniedError, Tokens, TokensError
from vestibule.sdk.oauth.addresses import TokensAddress
from vestibule.testing import FakeClock, TestAuthority

READ = ["report:read"]
LONGEST = 60
"""Seconds that a test waits for what comes by itself."""


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[TokenLab]:
    async with a_token_service() as made:
        yield made


def holder(authority: TestAuthority, path: str) -> Holder:
    return Holder.of(authority.svid(path), authority.bundle)


async def until(holds: Any) -> None:
    async with asyncio.timeout(LONGEST):
        while not holds():
            await asyncio.sleep(0.01)


def test_the_address_is_the_given_one_or_the_sidecars() -> None:
    upstream = {"VESTIBULE_UPSTREAM_TOKENS": "http://127.0.0.1:1", "VESTIBULE_EGRESS": "http://127.0.0.1:2"}
    assert str(TokensAddress.find("https://tokens.internal", upstream)) == "https://tokens.internal:8300"
    assert TokensAddress.find(None, upstream).host_header == "127.0.0.1:1"
    by_egress = TokensAddress.find(None, {"VESTIBULE_EGRESS": "http://127.0.0.1:2"})
    assert (by_egress.port, by_egress.host_header) == (2, "tokens")
    with pytest.raises(VestibuleError, match="VST6120"):
        TokensAddress.find(None, {})
    for wrong in ("ftp://x", "http://", "http://x/path", "http://u@x"):
        with pytest.raises(VestibuleError, match="VST6120"):
            TokensAddress.parse(wrong)


async def test_a_token_of_ones_own_is_asked_for_by_audience_and_scopes(lab: TokenLab) -> None:
    async with AsyncTokens(lab.address) as tokens:
        token = await tokens.get("reports", ["report:read", "report:write"])
        assert lab.asked == [
            {
                "grant_type": ["client_credentials"],
                "audience": ["reports"],
                "scope": ["report:read report:write"],
            }
        ]
        assert (token.audience, token.scopes) == (("reports",), ("report:read", "report:write"))
        assert token.lasts == timedelta(minutes=10)
        assert token.text.count(".") == 2
        assert token.text not in repr(token)
        await tokens.get(["reports", "ledger"])
        assert lab.asked[1] == {"grant_type": ["client_credentials"], "audience": ["reports", "ledger"]}


async def test_a_token_is_got_once_for_all_who_ask_at_once(lab: TokenLab) -> None:
    lab.gate = asyncio.Event()
    async with AsyncTokens(lab.address) as tokens:
        asking = [asyncio.create_task(tokens.get("reports", READ)) for _ in range(20)]
        impatient = asking.pop(0)
        await asyncio.sleep(0)
        impatient.cancel()
        lab.gate.set()
        found = await asyncio.gather(*asking)
        assert len({token.text for token in found}) == 1
        await tokens.get("reports", READ)
        assert len(lab.asked) == 1
        await tokens.get("reports")
        assert len(lab.asked) == 2


async def test_another_one_is_got_in_the_background_before_the_end(lab: TokenLab) -> None:
    clock = FakeClock()
    async with AsyncTokens(lab.address, clock=clock) as tokens:
        first = await tokens.get("reports")
        clock.advance(timedelta(minutes=6))
        assert (await tokens.get("reports")).text == first.text
        clock.advance(timedelta(minutes=1))
        assert (await tokens.get("reports")).text == first.text
        await until(lambda: len(lab.asked) == 2)
        async with asyncio.timeout(LONGEST):
            while (await tokens.get("reports")).text == first.text:
                await asyncio.sleep(0.01)
        assert len(lab.asked) == 2


async def test_while_the_service_is_away_a_token_is_used_until_its_end(
    lab: TokenLab, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    async with AsyncTokens(lab.address, clock=clock) as tokens:
        first = await tokens.get("reports")
        lab.is_away = True
        clock.advance(timedelta(minutes=8))
        assert (await tokens.get("reports")).text == first.text
        await until(lambda: "is not replaced yet" in caplog.text)
        assert first.text not in caplog.text
        clock.advance(timedelta(minutes=2))
        with pytest.raises(TokensError, match="VST6121"):
            await tokens.get("reports")
        lab.is_away = False
        assert (await tokens.get("reports")).text != first.text


async def test_what_was_forgotten_is_got_anew(lab: TokenLab) -> None:
    async with AsyncTokens(lab.address) as tokens:
        first = await tokens.get("reports")
        tokens.forget(first)
        assert (await tokens.get("reports")).text != first.text


async def test_a_token_is_given_in_exchange_and_the_new_one_kept_for_it_alone(lab: TokenLab) -> None:
    async with AsyncTokens(lab.address) as tokens:
        given = lab.issuer.token(aud="orders")
        first = await tokens.exchange(given, "reports", READ)
        assert lab.asked[0] == {
            "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
            "subject_token": [given],
            "subject_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "audience": ["reports"],
            "scope": ["report:read"],
        }
        assert (await tokens.exchange(given, "reports", READ)).text == first.text
        await tokens.exchange(lab.issuer.token(aud="orders", jti="j2"), "reports", READ)
        assert len(lab.asked) == 2


async def test_an_id_token_is_traded(lab: TokenLab) -> None:
    async with AsyncTokens(lab.address) as tokens:
        await tokens.admit("an.id.token", "reports")
        assert lab.asked[0]["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert lab.asked[0]["assertion"] == ["an.id.token"]


async def test_tokens_are_inspected_and_revoked(lab: TokenLab) -> None:
    async with AsyncTokens(lab.address) as tokens:
        assert await tokens.inspect("good") == {"active": True}
        assert await tokens.inspect("bad") == {"active": False}
        token = await tokens.get("reports")
        await tokens.revoke(token)
        assert lab.asked[-1] == {"token": [token.text]}
        assert (await tokens.get("reports")).text != token.text


async def test_a_refusal_has_its_code_and_the_word_of_the_rfc(lab: TokenLab) -> None:
    told = "VST6010 spiffe://example.org/web may not mint for reports: no rule allows it (request r-1). Ask the owner."
    lab.refuse = 400, {"error": "invalid_target", "error_description": told}
    async with AsyncTokens(lab.address) as tokens:
        with pytest.raises(TokenDeniedError, match="no rule allows it") as refused:
            await tokens.get("reports")
        error = refused.value
        assert (error.code.code, error.error, error.status, error.request_id) == (
            "VST6010",
            "invalid_target",
            400,
            "r-1",
        )
        lab.refuse = 400, {"error": "invalid_grant"}
        with pytest.raises(TokensError, match="VST6122 invalid_grant"):
            await tokens.get("reports")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"access_token": 1, "expires_in": 1},
        {"access_token": "", "expires_in": 1},
        {"access_token": "x\r\ny: z", "expires_in": 1},
        {"access_token": "x", "expires_in": "soon"},
    ],
)
async def test_an_answer_that_is_none_is_an_error(lab: TokenLab, document: dict[str, Any]) -> None:
    lab.refuse = 200, document
    async with AsyncTokens(lab.address) as tokens:
        with pytest.raises(TokensError, match="VST6121"):
            await tokens.get("reports")


async def test_an_address_where_nobody_is_says_so() -> None:
    async with AsyncTokens("http://127.0.0.1:1") as tokens:
        with pytest.raises(TokensError, match=r"VST6121 the token service at .* cannot be asked"):
            await tokens.get("reports")


async def test_over_https_both_sides_show_their_svids_and_only_the_token_service_is_believed() -> None:
    authority = TestAuthority()
    web = holder(authority, "/ns/prod/sa/web")
    for path, fine in (("/vestibule/tokens", True), ("/ns/prod/sa/payments", False)):
        tls = server_context(holder(authority, path), authorize_member_of("example.org"))
        async with a_token_service(tls) as lab, AsyncTokens(lab.address, source=web) as tokens:
            if fine:
                assert (await tokens.get("reports")).audience == ("reports",)
            else:
                with pytest.raises(TokensError, match="VST2404"):
                    await tokens.get("reports")


async def test_a_client_without_certificate_proves_itself_by_a_new_jwt_svid_each_time(
    lab: TokenLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = TestAuthority()
    made = []

    async def fetch(*audience: str, **_: Any) -> Any:
        made.append(audience)
        return authority.jwt_svid("/ns/prod/sa/web", *audience)

    monkeypatch.setattr("vestibule.sdk.oauth.client.fetch_jwt_svid", fetch)
    async with AsyncTokens(lab.address, issuer="https://tokens.example.org") as tokens:
        await tokens.get("reports")
        await tokens.get("ledger")
    assert made == [("https://tokens.example.org",)] * 2
    assert lab.asked[0]["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"]
    assert lab.asked[0]["client_assertion"][0].count(".") == 2


async def test_code_that_blocks_has_the_same(lab: TokenLab) -> None:
    def story() -> None:
        with Tokens(lab.address) as tokens:
            first = tokens.get("reports", READ)
            assert tokens.get("reports", READ).text == first.text
            tokens.forget(first)
            assert tokens.get("reports", READ).text != first.text
            assert tokens.exchange("a.b.c", "reports").audience == ("reports",)
            assert tokens.admit("a.b.c", "reports").audience == ("reports",)
            assert tokens.inspect("good")["active"]
            assert tokens.keys() == lab.issuer.jwks
            assert tokens.metadata()["issuer"] == "https://tokens.example.org"
            tokens.revoke("a.b.c")
            assert str(tokens.address) == lab.address

    await asyncio.to_thread(story)
