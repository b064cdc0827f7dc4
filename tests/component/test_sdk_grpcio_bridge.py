"""Google's gRPC over the bridge, against a server with library mTLS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.component.test_sdk_calling import ANYBODY, WANTED, Greeter
from tests.mtls_lab import ORDERS, PATIENCE, PAYMENTS, Held, held, in_time, quiet

from vestibule.sdk import authorize_ids
from vestibule.sdk.grpcio import Bridge, bridge, channel_credentials
from vestibule.sdk.grpclib import serve
from vestibule.testing import TestAuthority


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
def payments(authority: TestAuthority) -> Iterator[Held]:
    with held(Held(authority, PAYMENTS)) as source:
        yield source


@asynccontextmanager
async def bridged(
    orders: Held, payments: Held, greeter: Greeter, **options: Any
) -> AsyncIterator[tuple[Bridge, grpc.aio.Channel]]:
    source: Any = payments
    wanted = options.pop("wanted", WANTED)
    async with serve([greeter], source, ANYBODY, port=0, **options) as server:
        with bridge("127.0.0.1", server.port, orders, wanted) as made:
            async with made.aio_channel() as channel:
                yield made, channel
    await in_time(lambda: not len(orders.connections))


async def hello(channel: grpc.aio.Channel) -> str:
    call = channel.unary_unary("/t.Greeter/Hello", StringValue.SerializeToString, StringValue.FromString)
    return str((await call(StringValue(), timeout=PATIENCE)).value)


async def watch(channel: grpc.aio.Channel) -> list[str]:
    call = channel.unary_stream("/t.Greeter/Watch", StringValue.SerializeToString, StringValue.FromString)
    return [each.value async for each in call(StringValue(), timeout=PATIENCE)]


async def test_calls_cross_the_bridge_while_certificates_rotate(orders: Held, payments: Held) -> None:
    async with bridged(orders, payments, Greeter()) as (_, channel):

        async def some(count: int) -> None:
            for _ in range(count):
                assert await hello(channel) == "hello"

        working = asyncio.gather(*(some(40) for _ in range(5)))
        for _ in range(10):
            orders.rotate()
            payments.rotate()
            await asyncio.to_thread(orders.pass_time)
        await working


async def test_a_call_that_runs_goes_on_when_its_connection_is_left(orders: Held, payments: Held) -> None:
    greeter = Greeter()
    async with bridged(orders, payments, greeter) as (_, channel):
        running = asyncio.create_task(watch(channel))
        await in_time(lambda: greeter.busy == 1)
        await asyncio.to_thread(orders.pass_time)
        assert await hello(channel) == "hello"
        greeter.go.set()
        assert await running == ["begun", "done"]
        await in_time(lambda: len(orders.connections) <= 1)


async def test_a_call_is_cut_when_the_peer_is_revoked(orders: Held, payments: Held) -> None:
    greeter = Greeter()
    async with bridged(orders, payments, greeter) as (made, channel):
        running = asyncio.create_task(watch(channel))
        await in_time(lambda: greeter.busy == 1)
        orders.revoke(PAYMENTS)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        await in_time(lambda: made.problem is not None)
        assert made.problem is not None
        assert made.problem.code.code == "VST1020"


async def test_the_wrong_peer_is_not_called(orders: Held, payments: Held) -> None:
    async with bridged(orders, payments, Greeter(), wanted=authorize_ids(ORDERS)) as (made, channel):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await hello(channel)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(raised.value.details()).startswith(f"VST2404 the peer is {PAYMENTS}")
        assert made.problem is not None
        assert made.problem.code.code == "VST2404"


async def test_blocking_channels_cross_it_too(orders: Held, payments: Held) -> None:
    def ask(made: Bridge) -> str:
        with made.channel() as channel:
            call = channel.unary_unary(
                "/t.Greeter/Hello", StringValue.SerializeToString, StringValue.FromString
            )
            return str(call(StringValue(), timeout=PATIENCE).value)

    async with bridged(orders, payments, Greeter()) as (made, _):
        assert await asyncio.to_thread(ask, made) == "hello"
    assert not any(each.name == "grpcio-bridge" for each in threading.enumerate())


async def test_where_the_peer_has_a_dns_name_grpcio_can_do_without(
    authority: TestAuthority, orders: Held
) -> None:
    named = Held(authority, PAYMENTS)
    svid = authority.svid(PAYMENTS, dns_names=["payments.test"])
    named.context_now = named.context.__class__(svids=(svid,), bundles=named.bundles)
    source: Any = named
    async with serve([Greeter()], source, ANYBODY, port=0) as server:
        credentials = channel_credentials(orders, "example.org")
        options = [("grpc.ssl_target_name_override", "payments.test")]
        place = f"127.0.0.1:{server.port}"
        async with grpc.aio.secure_channel(place, credentials, options) as channel:
            assert await hello(channel) == "hello"
