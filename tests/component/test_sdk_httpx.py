"""httpx over the SDK's mutual TLS, against a real server: pools that are renewed in time, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.mtls_lab import (
    ORDERS,
    PATIENCE,
    PAYMENTS,
    Held,
    MtlsServer,
    a_web_server,
    eventually,
    held,
    in_time,
    payments_server,
)

from vestibule.sdk import authorize_ids, reason
from vestibule.sdk.httpx import AsyncMtlsTransport, MtlsTransport
from vestibule.testing import TestAuthority

WANTED = authorize_ids(PAYMENTS)


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


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[MtlsServer, ssl.SSLContext]]:
    with a_web_server(tmp_path) as server:
        yield server


def client(source: Held, **options: object) -> httpx.AsyncClient:
    transport = AsyncMtlsTransport(source, options.pop("authorize", WANTED), **options)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, timeout=PATIENCE)


def blocking_client(source: Held, **options: object) -> httpx.Client:
    transport = MtlsTransport(source, options.pop("authorize", WANTED), **options)  # type: ignore[arg-type]
    return httpx.Client(transport=transport, timeout=PATIENCE)


async def connection_for(asking: httpx.AsyncClient, server: MtlsServer) -> int:
    answer = (await asking.get(f"{server.url}/")).raise_for_status().json()
    assert answer["caller"] == str(ORDERS)
    return int(answer["connection"])


async def test_requests_share_a_connection_until_it_is_time_to_leave_it(
    orders: Held, server: MtlsServer
) -> None:
    async with client(orders) as asking:
        assert [await connection_for(asking, server) for _ in range(3)] == [1, 1, 1]
        orders.pass_time()
        await in_time(lambda: not server.open)  # it was idle, so it was closed without a request
        assert [await connection_for(asking, server) for _ in range(3)] == [2, 2, 2]
    assert not len(orders.connections)


async def test_what_is_under_way_when_a_connection_retires_ends_in_peace(
    orders: Held, server: MtlsServer
) -> None:
    async with client(orders) as asking:
        async with asking.stream("GET", f"{server.url}/slow") as response:
            orders.pass_time()
            assert await connection_for(asking, server) == 2
            server.go_on.set()
            assert json.loads(await response.aread())["connection"] == 1
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
            done.wait(0.02)
            if done.is_set():
                return

    async with client(orders) as asking:

        async def some(count: int) -> None:
            for number in range(count):
                body = (await asking.post(f"{server.url}/{number}", content=b"x" * 100)).raise_for_status()
                assert body.json()["caller"] == str(ORDERS)

        rotating = asyncio.create_task(asyncio.to_thread(rotate))
        await asyncio.gather(*(some(50) for _ in range(10)))
        done.set()
        await rotating
    assert len(server.asked) == 500


async def test_a_stream_is_cut_when_the_peer_is_revoked_and_says_why(
    orders: Held, server: MtlsServer
) -> None:
    async with client(orders) as asking:
        async with asking.stream("GET", f"{server.url}/slow") as response:
            orders.revoke(PAYMENTS)
            with pytest.raises(httpx.ReadError) as raised:
                await response.aread()
        assert (why := reason(raised.value)) is not None
        assert why.code.code == "VST1020"
        with pytest.raises(httpx.ConnectError) as refused:
            await asking.get(server.url)
        assert (why := reason(refused.value)) is not None
        assert why.code.code == "VST1020"


async def test_a_withdrawn_identity_calls_nobody_any_more(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        await connection_for(asking, server)
        orders.withdraw()
        await in_time(lambda: not server.open)
        with pytest.raises(httpx.ConnectError, match="VST2402"):
            await asking.get(server.url)


async def test_the_wrong_peer_is_refused_before_anything_is_sent(orders: Held, server: MtlsServer) -> None:
    async with client(orders, authorize=authorize_ids(ORDERS)) as asking:
        with pytest.raises(httpx.ConnectError) as raised:
            await asking.post(server.url, content=b"secret")
    assert (why := reason(raised.value)) is not None
    assert why.code.code == "VST2404"
    assert str(PAYMENTS) in why.message
    assert str(ORDERS) in why.message
    assert not server.asked


async def test_a_peer_of_an_unknown_trust_domain_is_refused(orders: Held) -> None:
    elsewhere = Held(TestAuthority("example.com"), PAYMENTS.__class__.parse("spiffe://example.com/x"))
    with payments_server(elsewhere) as server:
        async with client(orders) as asking:
            with pytest.raises(httpx.ConnectError):
                await asking.get(server.url)


async def test_being_refused_by_the_peer_is_told_as_such(orders: Held, payments: Held) -> None:
    with payments_server(payments, authorize_ids(PAYMENTS)) as server:
        async with client(orders) as asking:
            with pytest.raises(httpx.ReadError) as raised:
                await asking.get(server.url)
        with blocking_client(orders) as blocking, pytest.raises(httpx.ReadError) as also:
            blocking.get(server.url)
    for error in (raised.value, also.value):
        assert (why := reason(error)) is not None
        assert why.code.code == "VST2431"
        assert str(ORDERS) in why.message


async def test_a_request_on_a_connection_that_the_server_left_is_asked_again(
    orders: Held, server: MtlsServer
) -> None:
    async with client(orders) as asking:
        await connection_for(asking, server)
        answer = await asking.get(
            f"{server.url}/drop"
        )  # the server ends the connection in the place of an answer
        assert answer.json()["connection"] == 2
        assert [each.path for each in server.asked] == ["/", "/drop", "/drop"]


async def test_what_may_have_had_an_effect_is_not_asked_again(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        await connection_for(asking, server)
        with pytest.raises(httpx.RemoteProtocolError):
            await asking.post(f"{server.url}/drop", content=b"once")
        server.drops = 1
        await connection_for(asking, server)
        keyed = {"Idempotency-Key": "7"}
        assert (await asking.post(f"{server.url}/drop", content=b"once", headers=keyed)).status_code == 200


async def test_idle_connections_that_the_server_closed_are_not_used(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        for number in range(1, 6):
            answer = await asking.post(server.url, content=b"x")
            assert answer.json()["connection"] == number
            server.close_connections()


async def test_servers_that_stall_or_talk_nonsense_are_httpx_errors(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        with pytest.raises(httpx.ReadTimeout):
            await asking.get(f"{server.url}/stall", timeout=httpx.Timeout(PATIENCE, read=0.05))
        with pytest.raises(httpx.RemoteProtocolError):
            await asking.get(f"{server.url}/garbage")
        await in_time(lambda: not server.open)


async def test_a_cancelled_request_gives_its_connection_up(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        task = asyncio.create_task(asking.get(f"{server.url}/stall"))
        await in_time(lambda: bool(server.asked))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_time(lambda: not server.open)
        assert await connection_for(asking, server) == 2
    await in_time(lambda: not len(orders.connections))


async def test_plain_text_is_refused(orders: Held, server: MtlsServer) -> None:
    async with client(orders) as asking:
        with pytest.raises(httpx.UnsupportedProtocol, match="VST2430"):
            await asking.get(f"http://127.0.0.1:{server.port}/")
    assert not server.asked


async def test_hosts_outside_are_called_by_name_and_leave_a_line(
    orders: Held, web: tuple[MtlsServer, ssl.SSLContext], server: MtlsServer, caplog: pytest.LogCaptureFixture
) -> None:
    outsider, context = web
    caplog.set_level(logging.INFO, "vestibule.sdk.outside")
    place = f"localhost:{outsider.port}"
    async with client(orders, outside=[place], outside_context=context) as asking:
        answer = await asking.post(f"https://{place}/v1/charges?card=4242", content=b"x")
        assert answer.json()["caller"] == "anybody"
        await connection_for(asking, server)  # others go on being known by their SPIFFE ID
    with blocking_client(orders, outside=[place], outside_context=context) as blocking:
        assert blocking.get(f"https://{place}/").status_code == 200
    lines = [json.loads(each.message) for each in caplog.records if each.name == "vestibule.sdk.outside"]
    first = lines[0]
    assert first.pop("seconds") > 0
    known = {
        "caller": str(ORDERS),
        "host": "localhost",
        "method": "POST",
        "path": "/v1/charges",
        "status": 200,
    }
    assert first == known
    assert len(lines) == 2


async def test_a_host_that_is_not_named_is_never_called_as_an_outsider(
    orders: Held, web: tuple[MtlsServer, ssl.SSLContext]
) -> None:
    outsider, context = web
    async with client(orders, outside=["localhost"], outside_context=context) as asking:  # port 443
        with pytest.raises(httpx.ConnectError):
            await asking.get(f"https://localhost:{outsider.port}/")
    assert not outsider.asked


def test_threads_share_a_blocking_client_across_rotations(
    orders: Held, payments: Held, server: MtlsServer
) -> None:
    failures: list[BaseException] = []

    def ask(asking: httpx.Client) -> None:
        try:
            for _ in range(50):
                assert asking.post(server.url, content=b"x").json()["caller"] == str(ORDERS)
        except BaseException as error:  # noqa: BLE001 - it is told below
            failures.append(error)

    with blocking_client(orders) as asking:
        threads = [threading.Thread(target=ask, args=(asking,)) for _ in range(6)]
        for each in threads:
            each.start()
        for _ in range(20):
            orders.rotate()
            payments.rotate()
            orders.pass_time()
        for each in threads:
            each.join(PATIENCE)
    assert not failures
    assert len(server.asked) == 300


def test_an_idle_connection_of_a_blocking_client_is_closed_in_time(orders: Held, server: MtlsServer) -> None:
    with blocking_client(orders) as asking:
        assert asking.get(server.url).json()["connection"] == 1
        orders.pass_time()
        eventually(lambda: not server.open)
        assert asking.get(server.url).json()["connection"] == 2


def test_a_thread_that_waits_for_a_revoked_peer_is_woken(orders: Held, server: MtlsServer) -> None:
    with blocking_client(orders) as asking:
        threading.Timer(0.05, orders.revoke, [PAYMENTS]).start()
        with pytest.raises((httpx.ReadError, httpx.ConnectError)) as raised:
            asking.get(f"{server.url}/stall")
    assert (why := reason(raised.value)) is not None
    assert why.code.code == "VST1020"
