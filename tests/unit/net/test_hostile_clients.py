"""What a client may send to a server's socket, and that nobody else notices."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest
from grpclib.const import Status

from vestibule.calls.unix import connected_channel, unix_channel
from vestibule.errors import Kind, VestibuleError
from vestibule.net import grpc_server
from vestibule.net.codes import (
    MALFORMED_MESSAGE,
    MESSAGE_TOO_LARGE,
    SHUTTING_DOWN,
    TOO_MUCH_AT_ONCE,
    UNREACHABLE,
)
from vestibule.net.grpc import Client, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.peer import peer_of
from vestibule.net.quotas import Quota, source_of
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

NODE = wire.DESCRIPTOR.services_by_name["Node"]
SUPERVISOR = wire.DESCRIPTOR.services_by_name["Supervisor"]


class Node:
    """Watch never ends; RegisterInstance answers with the caller's pid."""

    async def watch(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(wire.WatchResponse(entries_revision=1))
        await asyncio.Event().wait()

    async def register_instance(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(wire.RegisterInstanceResponse(lease_seconds=peer_of(stream).pid))


class Supervisor:
    async def grant(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(wire.GrantResponse())


@pytest.fixture
async def server(short_dir: Path) -> AsyncIterator[GrpcServer]:
    made = GrpcServer([serve(NODE, Node())], max_message=1024 * 1024)
    listener = listen_unix(short_dir / "s", PUBLIC)
    await made.listen(listener.sock)
    yield made
    await made.close()
    listener.close()


@pytest.fixture
async def client(server: GrpcServer, short_dir: Path) -> AsyncIterator[Client]:
    channel = unix_channel(short_dir / "s")
    yield Client(channel, NODE)
    channel.close()


class RawClient:
    """HTTP/2 by hand."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()

    async def flush(self, extra: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, self.h2.data_to_send() + extra)

    def begin(self) -> int:
        """The headers of one RegisterInstance."""
        stream = self.h2.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/vestibule.node.v1.Node/RegisterInstance",
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self.h2.send_headers(stream, list(headers.items()))
        return stream

    async def call(self, body: bytes) -> dict[str, str]:
        """One RegisterInstance with these bytes as body; the trailers."""
        stream = self.begin()
        self.h2.send_data(stream, body, end_stream=True)
        await self.flush()
        found: dict[str, str] = {}
        while "grpc-status" not in found:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65536), 60)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                found |= {k.decode(): v.decode() for k, v in getattr(event, "headers", None) or ()}
        return found


def message(body: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (message(b"\xff\xff\xff"), MALFORMED_MESSAGE),
        (message(b"", compressed=1), MALFORMED_MESSAGE),
        (message(b"abc", length=500), MALFORMED_MESSAGE),
        (b"\x00\x00", MALFORMED_MESSAGE),
        (message(b"", length=0xFFFFFFFF), MESSAGE_TOO_LARGE),
    ],
    ids=["not protobuf", "compressed", "cut short", "cut in the header", "four gigabytes announced"],
)
async def test_a_bad_message_is_answered_and_others_go_on(
    server: GrpcServer,
    client: Client,
    short_dir: Path,
    body: bytes,
    code: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client.stream("Watch") as other:
        await other.send_message(wire.WatchRequest(), end=True)
        await other.recv_message()
        raw = RawClient(short_dir / "s")
        trailers = await raw.call(body)
        assert trailers["vestibule-error-code"] == code.code
        assert (await raw.call(message(b"")))["grpc-status"] == "0", "the same connection still works"
        raw.socket.close()
        answer = await client.unary("RegisterInstance", wire.RegisterInstanceRequest())
        assert answer.lease_seconds == os.getpid()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 4096,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        + b"\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["http/1.1", "zeros", "broken frame", "broken hpack", "tls"],
)
async def test_noise_costs_only_the_noisy_connection(
    server: GrpcServer, client: Client, short_dir: Path, noise: bytes
) -> None:
    async with client.stream("Watch") as other:
        await other.send_message(wire.WatchRequest(), end=True)
        await other.recv_message()
        reader, writer = await asyncio.open_unix_connection(short_dir / "s")
        writer.write(noise)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 60)  # the server's own end, too
        writer.close()
        answer = await client.unary("RegisterInstance", wire.RegisterInstanceRequest())
        assert answer.lease_seconds == os.getpid()


@pytest.fixture
async def small(short_dir: Path) -> AsyncIterator[GrpcServer]:
    """A server with little to give."""
    quota = Quota(connections=3, calls=4, message_bytes=100_000)
    made = GrpcServer([serve(NODE, Node())], quota=quota)
    listener = listen_unix(short_dir / "s", PUBLIC)
    await made.listen(listener.sock)
    yield made
    await made.close()
    listener.close()


async def closed(raw: RawClient) -> bool:
    """Whether the server closes the connection, whatever it says before."""
    with suppress(ConnectionError):
        while await asyncio.wait_for(asyncio.get_running_loop().sock_recv(raw.socket, 65536), 60):
            pass
    raw.socket.close()
    return True


async def test_one_user_does_not_get_all_connections(small: GrpcServer, short_dir: Path) -> None:
    kept = [RawClient(short_dir / "s") for _ in range(3)]
    for each in kept:
        assert (await each.call(message(b"")))["grpc-status"] == "0"
    for _ in range(10):
        assert await closed(RawClient(short_dir / "s"))
    kept.pop().socket.close()
    async with asyncio.timeout(60):
        while True:  # until the end of that one was noticed
            again = RawClient(short_dir / "s")
            with suppress(ConnectionError, AssertionError):
                assert (await again.call(message(b"")))["grpc-status"] == "0"
                break
            again.socket.close()
    for each in (*kept, again):
        each.socket.close()


async def test_one_user_does_not_get_all_calls(small: GrpcServer, short_dir: Path) -> None:
    channel = unix_channel(short_dir / "s")
    client = Client(channel, NODE)
    async with AsyncExitStack() as open_calls:
        for _ in range(4):
            stream = await open_calls.enter_async_context(client.stream("Watch"))
            await stream.send_message(wire.WatchRequest(), end=True)
            await stream.recv_message()
        with pytest.raises(VestibuleError) as refusal:
            await client.unary("RegisterInstance", wire.RegisterInstanceRequest())
        assert refusal.value.code is TOO_MUCH_AT_ONCE
        assert refusal.value.code.kind is Kind.UNAVAILABLE, "for its clients, a reason to come again"
    assert (
        await client.unary("RegisterInstance", wire.RegisterInstanceRequest())
    ).lease_seconds == os.getpid()
    channel.close()


async def test_messages_that_do_not_arrive_take_a_bounded_part_of_memory(
    small: GrpcServer, short_dir: Path
) -> None:
    raw, other = RawClient(short_dir / "s"), RawClient(short_dir / "s")
    raw.begin()
    raw.h2.send_data(1, message(b"x" * 50, length=90_000))
    await raw.flush()
    assert (await other.call(message(b"")))["grpc-status"] == "0"
    trailers = await other.call(message(b"x" * 50, length=90_000))
    assert trailers["vestibule-error-code"] == TOO_MUCH_AT_ONCE.code
    assert trailers["grpc-status"] == str(Status.UNAVAILABLE.value)
    raw.socket.close()
    other.socket.close()


async def test_a_large_message_arrives_whole(server: GrpcServer, client: Client) -> None:
    request = wire.RegisterInstanceRequest(instance=wire.Instance(id="x" * 900_000))
    assert (await client.unary("RegisterInstance", request)).lease_seconds == os.getpid()


async def test_data_in_crumbs_ends_the_connection(server: GrpcServer, short_dir: Path) -> None:
    raw = RawClient(short_dir / "s")
    raw.begin()
    raw.h2.send_data(1, message(b"", length=500_000))
    for _ in range(2_000):
        raw.h2.send_data(1, b"x")
    with suppress(ConnectionError):
        await raw.flush()
    assert await closed(raw)


async def test_frames_without_anything_in_them_are_not_kept(server: GrpcServer, short_dir: Path) -> None:
    raw = RawClient(short_dir / "s")
    raw.begin()
    for _ in range(20_000):
        raw.h2.send_data(1, b"")
    await raw.flush()
    assert (await raw.call(message(b"")))["grpc-status"] == "0"
    [connection] = server._connections
    assert connection.processor.streams[1].buffer._unacked.qsize() == 0
    raw.socket.close()


async def test_answers_that_nobody_reads_end_the_connection(
    server: GrpcServer, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "MAX_UNREAD", 100_000)
    raw = RawClient(short_dir / "s")
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(60):
            while True:
                for _ in range(1000):
                    raw.h2.ping(b"12345678")
                await raw.flush()
    assert not server._connections
    raw.socket.close()


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::4", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("uid=0,pid=1", "uid=0,pid=1"),
    ],
)
def test_a_host_with_many_addresses_is_one_source(address: str, source: str) -> None:
    assert source_of(address) == source


async def test_frames_of_unknown_types_are_ignored(server: GrpcServer, short_dir: Path) -> None:
    raw = RawClient(short_dir / "s")
    await raw.flush(extra=b"\x00\x00\x02\xee\x00\x00\x00\x00\x00ab")
    assert (await raw.call(message(b"")))["grpc-status"] == "0"
    raw.socket.close()


async def test_an_unknown_method_is_unimplemented(server: GrpcServer, short_dir: Path) -> None:
    channel = unix_channel(short_dir / "s")
    with pytest.raises(VestibuleError, match="UNIMPLEMENTED"):
        await Client(channel, NODE).unary("DescribeService", wire.DescribeServiceRequest())
    channel.close()


async def test_streams_end_unavailable_when_the_server_stops(server: GrpcServer, client: Client) -> None:
    started = asyncio.Event()

    async def watch() -> None:
        async with client.stream("Watch") as stream:
            await stream.send_message(wire.WatchRequest(), end=True)
            await stream.recv_message()
            started.set()
            await stream.recv_message()

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(started.wait(), 60)
    await server.close()
    with pytest.raises(VestibuleError) as end:
        await asyncio.wait_for(watching, 60)
    assert end.value.code is SHUTTING_DOWN


async def test_grpc_works_over_an_already_connected_socket() -> None:
    """As with a descriptor that a supervisor hands down to the agent that it starts."""
    ours, theirs = socket.socketpair()
    server = GrpcServer([serve(SUPERVISOR, Supervisor())])
    closed = await server.adopt(ours)
    channel = connected_channel(theirs)
    grants = Client(channel, SUPERVISOR)
    for _ in range(3):
        await grants.unary("Grant", wire.GrantRequest(service="payments"))
    channel.close()
    await asyncio.wait_for(closed.wait(), 60)
    with pytest.raises(VestibuleError) as refusal:
        await grants.unary("Grant", wire.GrantRequest(service="payments"))
    assert refusal.value.code is UNREACHABLE
    await server.close()


async def test_a_connected_channel_says_when_its_server_is_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    channel = connected_channel(theirs)
    with pytest.raises(VestibuleError) as refusal:
        await Client(channel, SUPERVISOR).unary("Grant", wire.GrantRequest(), timeout=60)
    assert refusal.value.code is UNREACHABLE
    channel.close()


async def test_a_silent_caller_that_was_never_used_closes_cleanly() -> None:
    ours, theirs = socket.socketpair()
    connected_channel(theirs).close()
    assert ours.recv(1) == b""
    ours.close()
