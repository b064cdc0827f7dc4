"""Servers of asyncio's streams with library mTLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tests.component.mtls_lab import AT_ONCE, DEADLINE, Pair, pair, until

from vestibule.sdk import SpiffeId, authorize_ids, reason
from vestibule.sdk.codes import NO_SVID
from vestibule.sdk.streams import StreamServer, caller, retiring, start_server


class Line:
    """Says who is there, then stays until the other side leaves, or is told to."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.told = asyncio.Event()
        self.lines = 0
        self.calls = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{caller(writer)}\n".encode())
        self.lines += 1
        self.calls += 1
        try:
            if await reader.readline() == b"until told\n":
                await retiring(writer).wait()
                writer.write(b"come again\n")
        except ConnectionError as error:
            self.failures.append(error)
            raise
        finally:
            self.lines -= 1


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


@asynccontextmanager
async def served(two: Pair, line: Line, *wanted: SpiffeId, **options: Any) -> AsyncIterator[StreamServer]:
    authorize = authorize_ids(*(wanted or (two.caller,)))
    async with await start_server(line.answer, "127.0.0.1", 0, two.payments, authorize, **options) as server:
        yield server


@asynccontextmanager
async def connected(
    server: StreamServer, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_a_handler_knows_who_is_there(two: Pair) -> None:
    async with served(two, Line()) as server, connected(server, two.context()) as (reader, _):
        assert await reader.readline() == f"{two.caller}\n".encode()


async def test_a_stranger_does_not_get_as_far_as_the_handler(two: Pair) -> None:
    stranger = SpiffeId.parse("spiffe://example.org/stranger")
    async with served(two, line := Line(), stranger) as server:
        # With TLS 1.3 a client hears of its refusal when it reads.
        with suppress(OSError):
            async with connected(server, two.context()) as (reader, _):
                assert await reader.readline() == b""
    assert line.calls == 0


async def test_a_retired_connection_is_told_and_ends_itself(two: Pair) -> None:
    told: list[SpiffeId] = []
    options = {"lifetimes": AT_ONCE, "on_retire": lambda writer: told.append(caller(writer))}
    async with served(two, Line(), **options) as server, connected(server, two.context()) as (reader, writer):
        writer.write(b"until told\n")
        async with asyncio.timeout(DEADLINE):
            assert (await reader.read()).splitlines()[1:] == [b"come again"]
    assert told == [two.caller]


async def test_a_connection_is_cut_with_a_reason_when_our_identity_is_withdrawn(two: Pair) -> None:
    async with served(two, line := Line()) as server, connected(server, two.context()) as (reader, _):
        await reader.readline()
        two.serving.withdraw()
        async with asyncio.timeout(DEADLINE):
            with suppress(OSError):
                assert await reader.read() == b""
        await until(lambda: bool(line.failures))
        found = reason(line.failures[0])
        assert found is not None
        assert found.code is NO_SVID


async def test_stopping_asks_first_and_cancels_those_that_stay(two: Pair) -> None:
    line = Line()
    async with (
        served(two, line) as server,
        connected(server, two.context()) as (reader, writer),
        connected(server, two.context()) as (stays, _),
    ):
        await reader.readline()
        await stays.readline()
        writer.write(b"until told\n")
        await writer.drain()
        server.close()
        assert await asyncio.wait_for(reader.readline(), DEADLINE) == b"come again\n"
        assert line.lines == 1
        await server.wait_closed(grace=0)
        with suppress(OSError):
            assert await asyncio.wait_for(stays.read(), DEADLINE) == b""
    assert line.lines == 0


async def test_a_handler_that_fails_is_reported_and_takes_nobody_with_it(two: Pair) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def fail(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise RuntimeError("a bug")

    line = Line()
    line.answer = fail  # type: ignore[assignment,method-assign]
    async with served(two, line) as server:
        for _ in range(2):
            async with connected(server, two.context()) as (reader, _):
                assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
    assert [str(each["exception"]) for each in told] == ["a bug", "a bug"]
