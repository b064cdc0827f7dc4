"""Endpoints to be scanned: good ones, careless ones, and such as mean harm."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from vestibule.net.tls import load_svid, trust
from vestibule.posture import Target
from vestibule.spiffe import X509Svid
from vestibule.testing import TestAuthority

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def endpoint(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """A server while the block is entered; at its end every connection is aborted."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await handler(reader, writer)
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield Target(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says yes to everything."""
    if data := await reader.read(4096):
        writer.write(OK if b" HTTP/1.1\r\n" in data else b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Listens for as long as anybody speaks, and longer."""
    while await reader.read(4096):
        pass
    await asyncio.Event().wait()


async def noise(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes that are nothing."""
    writer.write(bytes(range(128, 256)) * 2)
    await writer.drain()


async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Records of TLS that never come to an end: pieces of one long message."""
    while True:
        writer.write((b"\x16\x03\x03\x40\x00\x02\x00\xff\xff" + bytes(16380)) * 4)
        await writer.drain()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The beginning of a record, a byte at a time."""
    for byte in b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb" + bytes(10_000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Nothing."""


def careless(
    authority: TestAuthority,
    svid: X509Svid,
    *,
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    clients: ssl.VerifyMode = ssl.CERT_NONE,
    ciphers: str = "ALL:@SECLEVEL=0",
) -> ssl.SSLContext:
    """Whatever is asked of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(context, svid)
    trust(context, authority.bundle.x509_authorities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is to be found
        context.minimum_version = lowest
        context.maximum_version = highest
    context.set_ciphers(ciphers)
    context.verify_mode = clients
    return context


def fresh(authority: TestAuthority) -> X509Svid:
    """The identity of the endpoints."""
    return authority.svid("/ns/prod/sa/web", now=datetime.now(UTC))
