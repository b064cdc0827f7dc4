"""The SDK beside a real agent and a real server: what an application lives through."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.component.test_agent import ME, TD, Field, Running, a_world, anything

from vestibule.errors import VestibuleError
from vestibule.sdk import (
    Connection,
    SpiffeId,
    X509Source,
    authorize_ids,
    client_context,
    fetch_x509_context,
    peer_id,
    server_context,
)
from vestibule.sdk.codes import NO_SVID

WEB = SpiffeId.of(TD, "/web")
DEADLINE = 60.0


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@pytest.fixture
async def agent(world: Field) -> Running:
    return await world.agent()


def address(agent: Running) -> str:
    return f"unix://{agent.settings.socket_path}"


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answers each line with the peer's SPIFFE ID."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.readline():
                writer.write(f"{peer_id(writer.get_extra_info('ssl_object'))}\n".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ask(port: int, context: ssl.SSLContext) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    try:
        writer.write(b"who am I?\n")
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


async def test_certificates_of_seconds_rotate_while_two_applications_talk(
    world: Field, agent: Running
) -> None:
    await world.server.entry(agent.id, "/web", ME, ttl=8)
    async with asyncio.timeout(DEADLINE), X509Source(address(agent)) as source:
        calling = client_context(source, authorize_ids(WEB))
        seen = {source.svid.serial}
        async with echo(server_context(source, authorize_ids(WEB))) as port:
            while len(seen) < 4:
                assert await ask(port, calling) == str(WEB)
                seen.add(source.svid.serial)
                await asyncio.sleep(0.05)


async def test_an_identity_that_is_created_later_is_waited_for(world: Field, agent: Running) -> None:
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        entering = tasks.create_task(X509Source(address(agent)).__aenter__())
        await world.server.entry(agent.id, "/web", ME)
        source = await entering
        assert source.svid.spiffe_id == WEB
        await source.__aexit__(None, None, None)


async def test_a_deleted_entry_takes_the_identity_away_and_a_new_one_gives_it_back(
    world: Field, agent: Running
) -> None:
    entry = await world.server.entry(agent.id, "/web", ME)
    async with asyncio.timeout(DEADLINE), X509Source(address(agent)) as source:
        context = client_context(source, authorize_ids(WEB))
        async with echo(server_context(source, authorize_ids(WEB))) as port:
            assert await ask(port, context) == str(WEB)
            await world.server.delete_entry(entry)
            while source.problem is None:
                await asyncio.sleep(0.02)
            with pytest.raises(VestibuleError) as raised:
                source.svid  # noqa: B018
            assert raised.value.code is NO_SVID
            with pytest.raises(ssl.SSLError, match="VST2402"):
                await ask(port, context)
            await world.server.entry(agent.id, "/web", ME)
            async for _ in source.changes():
                break
            assert await ask(port, context) == str(WEB)


async def test_a_withdrawn_identity_ends_the_connections_that_were_made_with_it(
    world: Field, agent: Running
) -> None:
    entry = await world.server.entry(agent.id, "/web", ME)
    reasons: list[str] = []
    over = asyncio.Event()
    async with asyncio.timeout(DEADLINE), X509Source(address(agent)) as source:

        async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def cut(_: Connection, reason: VestibuleError) -> None:
                reasons.append(reason.code.code)
                writer.transport.abort()

            tls = writer.get_extra_info("ssl_object")
            watch = source.connections.watch(tls, retire=lambda _: None, cut=cut)
            writer.write(b"welcome\n")
            with suppress(OSError):
                await reader.read()
            assert watch.over
            over.set()

        context = client_context(source, authorize_ids(WEB))
        async with await asyncio.start_server(
            keep, "127.0.0.1", 0, ssl=server_context(source, authorize_ids(WEB))
        ) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
            assert await reader.readline() == b"welcome\n"
            await world.server.delete_entry(entry)
            with suppress(OSError):
                assert await reader.read() == b""
            await over.wait()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    assert reasons == [NO_SVID.code]


async def test_an_agent_that_restarts_is_followed_again(world: Field, agent: Running) -> None:
    await world.server.entry(agent.id, "/web", ME, ttl=6)
    async with asyncio.timeout(DEADLINE), X509Source(address(agent)) as source:
        serial = source.svid.serial
        await agent.stop()
        await world.agent(agent.settings)
        async for context in source.changes():
            if context.svids[0].serial != serial:
                break
        assert source.svid.spiffe_id == WEB


async def test_one_question_one_answer(world: Field, agent: Running) -> None:
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    context = await fetch_x509_context(address(agent))
    assert [svid.spiffe_id for svid in context.svids] == [WEB]
