"""uvicorn with library mTLS, and real clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import httpx
import pytest
from tests.component.mtls_lab import AT_ONCE, DEADLINE, Pair, Till, pair, press_all, until
from tests.ports import free_port

import vestibule.sdk.uvicorn
from vestibule.errors import VestibuleError
from vestibule.net.codes import PORT_IN_USE
from vestibule.sdk import SpiffeId, authorize_ids
from vestibule.sdk.asgi import caller
from vestibule.sdk.uvicorn import Server


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


@asynccontextmanager
async def served(two: Pair, app: Any, **options: Any) -> AsyncIterator[tuple[Server, str]]:
    """A running server and its address."""
    authorize = options.pop("authorize", authorize_ids(two.caller))
    server = Server(app, two.payments, authorize, port=0, log_config=None, **options)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or running.done())
        yield server, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, DEADLINE)


async def test_the_app_knows_who_calls_and_no_header_changes_that(two: Pair) -> None:
    forged = {
        "vestibule.spiffe_id": "spiffe://example.org/admin",
        "x-forwarded-client-cert": "URI=spiffe://a/b",
    }
    async with served(two, Till().app) as (_, address), two.client() as client:
        told = (await client.get(address, headers=forged)).json()
    assert told["caller"] == str(two.caller)
    assert told["tls"]["tls_version"] == 0x0304
    assert told["tls"]["cipher_suite"] in (0x1301, 0x1302, 0x1303)
    assert told["tls"]["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE-----")
    assert told["tls"]["client_cert_error"] is None


async def test_without_our_server_nobody_calls() -> None:
    with pytest.raises(VestibuleError, match="VST2440"):
        caller({"type": "http", "extensions": {}})
    with pytest.raises(VestibuleError, match="VST2440"):
        caller({"type": "http"})


async def test_a_stranger_is_refused_and_the_log_says_why_once(
    two: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    only = authorize_ids(SpiffeId.parse("spiffe://example.org/somebody-else"))
    with caplog.at_level(logging.WARNING, logger="vestibule.sdk.refused"):
        async with served(two, Till().app, authorize=only) as (_, address), two.client() as client:
            for _ in range(3):
                with pytest.raises(httpx.TransportError):
                    await client.get(address)
    told = [each.getMessage() for each in caplog.records if each.name == "vestibule.sdk.refused"]
    assert len(told) == 1
    assert "VST2404" in told[0]
    assert str(two.caller) in told[0]


async def test_a_retired_connection_is_closed_by_its_next_answer(two: Pair) -> None:
    async with served(two, Till().app, lifetimes=AT_ONCE) as (_, address), two.client() as client:

        async def said_goodbye() -> bool:
            answer = await client.get(address)
            return bool(answer.headers.get("connection") == "close")

        await until(said_goodbye)
        assert (await client.get(address)).status_code == 200


async def test_a_connection_that_has_time_is_kept(two: Pair) -> None:
    async with served(two, Till().app) as (_, address), two.client() as client:
        for _ in range(3):
            assert "connection" not in (await client.get(address)).headers


async def test_when_the_identity_is_withdrawn_what_runs_is_cut_and_nobody_new_comes_in(two: Pair) -> None:
    till = Till()
    async with served(two, till.app) as (_, address), two.client() as client:
        running = asyncio.create_task(client.get(f"{address}/slow"))
        await until(lambda: till.busy == 1)
        two.serving.withdraw()
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(running, DEADLINE)
        with pytest.raises(httpx.TransportError):
            await client.get(address)
        till.go.set()


async def test_a_caller_who_is_revoked_is_cut_and_does_not_come_in_again(two: Pair) -> None:
    till = Till()
    async with served(two, till.app) as (_, address), two.client() as client:
        running = asyncio.create_task(client.get(f"{address}/slow"))
        await until(lambda: till.busy == 1)
        two.serving.revoke(two.caller)
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(running, DEADLINE)
        with pytest.raises(httpx.TransportError):
            await client.get(address)
        till.go.set()


async def test_stopping_lets_answers_finish_and_tells_clients_to_go(two: Pair) -> None:
    till = Till()
    async with served(two, till.app) as (server, address), two.client() as client:
        running = asyncio.create_task(client.get(f"{address}/slow"))
        await until(lambda: till.busy == 1)
        server.should_exit = True
        await until(lambda: not _accepts(server))
        till.go.set()
        answer = await asyncio.wait_for(running, DEADLINE)
        assert answer.json() == "done"
        assert answer.headers["connection"] == "close"
    assert till.steps == ["up", "down"]


def _accepts(server: Server) -> bool:
    return any(each.fileno() >= 0 for each in server.sockets)


async def test_a_websocket_is_told_and_then_closed_so_that_it_comes_again(two: Pair) -> None:
    till = Till()
    async with (
        served(two, till.app) as (server, address),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{address}/feed", ssl=two.context()) as socket,
    ):
        assert await socket.receive_str(timeout=DEADLINE) == str(two.caller)
        assert not till.asked_to_end.is_set()
        server.should_exit = True
        ended = await socket.receive(timeout=DEADLINE)
        assert ended.type is aiohttp.WSMsgType.CLOSE
        assert ended.data == 1012
        assert till.asked_to_end.is_set()


async def test_a_retired_websocket_is_told_and_goes_on(two: Pair) -> None:
    till = Till()
    async with (
        served(two, till.app, lifetimes=AT_ONCE) as (_, address),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{address}/feed", ssl=two.context()) as socket,
    ):
        assert await socket.receive_str(timeout=DEADLINE) == str(two.caller)
        await asyncio.wait_for(till.asked_to_end.wait(), DEADLINE)
        assert not socket.closed
        await socket.close()


async def test_a_websocket_that_goes_on_is_closed_when_it_is_pressed(two: Pair) -> None:
    async with (
        served(two, Till().app) as (_, address),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{address}/feed", ssl=two.context()) as socket,
    ):
        assert await socket.receive_str(timeout=DEADLINE) == str(two.caller)
        assert press_all(two.payments) == 1
        message = await socket.receive(timeout=DEADLINE)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)


async def test_noise_and_a_crowd_that_never_speaks_leave_the_others_alone(two: Pair) -> None:
    noises = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"\0" * 10_000]
    async with served(two, Till().app) as (_, address), two.client() as client:
        port = int(address.rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        for noise in noises * 10:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            with suppress(OSError):
                async with asyncio.timeout(DEADLINE):
                    # At most an alert of TLS, never an answer of the app.
                    assert b"HTTP" not in await reader.read()
            writer.close()
        assert (await client.get(address)).status_code == 200
        for _, writer in silent:
            writer.close()


async def test_who_does_not_finish_the_handshake_is_sent_away(two: Pair) -> None:
    async with served(two, Till().app, patience=0.2) as (_, address):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        writer.close()


async def test_a_taken_port_is_explained_and_the_app_is_shut_down(two: Pair) -> None:
    till, port = Till(), free_port()
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", port):
        with pytest.raises(VestibuleError) as raised:
            await vestibule.sdk.uvicorn.serve(
                till.app, two.payments, authorize_ids(two.caller), port=port, log_config=None
            )
    assert raised.value.code is PORT_IN_USE
    assert till.steps == ["up", "down"]


@pytest.mark.parametrize(
    "option", [{"ssl_keyfile": "key.pem"}, {"workers": 2}, {"reload": True}, {"uds": "a"}, {"http": "zttp"}]
)
async def test_options_that_would_weaken_or_break_it_are_refused(two: Pair, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"here|several"):
        Server(Till().app, two.payments, authorize_ids(two.caller), **option)
