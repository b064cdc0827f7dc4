"""grpclib's server with library mTLS, with clients of grpclib and of Google."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from tests.component.mtls_lab import AT_ONCE, DEADLINE, Pair, pair, press_all, until

from vestibule.sdk import SpiffeId, authorize_ids
from vestibule.sdk.grpclib import Server, caller, channel, retiring, serve


class Greeter:
    """Two methods, as grpclib's plugin would make them."""

    def __init__(self) -> None:
        self.busy = 0
        self.go = asyncio.Event()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/t.Greeter/Hello": Handler(self.hello, Cardinality.UNARY_UNARY, StringValue, StringValue),
            "/t.Greeter/Slow": Handler(self.slow, Cardinality.UNARY_UNARY, StringValue, StringValue),
            "/t.Greeter/Watch": Handler(self.watch, Cardinality.UNARY_STREAM, StringValue, StringValue),
        }

    async def hello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(StringValue(value=str(caller(stream))))

    async def slow(self, stream: Any) -> None:
        await stream.recv_message()
        self.busy += 1
        await self.go.wait()
        await stream.send_message(StringValue(value="done"))

    async def watch(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(StringValue(value="begun"))
        self.busy += 1
        await retiring(stream).wait()
        await stream.send_message(StringValue(value="come again"))


class Client:
    """Calls one server over one connection at a time."""

    def __init__(self, port: int, two: Pair) -> None:
        context = two.context()
        context.set_alpn_protocols(["h2"])
        self.channel = Channel("127.0.0.1", port, ssl=context)

    async def call(self, method: str) -> str:
        stub = UnaryUnaryMethod(self.channel, f"/t.Greeter/{method}", StringValue, StringValue)
        return str((await stub(StringValue(), timeout=DEADLINE)).value)

    async def watch(self) -> list[str]:
        stub = UnaryStreamMethod(self.channel, "/t.Greeter/Watch", StringValue, StringValue)
        return [each.value for each in await stub(StringValue(), timeout=DEADLINE)]

    @property
    def connection(self) -> object:
        return self.channel._protocol


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


@asynccontextmanager
async def served(
    two: Pair, greeter: Greeter, *wanted: SpiffeId, **options: Any
) -> AsyncIterator[tuple[Server, Client]]:
    authorize = authorize_ids(*(wanted or (two.caller,)))
    async with serve([greeter], two.payments, authorize, port=0, **options) as server:
        client = Client(server.port, two)
        try:
            yield server, client
        finally:
            client.channel.close()


async def test_a_method_knows_who_calls(two: Pair) -> None:
    async with served(two, Greeter()) as (_, client):
        assert await client.call("Hello") == str(two.caller)


async def test_a_stranger_is_refused(two: Pair) -> None:
    async with served(two, Greeter(), SpiffeId.parse("spiffe://example.org/stranger")) as (_, client):
        with pytest.raises((OSError, StreamTerminatedError)):
            await client.call("Hello")


async def test_a_retired_connection_is_left_when_it_is_quiet_and_calls_go_on_elsewhere(two: Pair) -> None:
    async with served(two, Greeter(), lifetimes=AT_ONCE) as (server, client):
        assert await client.call("Hello") == str(two.caller)
        first = client.connection
        server._lifetimes = None
        await until(lambda: client.channel._protocol.connection.is_closing())  # type: ignore[union-attr]
        assert await client.call("Hello") == str(two.caller)
        assert client.connection is not first


async def test_a_connection_that_has_time_is_kept(two: Pair) -> None:
    async with served(two, Greeter()) as (_, client):
        await client.call("Hello")
        first = client.connection
        await client.call("Hello")
        assert client.connection is first


async def test_a_stream_is_told_and_ends_in_a_way_that_lets_the_client_go_on(two: Pair) -> None:
    greeter = Greeter()
    async with served(two, greeter) as (server, client):
        watching = asyncio.create_task(client.watch())
        await until(lambda: greeter.busy == 1)
        draining = asyncio.create_task(server.drain(DEADLINE))
        assert await asyncio.wait_for(watching, DEADLINE) == ["begun", "come again"]
        await draining


async def test_a_call_that_runs_when_the_identity_is_withdrawn_ends_with_unavailable(two: Pair) -> None:
    greeter = Greeter()
    async with served(two, greeter) as (_, client):
        running = asyncio.create_task(client.call("Slow"))
        await until(lambda: greeter.busy == 1)
        two.serving.withdraw()
        with pytest.raises(GRPCError, match="VST2402") as raised:
            await asyncio.wait_for(running, DEADLINE)
        assert raised.value.status is Status.UNAVAILABLE


async def test_a_call_that_runs_when_its_connection_is_pressed_is_answered(two: Pair) -> None:
    """Our channel knows that the first GOAWAY ends nothing that runs."""
    greeter, wanted = Greeter(), authorize_ids(two.serving.spiffe_id)
    async with (
        served(two, greeter) as (server, _),
        channel("127.0.0.1", server.port, two.orders, wanted) as ours,
    ):
        slow, hello = (
            UnaryUnaryMethod(ours, f"/t.Greeter/{each}", StringValue, StringValue)
            for each in ("Slow", "Hello")
        )
        running = asyncio.create_task(slow(StringValue(), timeout=DEADLINE))
        await until(lambda: greeter.busy == 1)
        assert press_all(two.payments) == 1
        assert (await hello(StringValue(), timeout=DEADLINE)).value == str(two.caller)
        greeter.go.set()
        assert (await asyncio.wait_for(running, DEADLINE)).value == "done"


async def test_stopping_lets_calls_finish(two: Pair) -> None:
    greeter = Greeter()
    async with served(two, greeter) as (server, client):
        running = asyncio.create_task(client.call("Slow"))
        await until(lambda: greeter.busy == 1)
        draining = asyncio.create_task(server.drain(DEADLINE))
        await until(lambda: server.sockets[0].fileno() < 0)
        greeter.go.set()
        assert await asyncio.wait_for(running, DEADLINE) == "done"
        await draining


async def test_what_does_not_finish_in_time_ends_with_unavailable(two: Pair) -> None:
    greeter = Greeter()
    async with served(two, greeter) as (server, client):
        running = asyncio.create_task(client.call("Slow"))
        await until(lambda: greeter.busy == 1)
        await server.drain(0)
        server.close()
        with pytest.raises(GRPCError, match="shutting down") as raised:
            await asyncio.wait_for(running, DEADLINE)
        assert raised.value.status is Status.UNAVAILABLE
        await server.wait_closed()
