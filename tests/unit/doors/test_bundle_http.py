"""The bundle endpoint: what strangers get from it, and how little they can take."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from vestibule.doors.bundle_http import MAX_REQUEST, BundleEndpoint, BundlePage
from vestibule.net.listen import listen_tcp
from vestibule.net.tls import EndpointTls
from vestibule.pki.bundles import from_jwks
from vestibule.testing import TestAuthority

# asyncio complains of transports whose TLS was cut in the middle; they are let go of below, in these tests.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning"
)
AUTHORITY = TestAuthority("example.org")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@asynccontextmanager
async def serving(tls: EndpointTls | None = None, **limits: Any) -> AsyncIterator[tuple[int, BundlePage]]:
    page = BundlePage(lambda: AUTHORITY.jwt_bundle)
    sock: socket.socket = listen_tcp("127.0.0.1", 0)
    context = (tls or EndpointTls(AUTHORITY.svid("/spire/server"))).context
    endpoint = BundleEndpoint(page, sock, context, **limits)
    task = asyncio.create_task(endpoint.run())
    try:
        yield sock.getsockname()[1], page
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sock.close()
        await asyncio.sleep(0.01)
        gc.collect()
        await asyncio.sleep(
            0.01
        )  # transports that were aborted close themselves in the next turns of the loop


async def ask(port: int, request: bytes = GET) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anybody(), server_hostname="")
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_one_request_gets_the_bundle_and_the_connection_ends() -> None:
    async with serving() as (port, page):
        answer = await ask(port, GET + GET)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-type: application/json" in head.lower()
    assert body == page.document()
    assert from_jwks(AUTHORITY.trust_domain, body) == AUTHORITY.jwt_bundle


def test_it_serves_on_the_event_loop_of_the_program_too() -> None:
    async def main() -> bytes:
        async with serving() as (port, _):
            await ask(port, b"garbage\r\n\r\n")
            return await ask(port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert b" 200 " in runner.run(main())


async def test_a_certificate_is_neither_asked_for_nor_needed() -> None:
    tls = EndpointTls(AUTHORITY.svid("/spire/server"))
    assert tls.context.verify_mode is ssl.CERT_NONE
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_renewed_svid_is_shown_from_the_next_handshake_on() -> None:
    first, second = AUTHORITY.svid("/spire/server"), AUTHORITY.svid("/spire/server")
    tls = EndpointTls(first)
    async with serving(tls) as (port, _):
        assert await shown(port) == first.chain[0]
        tls.update(second)
        assert await shown(port) == second.chain[0]


async def shown(port: int) -> bytes:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anybody(), server_hostname="")
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return found
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\r\n\r\n",
        b"garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (2 * MAX_REQUEST),
        b"\x00\xff" * 1000,
    ],
    ids=["nothing", "blank", "garbage", "huge", "binary"],
)
async def test_what_is_no_request_ends_the_connection_and_nothing_else(request_: bytes) -> None:
    async with serving(seconds=0.5) as (port, _):
        with suppress(OSError):  # cut while we were still sending
            assert b"200" not in await ask(port, request_)
        async with asyncio.timeout(60):
            while b" 200 " not in await ask(port):  # cut, too, where the machine stands still for as long
                continue


async def test_who_is_slow_is_cut() -> None:
    async with serving(seconds=0.3) as (port, _):
        assert await ask(port, b"GET / HT") == b""
        # Nor is a handshake waited for.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_one_host_leaves_room_for_others_and_all_together_have_a_limit() -> None:
    async with serving(of_one=2, connections=3, seconds=5.0) as (port, _):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 60) == b"", "refused before its handshake"
        writer.close()
        for _, other in held:
            other.close()
        async with asyncio.timeout(60):
            while True:
                try:
                    assert b" 200 " in await ask(port)
                except (OSError, AssertionError):
                    await asyncio.sleep(0.02)
                else:
                    break


def test_f6_the_hint_that_is_served_may_be_another_than_the_bundles_own() -> None:
    bundle = replace(AUTHORITY.bundle, refresh_hint=5760, sequence=7)
    own, other = BundlePage(lambda: bundle), BundlePage(lambda: bundle, refresh_hint=300)
    assert json.loads(own.document())["spiffe_refresh_hint"] == 5760
    assert json.loads(other.document())["spiffe_refresh_hint"] == 300
    assert json.loads(other.document())["spiffe_sequence"] == 7


def test_b2_a_changed_bundle_is_another_document_with_a_higher_sequence() -> None:
    bundles = [replace(AUTHORITY.bundle, sequence=1), replace(AUTHORITY.jwt_bundle, sequence=2)]
    page = BundlePage(lambda: bundles[0])
    before = page.document()
    assert page.document() is before, "made once"
    bundles.pop(0)
    assert json.loads(page.document())["spiffe_sequence"] > json.loads(before)["spiffe_sequence"]
