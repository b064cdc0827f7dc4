"""A call that breaks off, and a caller that is told to end: neither hides the other."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from grpclib.exceptions import StreamTerminatedError

from vestibule.calls.unix import unix_channel
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

NODE = node_pb2.DESCRIPTOR.services_by_name["Node"]


class Silent:
    """Opens streams and says nothing."""

    async def watch(self, stream: Any) -> None:
        await stream.recv_message()
        await asyncio.Event().wait()


class Composed:
    """Comes to an end of its own when it is cancelled."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def watch(self, stream: Any) -> None:
        await stream.recv_message()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.set()


@asynccontextmanager
async def client_of(implementation: object, directory: Path) -> AsyncIterator[Client]:
    server = GrpcServer([serve(NODE, implementation)])
    listener = listen_unix(directory / "s", PUBLIC)
    await server.listen(listener.sock)
    channel = unix_channel(directory / "s")
    yield Client(channel, NODE)
    channel.close()
    await server.close()
    listener.close()


@pytest.fixture
async def client(short_dir: Path) -> AsyncIterator[Client]:
    async with client_of(Silent(), short_dir) as client:
        yield client


async def waiting(client: Client, timeout: float | None) -> tuple[asyncio.Task[None], Any]:
    """A task that waits for a message that does not come, and its stream."""
    streams: list[Any] = []

    async def wait() -> None:
        async with client.stream("Watch", timeout=timeout) as stream:
            await stream.send_message(node_pb2.WatchRequest(), end=True)
            streams.append(stream)
            await stream.recv_message()

    task = asyncio.create_task(wait())
    async with asyncio.timeout(60):
        while not streams:
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)  # as far as the message that does not come
    return task, streams[0]


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("first", ["call", "caller"])
async def test_a_caller_that_is_told_to_end_ends_though_its_call_breaks_off_at_the_same_moment(
    client: Client, timeout: float | None, first: str
) -> None:
    task, stream = await waiting(client, timeout)
    steps = [lambda: stream._wrapper.cancel(StreamTerminatedError("connection lost")), task.cancel]
    for step in steps if first == "call" else reversed(steps):
        step()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("timeout", [None, 30.0])
async def test_a_call_that_breaks_off_is_an_error_and_leaves_no_trace_in_the_task(
    client: Client, timeout: float | None
) -> None:
    task, stream = await waiting(client, timeout)
    stream._wrapper.cancel(StreamTerminatedError("connection lost"))
    with pytest.raises(VestibuleError, match="VST2300"):
        await task
    assert task.cancelling() == 0


async def ask(client: Client, timeout: float | None = None) -> None:
    async with client.stream("Watch", timeout=timeout) as stream:
        await stream.send_message(node_pb2.WatchRequest(), end=True)
        await stream.recv_message()


async def test_a_deadline_of_the_caller_ends_a_call_as_such(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(client), 0.05)


async def test_a_call_that_is_not_answered_in_time_is_an_error(client: Client) -> None:
    with pytest.raises(VestibuleError, match="VST2300"):
        await ask(client, timeout=0.05)


async def test_a_send_on_a_closed_stream_is_a_broken_connection(client: Client) -> None:
    with pytest.raises(VestibuleError, match="VST2300"):  # noqa: PT012
        async with client.stream("Watch") as stream:
            await stream.send_request()
            stream._stream._h2_connection.reset_stream(stream._stream.id)
            await stream.send_message(node_pb2.WatchRequest(), end=True)


async def test_a_client_that_leaves_leaves_no_trace_in_the_log_of_a_call_that_ends_then(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed = Composed()
    with caplog.at_level(logging.WARNING):
        async with client_of(composed, short_dir) as client:
            task, stream = await waiting(client, None)
            async with asyncio.timeout(60):
                while stream._stream is None or not composed.ended.is_set():
                    await asyncio.sleep(0.01)
                    stream._channel.close()
                await asyncio.gather(task, return_exceptions=True)
    assert caplog.text == ""


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_just_before_the_end_is_not_left_open(
    short_dir: Path, turns: int
) -> None:
    server = GrpcServer([serve(NODE, Silent())])
    listener = listen_unix(short_dir / "s", PUBLIC)
    await server.listen(listener.sock)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(short_dir / "s"))
        late.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(late, 1000):
                    pass
    listener.close()
