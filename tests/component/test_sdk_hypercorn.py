"""hypercorn with library mTLS, over HTTP/2 and HTTP/1.1, and real clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
from fastapi import WebSocket
from hypercorn.config import Config
from tests.component.mtls_lab import AT_ONCE, DEADLINE, Pair, Till, pair, press_all, until
from tests.ports import free_port

from vestibule.errors import VestibuleError
from vestibule.net.codes import PORT_IN_USE
from vestibule.sdk import SpiffeId, authorize_ids
from vestibule.sdk.httpx import AsyncMtlsTransport
from vestibule.sdk.hypercorn import serve


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


@dataclass
class Served:
    address: str
    stop: asyncio.Event
    running: asyncio.Task[None]


@asynccontextmanager
async def served(two: Pair, app: Any, *wanted: SpiffeId, **options: Any) -> AsyncIterator[Served]:
    ready: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
    stop, config = asyncio.Event(), Config()
    config.errorlog = None
    config.graceful_timeout = options.pop("graceful", DEADLINE)
    authorize = authorize_ids(*(wanted or (two.caller,)))
    given = {"port": 0, "config": config, "stop": stop.wait, "on_ready": ready.set_result, **options}
    running = asyncio.create_task(serve(app, two.payments, authorize, **given))
    try:
        await until(lambda: running.done() or ready.done())
        yield Served(f"https://127.0.0.1:{ready.result()[1]}", stop, running)
    finally:
        stop.set()
        await asyncio.wait_for(running, DEADLINE)


both = pytest.mark.parametrize("http2", [True, False], ids=["http2", "http1"])


@both
async def test_the_app_knows_who_calls(two: Pair, http2: bool) -> None:
    forged = {"vestibule.spiffe_id": "spiffe://example.org/admin"}
    async with served(two, Till().app) as server, two.client(http2=http2) as client:
        answer = await client.get(server.address, headers=forged)
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert answer.json()["caller"] == str(two.caller)
    assert answer.json()["tls"]["tls_version"] == 0x0304


@both
async def test_a_stranger_is_refused(two: Pair, http2: bool) -> None:
    stranger = SpiffeId.parse("spiffe://example.org/stranger")
    async with served(two, Till().app, stranger) as server, two.client(http2=http2) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(server.address)


async def test_a_retired_connection_is_closed_by_its_next_answer(two: Pair) -> None:
    async with served(two, Till().app, lifetimes=AT_ONCE) as server, two.client() as client:

        async def said_goodbye() -> bool:
            answer = await client.get(server.address)
            return bool(answer.headers.get("connection") == "close")

        await until(said_goodbye)
        assert (await client.get(server.address)).status_code == 200


async def test_a_quiet_http2_connection_is_left_when_it_is_retired(two: Pair) -> None:
    till = Till()
    async with served(two, till.app, lifetimes=AT_ONCE) as server, two.client(http2=True) as client:
        running = asyncio.create_task(client.get(f"{server.address}/slow"))
        await until(lambda: till.busy == 1)
        till.go.set()
        assert (await running).json() == "done"
        # httpx looks at what came when it wants to use the connection again.
        stream = client._transport._pool.connections[0]._connection._network_stream  # type: ignore[attr-defined]
        await until(lambda: bool(stream.get_extra_info("is_readable")))


@both
async def test_stopping_does_not_wait_for_clients_that_are_idle(two: Pair, http2: bool) -> None:
    async with served(two, Till().app, graceful=0.2) as server, two.client(http2=http2) as client:
        assert (await client.get(server.address)).status_code == 200
        server.stop.set()
        await asyncio.wait_for(server.running, DEADLINE)
        with pytest.raises(httpx.TransportError):
            await client.get(server.address)


@both
async def test_when_the_identity_is_withdrawn_what_runs_is_cut(two: Pair, http2: bool) -> None:
    till = Till()
    async with served(two, till.app, graceful=0.2) as server, two.client(http2=http2) as client:
        running = asyncio.create_task(client.get(f"{server.address}/slow"))
        await until(lambda: till.busy == 1)
        two.serving.withdraw()
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(running, DEADLINE)
        till.go.set()


@both
async def test_stopping_lets_answers_finish(two: Pair, http2: bool) -> None:
    till = Till()
    async with served(two, till.app) as server, two.client(http2=http2) as client:
        running = asyncio.create_task(client.get(f"{server.address}/slow"))
        await until(lambda: till.busy == 1)
        server.stop.set()
        await asyncio.sleep(0)
        till.go.set()
        answer = await asyncio.wait_for(running, DEADLINE)
        assert answer.json() == "done"
    assert till.steps == ["up", "down"]


async def test_a_websocket_is_told_when_its_connection_is_retired(two: Pair) -> None:
    till = Till()
    async with (
        served(two, till.app, lifetimes=AT_ONCE) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.address}/feed", ssl=two.context()) as socket,
    ):
        assert await socket.receive_str(timeout=DEADLINE) == str(two.caller)
        await asyncio.wait_for(till.asked_to_end.wait(), DEADLINE)
        await socket.close()


async def test_a_websocket_that_goes_on_is_closed_when_it_is_pressed(two: Pair) -> None:
    async with (
        served(two, Till().app, graceful=0.2) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.address}/feed", ssl=two.context()) as socket,
    ):
        assert await socket.receive_str(timeout=DEADLINE) == str(two.caller)
        assert press_all(two.payments) == 1
        message = await socket.receive(timeout=DEADLINE)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)


async def test_a_websocket_that_was_pressed_before_it_is_accepted_is_closed_then(two: Pair) -> None:
    till, go = Till(), asyncio.Event()

    @till.app.websocket("/later")
    async def later(websocket: WebSocket) -> None:
        till.busy += 1
        await go.wait()
        await websocket.accept()
        await websocket.send_text("nobody hears this, and nothing breaks")
        till.steps.append("said")

    async with served(two, till.app, graceful=0.2) as server, aiohttp.ClientSession() as session:
        accepted = asyncio.create_task(session._ws_connect(f"{server.address}/later", ssl=two.context()))
        await until(lambda: till.busy == 1)
        assert press_all(two.payments) == 1
        go.set()
        async with await asyncio.wait_for(accepted, DEADLINE) as socket:
            message = await socket.receive(timeout=DEADLINE)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            await until(lambda: "said" in till.steps)


async def test_what_runs_over_http2_when_it_is_pressed_is_answered(two: Pair) -> None:
    """Our client knows that the first GOAWAY ends nothing that runs."""
    till = Till()
    transport = AsyncMtlsTransport(two.orders, authorize_ids(two.serving.spiffe_id), http2=True)
    async with (
        served(two, till.app) as server,
        httpx.AsyncClient(transport=transport, timeout=DEADLINE) as client,
    ):
        running = asyncio.create_task(client.get(f"{server.address}/slow"))
        await until(lambda: till.busy == 1)
        assert press_all(two.payments) == 1
        # Requests that come now have another connection.
        assert (await client.get(server.address)).status_code == 200
        till.go.set()
        assert (await asyncio.wait_for(running, DEADLINE)).json() == "done"


async def test_a_taken_port_is_explained_and_the_app_is_shut_down(two: Pair) -> None:
    till, port = Till(), free_port()
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", port):
        with pytest.raises(VestibuleError) as raised:
            await serve(till.app, two.payments, authorize_ids(two.caller), port=port)
    assert raised.value.code is PORT_IN_USE
    assert till.steps == ["up", "down"]
