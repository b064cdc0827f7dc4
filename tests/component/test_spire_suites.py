"""What SPIRE's integration suites show and no other test of ours shows in one piece, on a real server and agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from tests.component.test_agent import ME, TD, Field, Running, a_world, anything, wire_id

from vestibule.agent.codes import NO_IDENTITY
from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.spiffe import SpiffeId, X509Svid
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2

ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
SHARD, POOL = SpiffeId.of(TD, "/node/shard"), SpiffeId.of(TD, "/node/pool")


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def joined(world: Field, alias: SpiffeId) -> SpiffeId:
    """An agent whose token gave it this further ID; its own one."""
    request = agent_pb2.CreateJoinTokenRequest(ttl=600, agent_id=wire_id(alias))
    token = str((await world.server.agent_call("CreateJoinToken", request)).value)
    settings = await world.first_settings()
    assert settings.join_token_file is not None
    settings.join_token_file.write_text(token)
    return (await world.agent(settings)).id


def dns_names(svid: X509Svid) -> list[str]:
    names = load_certificate(svid.chain[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)


async def test_entries_reach_a_workload_by_every_alias_and_follow_each_change(world: Field) -> None:
    """Suites join-token and entries: by a token's alias, by a node alias, updated, and deleted."""
    me = await joined(world, SHARD)
    [agent] = world.agents
    by_token = await world.server.entry(SHARD, "/by-token", ME)
    await agent.until(lambda found: [each.spiffe_id.path for each in found.svids] == ["/by-token"])

    # A further name for the agent, given later; below it, and below that, workloads.
    await world.server.entry(me, POOL.path, f"spiffe_id:{me}")
    by_alias = await world.server.entry(POOL, "/by-alias", ME)
    below = await world.server.entry(SpiffeId.of(TD, "/by-alias"), "/below", ME)
    await agent.until(lambda found: len(found.svids) == 3)
    await world.server.entry(SpiffeId.of(TD, "/node/another"), "/of-another", ME)

    changed = types_pb2.Entry(id=by_alias, dns_names=["db.example.org"])
    request = entry_pb2.BatchUpdateEntryRequest(
        entries=[changed], input_mask=types_pb2.EntryMask(dns_names=True)
    )
    answer = await world.server.call(ENTRY, "BatchUpdateEntry", request)
    assert answer.results[0].status.code == 0, answer.results[0].status.message
    found = await agent.until(lambda found: any(dns_names(each) for each in found.svids))
    assert {each.spiffe_id.path: dns_names(each) for each in found.svids} == {
        "/by-token": [],
        "/by-alias": ["db.example.org"],
        "/below": [],
    }

    # With the parent goes what was below it; with the last entry, every answer.
    await world.server.delete_entry(by_alias)
    await agent.until(lambda found: [each.spiffe_id.path for each in found.svids] == ["/by-token"])
    await world.server.delete_entry(below)
    await world.server.delete_entry(by_token)
    with pytest.raises(VestibuleError) as refusal:
        await withdrawn(agent)
    assert refusal.value.code is NO_IDENTITY


async def withdrawn(agent: Running) -> None:
    """Fetch until it fails."""
    async with asyncio.timeout(60):
        while True:
            await agent.fetch()
            await asyncio.sleep(0.02)


async def test_one_workload_gets_all_of_its_many_identities_at_once(world: Field) -> None:
    """Suite fetch-x509-svids, without its limit: nothing that somebody follows is ever left out or dropped."""
    agent = await world.agent()
    for number in range(10):
        await world.server.entry(agent.id, f"/w{number}", ME)
    await agent.until(lambda found: len(found.svids) == 10)
    async with agent.api() as api:
        followed = api.watch()
        assert len((await anext(followed)).svids) == 10
        await followed.aclose()
    assert len((await agent.until(anything)).svids) == 10
