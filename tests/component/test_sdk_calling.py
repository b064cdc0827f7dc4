"""Calls by asyncio's streams and by grpclib's channels, with connections that are left in time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError
from tests.mtls_lab import ORDERS, PATIENCE, PAYMENTS, Held, held, in_time, quiet

from vestibule.sdk import Lifetimes, authorize_ids, authorize_member_of, reason
from vestibule.sdk.grpclib import channel, serve
from vestibule.sdk.streams import caller, open_connection, retiring, start_server
from vestibule.testing import TestAuthority

WANTED = authorize_ids(PAYMENTS)
ANYBODY = authorize_member_of("example.org")
AT_ONCE = Lifetimes(share=1e-6, jitter=0)


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


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(f"{caller(writer)} ".encode() + line)


@pytest.fixture
async def port(payments: Held) -> AsyncIterator[int]:
    source: Any = payments
    async with await start_server(echo, "127.0.0.1", 0, source, ANYBODY) as server:
        yield server.port


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(b"hello\n")
    async with asyncio.timeout(PATIENCE):
        return (await reader.readline()).decode().strip()


async def test_a_stream_is_told_when_to_connect_again_and_works_until_then(orders: Held, port: int) -> None:
    told: list[asyncio.StreamWriter] = []
    reader, writer = await open_connection("127.0.0.1", port, orders, WANTED, on_retire=told.append)
    assert await said(reader, writer) == f"{ORDERS} hello"
    assert not retiring(writer).is_set()
    orders.pass_time()
    async with asyncio.timeout(PATIENCE):
        await retiring(writer).wait()
    assert told == [writer]
    assert await said(reader, writer) == f"{ORDERS} hello"
    writer.close()
    await in_time(lambda: not len(orders.connections))


async def test_a_stream_is_cut_when_the_peer_is_revoked(orders: Held, port: int) -> None:
    reader, writer = await open_connection("127.0.0.1", port, orders, WANTED)
    assert await said(reader, writer)
    orders.revoke(PAYMENTS)
    with pytest.raises(ConnectionAbortedError, match="VST1020") as raised:
        async with asyncio.timeout(PATIENCE):
            await reader.readline()
    assert reason(raised.value) is raised.value.__cause__
    writer.close()


async def test_a_stream_to_the_wrong_peer_is_not_made(orders: Held, port: int) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="VST2404"):
        await open_connection("127.0.0.1", port, orders, authorize_ids(ORDERS))


class Greeter:
    """A service as grpclib's plugin would make it."""

    def __init__(self) -> None:
        self.busy = 0
        self.go = asyncio.Event()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/t.Greeter/Hello": Handler(self.hello, Cardinality.UNARY_UNARY, StringValue, StringValue),
            "/t.Greeter/Watch": Handler(self.watch, Cardinality.UNARY_STREAM, StringValue, StringValue),
        }

    async def hello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(StringValue(value="hello"))

    async def watch(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(StringValue(value="begun"))
        self.busy += 1
        await self.go.wait()
        await stream.send_message(StringValue(value="done"))


async def hello(calling: Channel) -> str:
    stub = UnaryUnaryMethod(calling, "/t.Greeter/Hello", StringValue, StringValue)
    return str((await stub(StringValue(), timeout=PATIENCE)).value)


async def watch(calling: Channel) -> list[str]:
    stub = UnaryStreamMethod(calling, "/t.Greeter/Watch", StringValue, StringValue)
    return [each.value for each in await stub(StringValue(), timeout=PATIENCE)]


@asynccontextmanager
async def calling(orders: Held, payments: Held, greeter: Greeter, **options: Any) -> AsyncIterator[Channel]:
    source: Any = payments
    wanted = options.pop("wanted", WANTED)
    async with (
        serve([greeter], source, options.pop("callers", ANYBODY), port=0, **options) as server,
        channel("127.0.0.1", server.port, orders, wanted) as made,
    ):
        yield made
    await in_time(lambda: not len(orders.connections))


async def test_calls_that_run_end_in_peace_on_a_retired_connection(orders: Held, payments: Held) -> None:
    greeter = Greeter()
    async with calling(orders, payments, greeter) as making:
        running = asyncio.create_task(watch(making))
        await in_time(lambda: greeter.busy == 1)
        first = making._protocol
        orders.pass_time()
        assert await hello(making) == "hello"
        assert making._protocol is not first
        greeter.go.set()
        assert await running == ["begun", "done"]
        assert first is not None
        await in_time(first.connection.is_closing)
        assert await hello(making) == "hello"


async def test_calls_that_run_go_on_after_the_server_said_that_it_leaves(
    orders: Held, payments: Held
) -> None:
    greeter = Greeter()
    async with calling(orders, payments, greeter) as making:
        running = asyncio.create_task(watch(making))
        await in_time(lambda: greeter.busy == 1)
        first: Any = making._protocol
        first.data_received(
            bytes.fromhex("0000080700000000007fffffff00000000")
        )  # GOAWAY that announces another
        assert await hello(making) == "hello"
        assert making._protocol is not first
        greeter.go.set()
        assert await running == ["begun", "done"]


async def test_many_calls_through_many_rotations_all_succeed(orders: Held, payments: Held) -> None:
    async with calling(orders, payments, Greeter()) as making:

        async def some(count: int) -> None:
            for _ in range(count):
                assert await hello(making) == "hello"

        working = asyncio.gather(*(some(60) for _ in range(6)))
        for _ in range(10):
            orders.rotate()
            payments.rotate()
            await asyncio.to_thread(orders.pass_time)
        await working


async def test_a_call_is_cut_when_the_peer_is_revoked(orders: Held, payments: Held) -> None:
    greeter = Greeter()
    async with calling(orders, payments, greeter) as making:
        running = asyncio.create_task(watch(making))
        await in_time(lambda: greeter.busy == 1)
        orders.revoke(PAYMENTS)
        with pytest.raises(StreamTerminatedError, match="VST1020") as raised:
            await running
        why = reason(raised.value)
        assert why is not None
        assert why.code.code == "VST1020"
        with pytest.raises(ssl.SSLError, match="VST1020"):
            await hello(making)


async def test_the_wrong_peer_is_not_called(orders: Held, payments: Held) -> None:
    async with calling(orders, payments, Greeter(), wanted=authorize_ids(ORDERS)) as making:
        with pytest.raises(ssl.SSLCertVerificationError, match="VST2404"):
            await hello(making)


async def test_a_caller_whom_the_server_does_not_want_is_told_what_it_may_mean(
    orders: Held, payments: Held
) -> None:
    async with calling(orders, payments, Greeter(), callers=authorize_ids(PAYMENTS)) as making:
        with pytest.raises((StreamTerminatedError, OSError)):
            await hello(making)


async def test_a_server_that_leaves_every_connection_at_once_is_called_all_the_same(
    orders: Held, payments: Held
) -> None:
    async with calling(orders, payments, Greeter(), lifetimes=AT_ONCE) as making:
        for _ in range(20):
            assert await hello(making) == "hello"
