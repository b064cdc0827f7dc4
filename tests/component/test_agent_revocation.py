"""What is revoked, from the operator's word to the agent's workloads and their libraries."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.component.test_agent import ME, TD, Field, Running, a_world, anything

from vestibule.agent.codes import AGENT_IS_BANNED, NO_IDENTITY
from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.unix import unix_channel
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.certificates import load_certificate
from vestibule.pki.revocation import revoked, verify_unrevoked
from vestibule.sdk import X509Source, authorize_member_of, client_context, peer_id, server_context
from vestibule.sdk.codes import NO_SVID
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import revocation_pb2 as wire

ADMIN = wire.DESCRIPTOR.services_by_name["RevocationAdmin"]
WEB, DB = SpiffeId.of(TD, "/web"), SpiffeId.of(TD, "/db")


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def revoke(world: Field, **fields: Any) -> Any:
    return await world.server.call(ADMIN, "Revoke", wire.RevokeRequest(**fields))


async def lift(world: Field, spiffe_id: SpiffeId) -> Any:
    return await world.server.call(ADMIN, "Lift", wire.LiftRequest(identity=str(spiffe_id)))


def address(agent: Running) -> str:
    return f"unix://{agent.settings.socket_path}"


async def until(holds: Any, seconds: float = 10) -> float:
    """Poll until it holds; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_a_revoked_identity_is_withdrawn_from_its_workloads_and_comes_back_when_lifted(
    world: Field,
) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    before = await agent.until(anything)
    async with agent.api() as api, aclosing(api.watch()) as seen:
        await anext(seen)
        await revoke(world, identity=str(WEB))
        with pytest.raises(VestibuleError) as end:
            async with asyncio.timeout(60):
                await anext(seen)
    assert end.value.code is NO_IDENTITY
    with pytest.raises(VestibuleError):
        await agent.fetch()
    await lift(world, WEB)
    after = await agent.until(anything)
    assert after.svids[0].serial != before.svids[0].serial


async def test_with_allow_new_the_agent_replaces_what_was_issued_before_at_once(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    before = (await agent.until(anything)).svids[0]
    response = await revoke(world, identity=str(WEB), allow_new=True)
    after = (await agent.until(lambda found: found.svids[0].serial != before.serial)).svids[0]
    issued_before = datetime.fromtimestamp(response.revocations[0].issued_before, UTC)
    assert before.not_before < issued_before <= after.not_before


async def test_the_library_refuses_a_revoked_peer_in_the_handshake(world: Field) -> None:
    one, two = await world.agent(), await world.agent(await world.first_settings("b"))
    await world.server.entry(one.id, "/web", ME)
    await world.server.entry(two.id, "/db", ME)
    await one.until(anything)
    await two.until(anything)
    async with X509Source(address(one)) as web, X509Source(address(two)) as db:
        anyone = authorize_member_of(TD)

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(str(peer_id(writer.get_extra_info("ssl_object"))).encode())
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server_context(db, anyone))
        port = server.sockets[0].getsockname()[1]

        async def call() -> bytes:
            context = client_context(web, anyone)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                return await reader.read()
            finally:
                writer.close()

        try:
            assert await call() == str(WEB).encode()
            await revoke(world, identity=str(DB), reason="keyCompromise")
            await until(lambda: len(web.revocations) == 1)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await call()
            with pytest.raises(VestibuleError) as own:
                _ = db.svid
            assert own.value.code is NO_SVID
        finally:
            server.close()


