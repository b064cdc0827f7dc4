"""What an agent and its workloads survive, with a real server that goes away and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.component.server_lab import Agent, Lab, grpc_error, running, short_directory
from tests.component.test_agent import ME, Field, Running, a_world, anything, wire_id

from vestibule.agent.codes import AGENT_IS_BANNED, CANNOT_JOIN, NOT_READY
from vestibule.calls.codes import NOT_LET_BACK
from vestibule.calls.presence import PresenceApi
from vestibule.calls.unix import unix_channel
from vestibule.doors.agent_admin import SERVICE as AGENT_ADMIN
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_from_pkcs8, public_key_der
from vestibule.pki.possession import Statement, sign_statement
from vestibule.spiffe import X509Svid
from vestibule.wire.gen.spire import agent_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.node.v1 import presence_pb2 as wire

SHORT = timedelta(seconds=3)


async def status_of(agent: Running) -> admin_pb2.AgentStatus:
    channel = unix_channel(agent.settings.admin_socket_path)
    try:
        found: admin_pb2.AgentStatus = await Client(channel, AGENT_ADMIN).unary(
            "GetStatus", admin_pb2.GetAgentStatusRequest()
        )
        return found
    finally:
        channel.close()


async def until_expired(agent: Running) -> None:
    """Until the agent's own SVID, and everybody's, is over."""
    async with asyncio.timeout(60):
        while (await status_of(agent)).svid_expires_at >= datetime.now(UTC).timestamp() - 1:
            await asyncio.sleep(0.1)


# ------------------------------------------------------------------------------- the agent comes back


async def test_an_agent_outlives_its_own_svid_and_comes_back_alone() -> None:
    async with a_world(agent_ttl=SHORT) as world:
        agent = await world.agent()
        await world.server.entry(agent.id, "/web", ME, ttl=3)
        await agent.until(anything)
        await world.server.stop()
        await until_expired(agent)
        with pytest.raises(VestibuleError) as refusal:
            await agent.fetch()
        assert refusal.value.code is NOT_READY
        await world.server.start()
        assert (await agent.until(anything)).svids[0].not_after > datetime.now(UTC)
        listed = await world.server.agent_call("ListAgents", agent_pb2.ListAgentsRequest(page_size=10))
        assert [each.id.path for each in listed.agents] == [agent.id.path], "it is the same agent"


async def test_an_agent_that_was_switched_off_comes_back_without_a_token() -> None:
    async with a_world(agent_ttl=SHORT) as world:
        agent = await world.agent()
        await agent.stop()
        await asyncio.sleep(SHORT.total_seconds() + 1)
        again = await world.agent(await world.settings())
        assert again.id == agent.id
        await world.server.entry(agent.id, "/web", ME)
        await again.until(anything)


async def test_an_agent_that_may_not_come_back_says_what_mends_it() -> None:
    async with a_world(agent_ttl=SHORT, return_grace=timedelta()) as world:
        agent = await world.agent()
        await agent.stop()
        await asyncio.sleep(SHORT.total_seconds() + 1)
        settings = await world.settings()
        again = await world.agent(settings)
        async with asyncio.timeout(60):
            while CANNOT_JOIN.code not in (told := (await status_of(again)).server_error):
                await asyncio.sleep(0.05)
        assert "VST1220" in told
        assert not again.task.done()


async def test_a_banned_agent_does_not_come_back() -> None:
    async with a_world(agent_ttl=SHORT) as world:
        agent = await world.agent()
        await agent.stop()
        await world.server.agent_call("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(agent.id)))
        await asyncio.sleep(SHORT.total_seconds() + 1)
        again = await world.agent(await world.settings())
        with pytest.raises(VestibuleError) as end:
            await asyncio.wait_for(again.task, 60)
        assert end.value.code is AGENT_IS_BANNED


async def test_a_server_that_began_anew_is_believed_on_the_operators_word_alone() -> None:
    async with a_world(agent_ttl=SHORT) as world:
        agent = await world.agent()
        await agent.stop()
        await world.server.stop()
        shutil.rmtree(world.directory / "server")
        await world.server.start()
        await asyncio.sleep(SHORT.total_seconds() + 1)
        # Its old bundle leads nowhere; the operator has put the new one and a token where the agent looks.
        settings = replace(await world.first_settings(), rebootstrap_delay=timedelta(seconds=1))
        again = await world.agent(settings)
        async with asyncio.timeout(60):
            while not (await status_of(again)).server_connected:
                await asyncio.sleep(0.05)
        assert (await status_of(again)).spiffe_id != str(agent.id)


# ------------------------------------------------------------------------------------------- gone for good


async def purge(world: Field, *options: str) -> list[str]:
    words = [sys.executable, "-m", "vestibule", "agent", "purge", "--server-socket", str(world.server.socket)]
    process = await asyncio.create_subprocess_exec(
        *words, "--output", "json", *options, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    document = json.loads(said)
    assert document["data"] is not None, document
    return [str(each) for each in document["data"]["agents"]]


async def test_agents_that_are_gone_are_purged_and_banned_ones_stay() -> None:
    async with a_world(agent_ttl=timedelta(seconds=2)) as world:
        gone = await world.agent()
        await gone.stop()
        banned = await world.agent(await world.first_settings("b"))
        await banned.stop()
        await world.server.agent_call("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(banned.id)))
        await asyncio.sleep(3)  # until theirs are over
        await world.server.stop()
        world.server.options = {}  # who joins from now on has an SVID for longer than the test takes
        await world.server.start()
        alive = await world.agent(await world.first_settings("c"))
        assert await purge(world, "--expired-for", "0s") == [], "they could not come back without a token"
        assert await purge(world, "--expired-for", "1h", "--tofu") == []
        assert await purge(world, "--expired-for", "0s", "--tofu", "--dry-run") == [str(gone.id)]
        assert await purge(world, "--expired-for", "0s", "--tofu") == [str(gone.id)]
        listed = await world.server.agent_call("ListAgents", agent_pb2.ListAgentsRequest(page_size=10))
        assert {each.id.path for each in listed.agents} == {alive.id.path, banned.id.path}


# -------------------------------------------------------------------------- on the wire, by a stranger


@asynccontextmanager
async def a_lab(**given: object) -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory, **given) as lab:
            yield lab


def proof_for(svid: X509Svid, challenge: bytes, leaf: bytes, csr: bytes) -> wire.ReturnRequest:
    statement = Statement(
        spiffe_id=svid.spiffe_id, serial=str(svid.serial), challenge=challenge, server_leaf=leaf, csr=csr
    )
    signature = sign_statement(statement, key_from_pkcs8(svid.key))
    return wire.ReturnRequest(proof=wire.ReturnRequest.Proof(signature=signature, csr=csr))


def hello_of(svid: X509Svid) -> wire.ReturnRequest:
    key = public_key_der(key_from_pkcs8(svid.key).public_key())
    hello = wire.ReturnRequest.Hello(spiffe_id=str(svid.spiffe_id), serial=str(svid.serial), public_key=key)
    return wire.ReturnRequest(hello=hello)


async def relayed(relay: Agent, svid: X509Svid) -> None:
    """What the agent answered to somebody who showed it another certificate, handed on at once."""
    client = Client(relay.channel, wire.DESCRIPTOR.services_by_name["Presence"])
    async with client.stream("Return", timeout=45) as stream:
        await stream.send_message(hello_of(svid))
        challenge = (await stream.recv_message()).challenge
        elsewhere = hashlib.sha256(b"another certificate").digest()
        await stream.send_message(proof_for(svid, challenge, elsewhere, make_csr(generate_key())))
        await stream.recv_message()


async def begun(client: Client, first: wire.ReturnRequest) -> None:
    async with client.stream("Return", timeout=45) as stream:
        await stream.send_message(first)
        await stream.recv_message()


async def test_a_proof_made_for_another_server_is_refused_however_fresh_it_is() -> None:
    async with a_lab() as lab:
        member = await lab.agent()
        assert member.svid is not None
        relay = await lab.stranger()
        with pytest.raises(VestibuleError) as caught:
            await relayed(relay, member.svid)
        assert caught.value.code.code == "VST1221"


async def test_the_holder_of_the_key_is_let_back_and_a_copy_of_the_key_before_is_not() -> None:
    async with a_lab() as lab:
        member = await lab.agent()
        assert member.svid is not None
        anonymous = await lab.stranger()
        presence = PresenceApi(anonymous.channel)
        assert len(await presence.come_back(member.svid, make_csr(generate_key()))) >= 1
        # The agent goes on: with a renewed SVID, which it uses.
        old, new = member.svid, await member.renew()
        member.use(new)
        await member.renew()
        with pytest.raises(VestibuleError) as caught:
            await presence.come_back(old, make_csr(generate_key()))
        assert caught.value.code is NOT_LET_BACK
        assert "VST1221" in caught.value.message


async def test_half_a_return_leads_to_nothing() -> None:
    async with a_lab() as lab:
        member = await lab.agent()
        assert member.svid is not None
        anonymous = await lab.stranger()
        client = Client(anonymous.channel, wire.DESCRIPTOR.services_by_name["Presence"])
        for first in (
            wire.ReturnRequest(),
            wire.ReturnRequest(hello=wire.ReturnRequest.Hello(spiffe_id="spiffe://example.org/web")),
            proof_for(member.svid, b"c" * 32, b"l" * 32, make_csr(generate_key())),
        ):
            with pytest.raises(VestibuleError) as caught:
                await begun(client, first)
            assert grpc_error(caught.value).status.name == "INVALID_ARGUMENT"
