"""What a sidecar gets for its Envoy to send along: when, for how long, and what it does without."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from vestibule.envoy.host_secrets import FetchedToken, name_of, parse
from vestibule.proxy import fetched_tokens
from vestibule.proxy.fetched_tokens import FetchedTokens

REPORTS = FetchedToken(audience="reports", scopes=("report:read", "report:write"))


@dataclass
class Service:
    """A token service that answers what it is told to."""

    answer: Callable[[int], tuple[int, Any]]
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")
        )
        self.asked.append(parse_qs((await reader.readexactly(length)).decode()))
        status, said = self.answer(len(self.asked))
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()


def token(number: int, lasts: float = 600) -> tuple[int, Any]:
    return 200, {"access_token": f"t{number}", "token_type": "Bearer", "expires_in": lasts}


@asynccontextmanager
async def fetching(directory: Path, service: Service | None) -> AsyncIterator[FetchedTokens]:
    path = directory / "t.sock"
    server = await asyncio.start_unix_server(service.talk, str(path)) if service is not None else None
    tokens = FetchedTokens(path, lambda: None)
    running = asyncio.create_task(tokens.run())
    try:
        async with asyncio.timeout(60):
            yield tokens
    finally:
        running.cancel()
        await asyncio.wait([running])
        if server is not None:
            server.close()


async def has(tokens: FetchedTokens, value: bytes | None) -> None:
    while tokens.content(REPORTS) != value:
        await asyncio.sleep(0.01)


async def test_what_is_asked_for_is_got_and_kept(tmp_path: Path) -> None:
    service = Service(token)
    async with fetching(tmp_path, service) as tokens:
        assert tokens.content(REPORTS) is None
        states = [tokens.settled]
        await has(tokens, b"Bearer t1")
        states.append(tokens.settled)
        await has(tokens, b"Bearer t1")
    assert states == [False, True]
    (asked,) = service.asked
    assert asked == {
        "grant_type": ["client_credentials"],
        "audience": ["reports"],
        "scope": ["report:read report:write"],
    }


async def test_the_next_is_got_before_one_ends(tmp_path: Path) -> None:
    async with fetching(tmp_path, Service(lambda number: token(number, 1.0))) as tokens:
        while tokens.content(REPORTS) in (None, b"Bearer t1"):
            await asyncio.sleep(0.01)


async def test_what_fails_is_tried_again_and_what_is_there_is_used_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetched_tokens, "LONGEST_PAUSE", 1.0)
    refused = 403, {"error": "access_denied", "error_description": "VST6050: no rule allows it"}
    service = Service(lambda number: token(number, 1.0) if number == 1 else refused)
    with caplog.at_level(logging.ERROR):
        async with fetching(tmp_path, service) as tokens:
            await has(tokens, b"")
            while not caplog.records:
                await asyncio.sleep(0.01)
            service.answer = token
            while not tokens.content(REPORTS):
                await asyncio.sleep(0.01)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "VST6103" in said
    assert "access_denied: VST6050" in said
    assert "t1" not in said


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"nothing"),
        (200, {"access_token": "a b", "expires_in": 600}),
        (200, {"access_token": "a\r\nx: y", "expires_in": 600}),
        (200, {"access_token": 7, "expires_in": 600}),
        (200, {"access_token": "a"}),
        (200, {"access_token": "a", "expires_in": 0}),
        (200, [1]),
        (503, b""),
    ],
)
async def test_what_is_no_token_is_never_sent(tmp_path: Path, answer: tuple[int, Any]) -> None:
    service = Service(lambda _: answer)
    async with fetching(tmp_path, service) as tokens:
        tokens.content(REPORTS)
        while len(service.asked) < 2:
            await asyncio.sleep(0.01)
        assert tokens.content(REPORTS) is None


async def test_without_anybody_to_ask_the_sidecar_goes_on_and_is_settled_after_a_while(
    tmp_path: Path,
) -> None:
    async with fetching(tmp_path, None) as tokens:
        tokens.content(REPORTS)
        while not tokens.settled:
            await asyncio.sleep(0.01)
        assert tokens.content(REPORTS) is None


@pytest.mark.parametrize("wanted", [REPORTS, FetchedToken(audience="a&b=c ü?"), FetchedToken(audience="")])
def test_names_say_what_is_wanted(wanted: FetchedToken) -> None:
    assert parse(name_of(wanted)) == wanted
