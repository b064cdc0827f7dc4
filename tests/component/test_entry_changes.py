"""What a change of an entry costs the workloads: nothing, unless it is in the certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.component.test_agent import ME, Field, a_world, anything, wire_id

from vestibule.doors import entries_api
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def change(world: Field, entry: types_pb2.Entry, *fields: str, **extras: Any) -> None:
    wanted = entries_pb2.RegisteredEntry(entry=entry, extras=entries_pb2.EntryExtras(**extras))
    request = entries_pb2.UpdateRegisteredRequest(entries=[wanted], fields=fields)
    [result] = (await world.server.call(entries_api.SERVICE, "Update", request)).results
    assert result.status.code == 0, result.status.message


async def test_a_new_expiry_or_label_signs_nothing_anew_and_wakes_no_workload(world: Field) -> None:
    agent = await world.agent()
    entry = await world.server.entry(agent.id, "/web", ME)
    other = await world.server.entry(agent.id, "/other", "no:body")
    await agent.until(anything)
    log = world.directory / "server" / "audit.jsonl"

    def signed() -> int:
        return log.read_text().count('"svid.issue"')

    async with agent.api() as api, asyncio.timeout(60):
        contexts = api.watch()
        first = await anext(contexts)
        while signed() < 4:  # server, agent, and one for each entry
            await asyncio.sleep(0.02)
        before = signed()
        await change(world, types_pb2.Entry(id=entry, expires_at=int(time.time()) + 3600), "expires_at")
        await change(world, types_pb2.Entry(id=entry), "labels", labels={"team": "shop"})
        await change(world, types_pb2.Entry(id=other, expires_at=int(time.time()) + 3600), "expires_at")
        # What does change the certificate is the next message that the workload gets.
        await change(world, types_pb2.Entry(id=entry, dns_names=["web.example.org"]), "dns_names")
        second = await anext(contexts)
    assert second.svids[0].serial != first.svids[0].serial
    assert signed() == before + 1


async def test_a_passed_expiry_ends_the_stream_at_once_without_a_server(world: Field) -> None:
    agent = await world.agent()
    entry = await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    await change(world, types_pb2.Entry(id=entry, expires_at=int(time.time()) + 3), "expires_at")
    async with agent.api() as api, asyncio.timeout(60):
        contexts = api.watch()
        await anext(contexts)
        # The agent has the new end once the entry's revision came with it.
        service = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
        kept = await world.server.call(service, "GetEntry", entry_pb2.GetEntryRequest(id=entry))
        assert kept.expires_at
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="VST2105"):
            async for _ in contexts:
                pass


async def test_a_label_only_template_change_keeps_what_was_derived(world: Field) -> None:
    agent = await world.agent()
    entry = types_pb2.Entry(
        spiffe_id=wire_id(SpiffeId.parse("spiffe://example.org/people")),
        parent_id=wire_id(agent.id),
        selectors=[types_pb2.Selector(type="unix", value=ME.removeprefix("unix:"))],
    )
    extras = entries_pb2.EntryExtras(path_template="/people/{unix:user}")
    request = entries_pb2.CreateRegisteredRequest(
        entries=[entries_pb2.RegisteredEntry(entry=entry, extras=extras)]
    )
    [made] = (await world.server.call(entries_api.SERVICE, "Create", request)).results
    before = await agent.until(anything)
    await change(world, types_pb2.Entry(id=made.entry.entry.id), "labels", labels={"team": "shop"})
    listed = await world.server.call(
        entries_api.SERVICE,
        "List",
        entries_pb2.ListRegisteredRequest(
            filter=entries_pb2.RegisteredFilter(template_id=made.entry.entry.id, labels={"team": "shop"})
        ),
    )
    assert len(listed.entries) == 1
    assert (await agent.fetch()).svids[0].serial == before.svids[0].serial
