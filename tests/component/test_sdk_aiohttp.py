"""aiohttp over the SDK's mutual TLS, against a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.mtls_lab import (
    ORDERS,
    PATIENCE,
    PAYMENTS,
    Held,
    MtlsServer,
    a_web_server,
    held,
    in_time,
    payments_server,
    quiet,
)

from vestibule.sdk import authorize_ids, reason
from vestibule.sdk.aiohttp import MtlsConnector
from vestibule.testing import TestAuthority

WANTED = authorize_ids(PAYMENTS)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """What a test leaves closing is closed before its loop is."""
    yield
    await quiet()


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority("example.org")


@pytest.fixture
def orders(authority: TestAuthority) -> Iterator[Held]:
    with held(Held(authority, ORDERS)) as source:
        yield source


@pytest.fixture
def payments(authority: TestAuthority) -> Held:
    return Held(authority, PAYMENTS)


@pytest.fixture
def server(payments: Held) -> Iterator[MtlsServer]:
    with payments_server(payments) as serving:
        yield serving


@asynccontextmanager
async def session(source: Held, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    authorize = options.pop("authorize", WANTED)
    connector = MtlsConnector(source, authorize, **options)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as made:
        yield made
    await in_time(lambda: not len(source.connections))


async def ask(asking: aiohttp.ClientSession, url: str, method: str = "GET", **options: Any) -> dict[str, Any]:
    async with asking.request(method, url, **options) as response:
        response.raise_for_status()
        return dict(json.loads(await response.read()))


async def code(asking: aiohttp.ClientSession, url: str, error: type[Exception], method: str = "GET") -> str:
    """The code of the reason for which asking fails."""
    with pytest.raises(error) as raised:
        await ask(asking, url, method)
    why = reason(raised.value)
    assert why is not None
    return why.code.code


async def test_requests_share_a_connection_until_it_is_time_to_leave_it(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        assert [(await ask(asking, server.url))["connection"] for _ in range(3)] == [1, 1, 1]
        orders.pass_time()
        await in_time(lambda: not server.open)
        answer = await ask(asking, server.url, ssl=False)  # what a request says of TLS plays no part
        assert answer == {"connection": 2, "caller": str(ORDERS)}


async def test_what_is_under_way_when_a_connection_retires_ends_in_peace(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        async with asking.get(f"{server.url}/slow") as slow:
            orders.pass_time()
            assert (await ask(asking, server.url))["connection"] == 2
            server.go_on.set()
            assert json.loads(await slow.read())["connection"] == 1
        await in_time(lambda: list(server.open) == [2])


async def test_many_requests_through_twenty_rotations_all_succeed(
    orders: Held, payments: Held, server: MtlsServer
) -> None:
    done = threading.Event()

    def rotate() -> None:
        for _ in range(20):
            orders.rotate()
            payments.rotate()
            orders.pass_time()
            if done.wait(0.02):
                return

    async with session(orders) as asking:

        async def some(count: int) -> None:
            for number in range(count):
                answer = await ask(asking, f"{server.url}/{number}", "POST", data=b"x" * 100)
                assert answer["caller"] == str(ORDERS)

        rotating = asyncio.create_task(asyncio.to_thread(rotate))
        await asyncio.gather(*(some(50) for _ in range(10)))
        done.set()
        await rotating
    assert len(server.asked) == 500


async def test_a_stream_is_cut_when_the_peer_is_revoked_and_says_why(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        async with asking.get(f"{server.url}/slow") as slow:
            orders.revoke(PAYMENTS)
            with pytest.raises(aiohttp.ClientOSError) as raised:
                await slow.read()
        why = reason(raised.value)
        assert why is not None
        assert why.code.code == "VST1020"
        assert await code(asking, server.url, aiohttp.ClientConnectorCertificateError) == "VST1020"


async def test_a_request_that_waits_is_cut_when_our_identity_is_withdrawn(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        waiting = asyncio.create_task(code(asking, f"{server.url}/stall", aiohttp.ClientError, "POST"))
        await in_time(lambda: bool(server.asked))
        orders.withdraw()
        assert await waiting == "VST2402"


async def test_the_wrong_peer_is_refused_before_anything_is_sent(orders: Held, server: MtlsServer) -> None:
    async with session(orders, authorize=authorize_ids(ORDERS)) as asking:
        assert await code(asking, server.url, aiohttp.ClientConnectorCertificateError, "POST") == "VST2404"
    assert not server.asked


async def test_being_refused_by_the_peer_is_told_as_such(orders: Held, payments: Held) -> None:
    with payments_server(payments, authorize_ids(PAYMENTS)) as server:
        async with session(orders) as asking:
            assert await code(asking, server.url, aiohttp.ClientConnectionError) == "VST2431"


async def test_a_request_on_a_connection_that_the_server_left_is_asked_again(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        await ask(asking, server.url)
        assert (await ask(asking, f"{server.url}/drop"))["connection"] == 2
        server.drops = 1
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(asking, f"{server.url}/drop", "POST", data=b"once")


async def test_servers_that_stall_or_talk_nonsense_are_errors_of_aiohttp(
    orders: Held, server: MtlsServer
) -> None:
    async with session(orders) as asking:
        with pytest.raises(TimeoutError):
            await ask(asking, f"{server.url}/stall", timeout=aiohttp.ClientTimeout(sock_read=0.05))
        with pytest.raises(aiohttp.ClientError):
            await ask(asking, f"{server.url}/garbage")


async def test_a_cancelled_request_gives_its_connection_up(orders: Held, server: MtlsServer) -> None:
    async with session(orders) as asking:
        task = asyncio.create_task(ask(asking, f"{server.url}/stall"))
        await in_time(lambda: bool(server.asked))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(asking, server.url))["connection"] == 2


async def test_plain_text_is_refused(orders: Held, server: MtlsServer) -> None:
    async with session(orders) as asking:
        url = f"http://127.0.0.1:{server.port}/"
        assert await code(asking, url, aiohttp.ClientConnectionError) == "VST2430"


async def test_hosts_outside_are_called_by_name_and_leave_a_line(
    orders: Held, server: MtlsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vestibule.sdk.outside")
    with a_web_server(tmp_path) as (outsider, context):
        place = f"localhost:{outsider.port}"
        async with session(orders, outside=[place], outside_context=context) as asking:
            assert (await ask(asking, f"https://{place}/v1?card=4242"))["caller"] == "anybody"
            assert (await ask(asking, server.url))["caller"] == str(ORDERS)
    (line,) = (json.loads(each.message) for each in caplog.records if each.name == "vestibule.sdk.outside")
    assert (line["caller"], line["path"], line["status"]) == (str(ORDERS), "/v1", 200)
