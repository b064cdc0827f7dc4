"""Connections that never finish their TLS handshake are counted, per host and altogether."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest

from vestibule.net.handshakes import TlsListener
from vestibule.net.listen import listen_tcp
from vestibule.net.tls import ServerTls, client_context
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing import TestAuthority

DOMAIN = TrustDomain.parse("example.org")


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def listening(**limits: float) -> AsyncIterator[tuple[TlsListener, int, TestAuthority]]:
    authority = TestAuthority(DOMAIN)
    tls = ServerTls(authority.svid(SpiffeId.of(DOMAIN, "/spire/server")), authority.bundle)
    sock = listen_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listener = TlsListener(sock, tls.context, Greeting, **limits)  # type: ignore[arg-type]
    listener.start()
    try:
        yield listener, port, authority
    finally:
        listener.close()


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


async def greeted(port: int, authority: TestAuthority) -> bool:
    context = client_context(None, authority.bundle)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="x")
    except OSError:
        return False
    found = await reader.read(10)
    writer.close()
    return found == b"hello"


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def test_whoever_finishes_is_served_and_not_counted_any_more() -> None:
    async with listening() as (listener, port, authority):
        assert await greeted(port, authority)
        await until(lambda: listener.unfinished == 0)


async def test_one_host_has_so_many_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with listening(per_source=3) as (listener, port, authority):
        waiting = [silent(port) for _ in range(3)]
        await until(lambda: listener.unfinished == 3)
        assert not await greeted(port, authority)
        assert not await greeted(port, authority)
        assert caplog.text.count("unfinished TLS handshakes") == 1
        # Room again as soon as one of them leaves.
        waiting.pop().close()
        await until(lambda: listener.unfinished == 2)
        assert await greeted(port, authority)
        for each in waiting:
            each.close()


async def test_all_together_have_so_many_and_no_more() -> None:
    async with listening(altogether=2) as (listener, port, authority):
        waiting = [silent(port) for _ in range(2)]
        await until(lambda: listener.unfinished == 2)
        assert not await greeted(port, authority)
        for each in waiting:
            each.close()
        await until(lambda: listener.unfinished == 0)
        assert await greeted(port, authority)


async def test_nobody_keeps_a_place_for_longer_than_the_handshake_may_take() -> None:
    async with listening(per_source=1, timeout=0.3) as (listener, port, authority):
        with closing(silent(port)):
            await until(lambda: listener.unfinished == 1)
            await until(lambda: listener.unfinished == 0)
            async with asyncio.timeout(60):
                while not await greeted(port, authority):  # not in time, where the machine stands still
                    continue


async def test_noise_instead_of_a_handshake_costs_its_sender_the_connection() -> None:
    async with listening() as (listener, port, authority):
        with closing(silent(port)) as noise:
            noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: listener.unfinished == 0)
        assert await greeted(port, authority)


@pytest.mark.parametrize("turns", range(6))
async def test_closing_leaves_no_connection_open_however_far_it_has_come(turns: int) -> None:
    async with listening() as (listener, port, _):
        await asyncio.sleep(0)
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            listener.close()
            client.setblocking(False)
            with suppress(ConnectionError):
                async with asyncio.timeout(60):
                    assert not await asyncio.get_running_loop().sock_recv(client, 1)
    gc.collect()