async def test_a_library_keeps_the_list_while_its_agent_is_away_and_catches_up(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with X509Source(address(agent)) as source:
        await revoke(world, identity=str(DB))
        await until(lambda: len(source.revocations) == 1)
        await agent.stop()
        await revoke(world, identity=str(DB) + "/2")
        assert len(source.revocations) == 1
        await world.agent(await world.settings())
        await until(lambda: len(source.revocations) == 2, 45)


async def test_an_agent_without_identities_for_a_process_tells_it_nothing(world: Field) -> None:
    agent = await world.agent()
    channel = unix_channel(agent.settings.socket_path)
    try:
        with pytest.raises(VestibuleError) as refused:
            await anext(RevocationFeed(channel).watch(0))
    finally:
        channel.close()
    assert refused.value.code is NO_IDENTITY


async def test_a_token_of_a_revoked_identity_is_refused_and_fetched_no_more(world: Field) -> None:
    agent, other = await world.agent(), await world.agent(await world.first_settings("b"))
    await world.server.entry(agent.id, "/web", ME)
    await world.server.entry(other.id, "/db", ME)
    await agent.until(anything)
    await other.until(anything)
    async with agent.api() as web, other.api() as db:
        [token] = await web.fetch_jwt_svids(["db"])
        await db.validate_jwt_svid(token.token, "db")
        await revoke(world, identity=str(WEB))

        async def refused() -> bool:
            try:
                await db.validate_jwt_svid(token.token, "db")
            except VestibuleError as error:
                return "was revoked" in error.message
            return False

        async with asyncio.timeout(60):
            while not await refused():
                await asyncio.sleep(0.01)
        with pytest.raises(VestibuleError) as gone:
            await web.fetch_jwt_svids(["db"])
        assert gone.value.code is NO_IDENTITY


async def test_a_revoked_agent_ends_and_its_tokens_and_certificates_count_nowhere(world: Field) -> None:
    agent, other = await world.agent(), await world.agent(await world.first_settings("b"))
    await world.server.entry(agent.id, "/web", ME)
    await world.server.entry(other.id, "/db", ME)
    svid = (await agent.until(anything)).svids[0]
    mine = (await other.until(anything)).svids[0]
    async with agent.api() as web:
        [token] = await web.fetch_jwt_svids(["db"])
    await revoke(world, agent=str(agent.id))
    async with asyncio.timeout(60):
        with pytest.raises(VestibuleError) as end:
            await agent.task
    assert end.value.code is AGENT_IS_BANNED
    assert not (agent.settings.data_dir / "holdings.sealed").exists()
    assert not (agent.settings.data_dir / "revocations.sealed").exists()
    async with X509Source(address(other)) as source:
        marks = {load_certificate(svid.chain[0]).serial_number >> 64}
        assert all(source.revocations.of_mark(each, datetime.now(UTC)) for each in marks)
    async with other.api() as db:
        with pytest.raises(VestibuleError, match="was revoked"):
            await db.validate_jwt_svid(token.token, "db")
    # What others fetched goes on.
    assert (await other.fetch()).svids[0] == mine


async def test_the_list_is_enforced_after_a_restart_during_an_outage(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await world.server.entry(agent.id, "/db", ME)
    await agent.until(lambda found: len(found.svids) == 2)
    await revoke(world, identity=str(DB))
    await agent.until(lambda found: len(found.svids) == 1)
    file = agent.settings.data_dir / "revocations.sealed"
    await until(file.exists)
    await agent.stop()
    await world.server.stop()
    again = await world.agent(await world.settings())
    found = await again.fetch()
    assert [each.spiffe_id for each in found.svids] == [WEB]
    async with X509Source(address(again)) as source:
        assert source.revocations.issuing(DB, datetime.now(UTC))
    assert str(DB).encode() not in file.read_bytes()


async def test_what_was_revoked_during_an_outage_of_the_connection_holds_when_it_is_over(
    world: Field,
) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    await agent.stop()
    await revoke(world, identity=str(WEB))
    again = await world.agent(await world.settings())
    async with asyncio.timeout(60):
        while True:
            try:
                await again.fetch()
            except VestibuleError as error:
                if error.code is NO_IDENTITY:
                    break
            await asyncio.sleep(0.02)


async def test_a_damaged_list_is_fetched_anew_before_anybody_is_served(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    await revoke(world, identity=str(DB))
    file = agent.settings.data_dir / "revocations.sealed"
    await until(file.exists)
    await agent.stop()
    damaged = file.read_bytes()[:-1] + b"\0"
    file.write_bytes(damaged)
    again = await world.agent(await world.settings())
    async with X509Source(address(again)) as source:
        await until(lambda: len(source.revocations) == 1)
    await until(lambda: file.read_bytes() != damaged)


def test_an_empty_list_says_nothing() -> None:
    assert not Revocations()


async def test_an_authority_is_revoked_without_a_failed_handshake_for_those_who_are_not_meant(
    world: Field,
) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with X509Source(address(agent)) as source:
        anyone, stop, calls = authorize_member_of(TD), asyncio.Event(), 0

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=server_context(source, anyone))
        port = server.sockets[0].getsockname()[1]

        async def traffic() -> int:
            made = 0
            while not stop.is_set():
                context = client_context(source, anyone)
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                assert await reader.read() == b"hello"
                writer.close()
                made += 1
                await asyncio.sleep(0.02)
            return made

        before = source.svid
        load = asyncio.create_task(traffic())
        try:
            crl = await world.server.call(ADMIN, "GetCrl", wire.GetCrlRequest())
            authority = wire.RevokeRequest.Authority(id=crl.authority_id)
            order = wire.RevokeRequest(authority=authority, reason="cACompromise", grace_seconds=6)
            channel = unix_channel(world.server.socket)
            try:
                await Client(channel, ADMIN).unary("Revoke", order, timeout=60)
            finally:
                channel.close()
            await until(lambda: len(source.revocations) == 1)
            await until(lambda: len(source.context.bundles[0].x509_authorities) == 1)
            await asyncio.sleep(0.2)
        finally:
            stop.set()
            calls = await load
            server.close()
        assert calls > 50
        assert source.svid.serial != before.serial
        with pytest.raises(VestibuleError):
            verify_unrevoked(before.chain, source.context.bundles[0], datetime.now(UTC), source.revocations)
        # Also by whoever has not heard of the bundle yet, but of the revocation.
        assert revoked(source.revocations, before.chain, datetime.now(UTC))
