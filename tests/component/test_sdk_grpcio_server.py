"""Google's gRPC server with our SVID, by threads and by asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from tests.component.mtls_lab import DEADLINE, Pair, pair, until

from vestibule.errors import VestibuleError
from vestibule.sdk import SpiffeId, authorize_ids
from vestibule.sdk.grpcio import AioCallers, Callers, caller, server_credentials, server_options

STRANGER = SpiffeId.parse("spiffe://example.org/stranger")


class Threads(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()

    def service(self, details: Any) -> Any:
        if details.method == "/t/Watch":
            return grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.unary_unary_rpc_method_handler(lambda _, context: str(caller(context)).encode())

    def watch(self, _request: bytes, context: Any) -> Iterator[bytes]:
        yield str(caller(context)).encode()
        self.began.set()
        self.go.wait(DEADLINE)


class Coroutines(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        if details.method == "/t/Watch":
            return grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.unary_unary_rpc_method_handler(self.hello)

    async def hello(self, _request: bytes, context: Any) -> bytes:
        return str(caller(context)).encode()

    async def watch(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield str(caller(context)).encode()
        await asyncio.get_running_loop().create_future()


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        # grpcio looks for a host name in the certificate of a server.
        made.serving.issue(dns_names=("localhost",))
        await until(lambda: b"localhost" in made.payments.svid.chain[0])
        yield made


@asynccontextmanager
async def channel(two: Pair, port: int) -> AsyncIterator[Any]:
    svid = two.orders.svid
    key = load_der_private_key(svid.key, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    roots = b"".join(map(_pem, two.orders.bundle("example.org").x509_authorities))
    credentials = grpc.ssl_channel_credentials(roots, pem, b"".join(map(_pem, svid.chain)))
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as made:
        yield made


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


@asynccontextmanager
async def threads(two: Pair, handler: Threads, *wanted: SpiffeId) -> AsyncIterator[int]:
    callers = Callers(two.payments, authorize_ids(*(wanted or (two.caller,))))
    server = grpc.server(
        ThreadPoolExecutor(4),
        interceptors=[callers],
        options=server_options(two.payments),
        handlers=[handler],
    )
    port = server.add_secure_port("127.0.0.1:0", server_credentials(two.payments))
    server.start()
    try:
        yield port
    finally:
        handler.go.set()
        await asyncio.to_thread(server.stop(0).wait)


@asynccontextmanager
async def coroutines(two: Pair, *wanted: SpiffeId) -> AsyncIterator[int]:
    callers = AioCallers(two.payments, authorize_ids(*(wanted or (two.caller,))))
    server = grpc.aio.server(
        interceptors=[callers], options=server_options(two.payments), handlers=[Coroutines()]
    )
    port = server.add_secure_port("127.0.0.1:0", server_credentials(two.payments))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def hello(made: Any) -> str:
    return str((await made.unary_unary("/t/Hello")(b"", timeout=DEADLINE)).decode())


async def test_methods_of_threads_know_who_calls_and_strangers_are_denied(two: Pair) -> None:
    async with threads(two, Threads()) as port, channel(two, port) as made:
        assert await hello(made) == str(two.caller)
    async with threads(two, Threads(), STRANGER) as port, channel(two, port) as made:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await hello(made)
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "VST2404" in str(raised.value.details())


async def test_coroutines_know_who_calls_and_strangers_are_denied(two: Pair) -> None:
    async with coroutines(two) as port, channel(two, port) as made:
        assert await hello(made) == str(two.caller)
    async with coroutines(two, STRANGER) as port, channel(two, port) as made:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await hello(made)
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_of_threads_ends_when_the_identity_is_withdrawn_and_calls_are_refused(
    two: Pair,
) -> None:
    async with threads(two, handler := Threads()) as port, channel(two, port) as made:
        stream = made.unary_stream("/t/Watch")(b"", timeout=DEADLINE)
        assert (await stream.read()).decode() == str(two.caller)
        await until(handler.began.is_set)
        two.serving.withdraw()
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError, match="VST2402"):
            await hello(made)


async def test_a_stream_of_coroutines_ends_with_unavailable_when_the_identity_is_withdrawn(two: Pair) -> None:
    async with coroutines(two) as port, channel(two, port) as made:
        stream = made.unary_stream("/t/Watch")(b"", timeout=DEADLINE)
        assert (await stream.read()).decode() == str(two.caller)
        two.serving.withdraw()
        with pytest.raises(grpc.aio.AioRpcError, match="VST2402") as raised:
            await stream.read()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_an_interceptor_nobody_calls() -> None:
    with pytest.raises(VestibuleError, match="VST2440"):
        caller(object())
