"""The middleware: who comes through, what the app is told, and what others are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.unit.sdk.token_lab import WEB, Issuer, TokenLab, a_token_service

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.sdk.oauth import (
    AsyncTokens,
    TokenRequired,
    TokenVerifier,
    current_token,
    current_token_text,
    token_of,
)
from vestibule.testing import FakeClock
from vestibule.testing.tokens import ISSUER, spiffe_id

LONGEST = 60


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[TokenLab]:
    async with a_token_service() as made:
        yield made


async def monthly(request: Request) -> JSONResponse:
    token = token_of(request.scope)
    assert token is current_token()
    assert current_token_text() == token.text
    return JSONResponse({"subject": token.subject, "scopes": sorted(token.scopes)})


async def closing(request: Request) -> JSONResponse:
    token_of(request.scope).must_have("report:close")
    return JSONResponse({})


async def health(_: Request) -> JSONResponse:
    return JSONResponse({"ok": True})


ROUTES = [Route("/monthly", monthly), Route("/close", closing), Route("/healthz", health)]


@asynccontextmanager
async def client_of(lab: TokenLab, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with verifier_of(lab) as verifier:
        app = Starlette(routes=ROUTES)
        app.add_middleware(TokenRequired, verifier=verifier, open_to_all=["/healthz"], **options)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://reports") as client:
            yield client


@asynccontextmanager
async def verifier_of(lab: TokenLab, clock: Clock | None = None) -> AsyncIterator[TokenVerifier]:
    async with (
        AsyncTokens(lab.address, clock=clock) as tokens,
        TokenVerifier("reports", tokens=tokens, clock=clock) as verifier,
    ):
        yield verifier


def bearing(text: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}", **{k.replace("_", "-"): v for k, v in more.items()}}


async def test_the_app_is_told_whom_a_request_is_of(lab: TokenLab) -> None:
    async with client_of(lab, scopes=["report:read"]) as client:
        answer = await client.get("/monthly", headers=bearing(lab.issuer.token()))
        assert answer.json() == {"subject": WEB, "scopes": ["report:read"]}
        assert (await client.get("/healthz")).status_code == 200


async def test_without_a_token_there_is_a_challenge_and_nothing_more(lab: TokenLab) -> None:
    async with client_of(lab) as client:
        for sent in ({}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer "}):
            answer = await client.get("/monthly", headers=sent)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        twice = [("authorization", f"Bearer {lab.issuer.token()}")] * 2
        assert (await client.get("/monthly", headers=twice)).status_code == 401
    assert lab.reads == 0


async def test_a_token_that_proves_nothing_is_refused_with_code_and_advice(lab: TokenLab) -> None:
    async with client_of(lab) as client:
        answer = await client.get("/monthly", headers=bearing(lab.issuer.token(aud="ledger")))
        told = answer.json()
        assert (answer.status_code, told["error"]) == (401, "invalid_token")
        assert told["error_description"].startswith(
            "VST6123 the access token is refused: it was not made for"
        )
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert answer.headers["cache-control"] == "no-store"
        odd = await client.get("/monthly", headers=bearing(lab.issuer.token({"kid": 'a"b\\cä'})))
        assert odd.status_code == 401


async def test_a_scope_that_is_missing_is_named(lab: TokenLab) -> None:
    async with client_of(lab, scopes=["report:read", "report:write"]) as client:
        answer = await client.get("/monthly", headers=bearing(lab.issuer.token()))
        assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")
        assert 'scope="report:read report:write"' in answer.headers["www-authenticate"]
    async with client_of(lab) as client:
        answer = await client.get("/close", headers=bearing(lab.issuer.token()))
        assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


async def test_a_stolen_token_is_refused_where_the_sidecar_says_who_calls(lab: TokenLab) -> None:
    mine = f"By=spiffe://example.org/reports;Hash=00;URI={WEB}"
    thief = f"By=spiffe://example.org/reports;Hash=00;URI={spiffe_id('thief')}"
    text = lab.issuer.token()
    async with client_of(lab) as client:
        statuses = [
            (await client.get("/monthly", headers=bearing(text, x_forwarded_client_cert=each))).status_code
            for each in (mine, thief, f"{mine},{thief}", f"{thief},{mine}", f"{mine};URI=x", "Hash=00", "")
        ]
        assert statuses == [200, 401, 401, 200, 401, 401, 401]
        answer = await client.get("/monthly", headers=bearing(text, x_forwarded_client_cert=thief))
        assert "VST6126" in answer.json()["error_description"]
        acting = lab.issuer.token(sub="user-1", act={"sub": WEB})
        mine_now = bearing(acting, x_forwarded_client_cert=mine)
        assert (await client.get("/monthly", headers=mine_now)).status_code == 200
    async with client_of(lab, bound=False) as client:
        answer = await client.get("/monthly", headers=bearing(text, x_forwarded_client_cert=thief))
        assert answer.status_code == 200


async def test_a_websocket_without_a_token_is_closed_before_it_opens(lab: TokenLab) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    guarded = TokenRequired(
        Starlette(routes=ROUTES), TokenVerifier("reports", tokens=AsyncTokens(lab.address))
    )
    await guarded({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert [each["type"] for each in sent] == ["websocket.close"]


async def test_a_verifier_that_never_had_keys_says_that_it_cannot_know() -> None:
    lab = TokenLab()
    lab.address = "http://127.0.0.1:1"
    async with client_of(lab) as client:
        answer = await client.get("/monthly", headers=bearing(lab.issuer.token()))
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert "VST6125" in answer.json()["error_description"]


async def test_the_middleware_ends_with_the_app(lab: TokenLab) -> None:
    seen: list[str] = []

    class Verifier(TokenVerifier):
        async def __aenter__(self) -> Any:
            seen.append("entered")
            return self

        async def __aexit__(self, *_: object) -> None:
            seen.append("left")

    verifier = Verifier("reports", tokens=AsyncTokens(lab.address))
    guarded = TokenRequired(Starlette(routes=ROUTES), verifier)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://x") as client:
        await client.get("/monthly", headers=bearing("a.b.c"))
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        seen.append(message["type"])

    await guarded({"type": "lifespan", "asgi": {}}, receive, send)
    assert seen == ["entered", "lifespan.startup.complete", "left", "lifespan.shutdown.complete"]


# ---------------------------------------------------------------------------------------------- the keys


async def test_a_new_key_is_fetched_when_the_first_token_has_it_and_strangers_cannot_make_us_ask(
    lab: TokenLab,
) -> None:
    clock = FakeClock()
    async with verifier_of(lab, clock) as verifier:
        await verifier.verify(lab.issuer.token(now=clock.now()))
        for number in range(20):
            with pytest.raises(VestibuleError, match="VST6002"):
                await verifier.verify(lab.issuer.token({"kid": f"strange-{number}"}))
        assert lab.reads == 1
        lab.issuer = Issuer()
        clock.advance(timedelta(seconds=11))
        assert (await verifier.verify(lab.issuer.token(now=clock.now()))).issuer == ISSUER
        assert lab.reads == 2


async def test_keys_are_fetched_again_after_a_while_and_the_last_ones_hold_while_the_service_is_away(
    lab: TokenLab,
) -> None:
    clock = FakeClock()
    async with verifier_of(lab, clock) as verifier:
        await verifier.verify(lab.issuer.token(now=clock.now()))
        clock.advance(timedelta(minutes=6))
        await verifier.verify(lab.issuer.token(now=clock.now()))
        async with asyncio.timeout(LONGEST):
            while lab.reads < 2:
                await asyncio.sleep(0.01)
        lab.is_away = True
        clock.advance(timedelta(hours=6))
        for _ in range(3):
            await verifier.verify(lab.issuer.token(now=clock.now()))
            clock.advance(timedelta(minutes=1))


async def test_many_first_tokens_cost_one_request(lab: TokenLab) -> None:
    lab.gate = asyncio.Event()
    async with verifier_of(lab) as verifier:
        text = lab.issuer.token()
        asking = [asyncio.create_task(verifier.verify(text)) for _ in range(10)]
        await asyncio.sleep(0)
        lab.gate.set()
        await asyncio.gather(*asking)
    assert lab.reads == 1
