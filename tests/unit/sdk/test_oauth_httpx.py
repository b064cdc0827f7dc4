"""Tokens along with requests of httpx: sync and async, renewed where one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.unit.sdk.token_lab import TokenLab, a_token_service

from vestibule.sdk.oauth import AsyncTokens, TokenDeniedError, Tokens
from vestibule.testing import FakeClock


class Api:
    """Notes what it was shown; refuses what is in ``refused``."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.refuses = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.shown.append(request.headers["authorization"].removeprefix("Bearer "))
        if self.refuses:
            self.refuses -= 1
            return httpx.Response(401)
        return httpx.Response(200, content=request.content)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[TokenLab]:
    async with a_token_service() as made:
        yield made


def calling(tokens: AsyncTokens | Tokens, transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(auth=tokens.auth("reports"), transport=transport)


async def test_each_request_has_a_token_which_is_got_once(lab: TokenLab) -> None:
    api = Api()
    async with AsyncTokens(lab.address) as tokens:
        auth = tokens.auth("reports", ["report:read"])
        async with httpx.AsyncClient(auth=auth, transport=api.transport) as client:
            for _ in range(3):
                assert (await client.get("http://reports/monthly")).status_code == 200
    assert len(set(api.shown)) == len(lab.asked) == 1


async def test_a_refused_token_is_replaced_once_unless_it_is_new(lab: TokenLab) -> None:
    api, clock = Api(), FakeClock()
    async with AsyncTokens(lab.address, clock=clock) as tokens, calling(tokens, api.transport) as client:
        api.refuses = 1
        assert (await client.get("http://reports/")).status_code == 401
        assert len(lab.asked) == 1
        clock.advance(timedelta(minutes=1))
        api.refuses = 1
        answer = await client.post("http://reports/", content=b"what was sent")
        assert (answer.status_code, answer.content) == (200, b"what was sent")
        assert len(lab.asked) == 2
        assert len(set(api.shown)) == 2
        clock.advance(timedelta(minutes=1))
        api.refuses = 2
        assert (await client.get("http://reports/")).status_code == 401
        assert len(lab.asked) == 3


async def test_a_body_that_is_gone_is_not_sent_again(lab: TokenLab) -> None:
    api, clock = Api(), FakeClock()

    async def streamed() -> AsyncIterator[bytes]:
        yield b"once"

    async with AsyncTokens(lab.address, clock=clock) as tokens, calling(tokens, Reading(api)) as client:
        await client.get("http://reports/")
        clock.advance(timedelta(minutes=1))
        api.refuses = 1
        assert (await client.post("http://reports/", content=streamed())).status_code == 401
    assert len(lab.asked) == 1


class Reading(httpx.AsyncBaseTransport):
    def __init__(self, api: Api) -> None:
        self._api = api

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        content = b"".join([part async for part in request.stream])
        self._api.shown.append(content.decode())
        refuses, self._api.refuses = self._api.refuses, 0
        return httpx.Response(401 if refuses else 200)


async def test_on_behalf_of_somebody_the_token_is_got_in_exchange(lab: TokenLab) -> None:
    api, given = Api(), ["first", "second", "first"]
    async with AsyncTokens(lab.address) as tokens:
        auth = tokens.auth("reports", on_behalf_of=lambda: given.pop(0))
        async with httpx.AsyncClient(auth=auth, transport=api.transport) as client:
            for _ in range(3):
                await client.get("http://reports/")
    assert [each["subject_token"] for each in lab.asked] == [["first"], ["second"]]
    assert api.shown[0] == api.shown[2] != api.shown[1]


async def test_without_a_token_nothing_is_sent(lab: TokenLab) -> None:
    api = Api()
    lab.refuse = 400, {"error": "invalid_target", "error_description": "VST6010 no rule allows it"}
    async with AsyncTokens(lab.address) as tokens, calling(tokens, api.transport) as client:
        with pytest.raises(TokenDeniedError):
            await client.get("http://reports/")
    assert api.shown == []


async def test_the_blocking_client_takes_both_kinds_and_the_other_one_says_that_it_does_not(
    lab: TokenLab,
) -> None:
    api = Api()

    def story(tokens: Tokens) -> None:
        with httpx.Client(auth=tokens.auth("reports"), transport=api.transport) as client:
            assert client.get("http://reports/").status_code == 200

    def opened() -> Iterator[Tokens]:
        with Tokens(lab.address) as tokens:
            yield tokens

    opening = opened()
    tokens = await asyncio.to_thread(next, opening)
    await asyncio.to_thread(story, tokens)
    async with calling(tokens, api.transport) as client:
        assert (await client.get("http://reports/")).status_code == 200
    assert len(lab.asked) == 1
    await asyncio.to_thread(list[Any], opening)
    async with AsyncTokens(lab.address) as others:
        with (
            httpx.Client(auth=others.auth("reports"), transport=api.transport) as blocking,
            pytest.raises(RuntimeError, match="take Tokens"),
        ):
            blocking.get("http://reports/")
