"""What proxies are told, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from tests.unit.mesh.kept import KeptInstances
from tests.unit.mesh.test_discovery import FILES, at, identity, instance

from vestibule.intent import load_files
from vestibule.mesh import DirectorySource, Discovery, Publisher
from vestibule.mesh.revision import Revision
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock
from vestibule.testing.intents import AllAtOnce
from vestibule.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    ProxyKey,
    Resource,
    Snapshot,
)

WEB = ProxyKey(identity("web"), "i-1")
PAYMENTS = ProxyKey(identity("payments"), "i-2")


class Lifetimes:
    """``SvidLifetimes`` without a store."""

    def __init__(self) -> None:
        self.default = timedelta(hours=1)
        self.revision = Revision()
        self.ttls: dict[SpiffeId, timedelta] = {}


class Room:
    """A publisher and all that it follows."""

    def __init__(self) -> None:
        self.clock = clock = FakeClock()
        self.files = dict(FILES)
        self.source = DirectorySource(Path("intent"), clock, read=lambda _: load_files(self.files))
        self.intents = AllAtOnce(self.source)
        self.discovery = Discovery(KeptInstances(), self.intents, clock)
        self.lifetimes = Lifetimes()
        self.publisher = Publisher(self.intents, self.discovery, self.lifetimes, clock=clock)
        self._watches: dict[ProxyKey, AsyncIterator[Snapshot]] = {}

    async def next(self, proxy: ProxyKey) -> Snapshot:
        watch = self._watches.setdefault(proxy, self.publisher.watch(proxy))
        return await asyncio.wait_for(anext(watch), 5)

    async def quiet(self, proxy: ProxyKey) -> bool:
        """Nothing comes while everybody had their turn many times."""
        watch = self._watches.setdefault(proxy, self.publisher.watch(proxy))
        waiting = asyncio.ensure_future(anext(watch))
        for _ in range(50):
            await asyncio.sleep(0)
        if done := waiting.done():
            return not done
        waiting.cancel()
        del self._watches[proxy]
        return True

    async def edit(self, name: str, text: str | None) -> None:
        if text is None:
            del self.files[name]
        else:
            self.files[name] = text.encode()
        await self.source.load()


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    await room.source.load()
    task = asyncio.create_task(room.publisher.run())
    yield room
    task.cancel()


def payments() -> Instance:
    return instance("payments", id="i-2", ingress={"http": at(2000)}, apps={"http": at(2001)}, egress=None)


async def test_a_proxy_gets_its_snapshot_when_its_instance_registers(room: Room) -> None:
    assert await room.quiet(WEB)
    await room.discovery.register(instance())
    snapshot = await room.next(WEB)
    assert set(snapshot.of_type(LISTENER)) == {"egress", "ingress/http"}
    assert room.source.reading.intent is not None
    assert snapshot.version == room.source.reading.intent.version


async def test_callers_learn_of_instances_that_come_and_go(room: Room) -> None:
    await room.discovery.register(instance())
    empty = (await room.next(WEB)).of_type(ENDPOINTS)["payments/http"]
    await room.discovery.register(payments())
    filled = (await room.next(WEB)).of_type(ENDPOINTS)["payments/http"]
    assert filled.body != empty.body
    await room.discovery.deregister("i-2", identity("payments"), instance().agent_id)
    assert (await room.next(WEB)).of_type(ENDPOINTS)["payments/http"] == empty


async def test_a_change_that_does_not_concern_a_proxy_does_not_reach_it(room: Room) -> None:
    await room.discovery.register(payments())
    await room.next(PAYMENTS)
    await room.discovery.register(instance())
    assert await room.quiet(PAYMENTS)


async def test_a_removed_rule_reaches_the_callee(room: Room) -> None:
    await room.discovery.register(payments())
    before = await room.next(PAYMENTS)
    text = FILES["services/payments.yaml"].decode()
    await room.edit("services/payments.yaml", text.replace("[POST]", "[GET]"))
    after = await room.next(PAYMENTS)
    changed = {
        name
        for url in after.resources
        for name, resource in after.of_type(url).items()
        if before.of_type(url).get(name) != resource
    }
    assert changed == {"policy/http"}
    assert set(after.of_type(EXTENSION)) == {"policy/http"}


async def test_an_invalid_intent_changes_nothing_and_is_shown(room: Room) -> None:
    await room.discovery.register(instance())
    await room.next(WEB)
    before = room.source.reading
    await room.edit("services/web.yaml", "service: web\nprots: {}\n")
    assert await room.quiet(WEB)
    reading = room.source.reading
    assert (reading.intent, reading.loaded_at) == (before.intent, before.loaded_at)
    assert reading.problems != ()


async def test_a_service_taken_out_of_the_intent_loses_everything(room: Room) -> None:
    await room.discovery.register(payments())
    await room.next(PAYMENTS)
    await room.edit("services/payments.yaml", None)
    assert (await room.next(PAYMENTS)).resources == {}


async def test_a_proxy_that_is_no_longer_registered_keeps_what_it_has(room: Room) -> None:
    await room.discovery.register(instance())
    await room.next(WEB)
    await room.discovery.deregister("i-1", identity("web"), instance().agent_id)
    assert await room.quiet(WEB)


async def test_the_life_of_svids_bounds_the_age_of_connections(room: Room) -> None:
    await room.discovery.register(instance())
    before = await room.next(WEB)
    room.lifetimes.ttls = {identity("web"): timedelta(seconds=6)}
    room.lifetimes.revision.bump()
    after = await room.next(WEB)
    assert before.of_type(LISTENER)["ingress/http"] != after.of_type(LISTENER)["ingress/http"]
    assert replace(after, resources={}) == replace(before, resources={})


async def test_what_ends_by_itself_is_taken_away_when_its_time_has_come(room: Room) -> None:
    ends = room.clock.now() + timedelta(minutes=5)
    fault = f"fault: {{until: {ends:%Y-%m-%dT%H:%M:%SZ}, abort: {{status: 503}}}}"
    text = FILES["services/payments.yaml"].decode()
    await room.edit("services/payments.yaml", f"{text}routes: [{{id: a, port: http, {fault}}}]\n")
    await room.discovery.register(instance())
    assert b"vestibule.switched" in (await room.next(WEB)).of_type(ROUTES)["egress"].body
    while room.clock.next_wake != ends:
        await asyncio.sleep(0)
    room.clock.set(ends)
    assert b"vestibule.switched" not in (await room.next(WEB)).of_type(ROUTES)["egress"].body
    assert room.publisher.world is not None
    assert room.publisher.world.as_of == ends


async def test_what_envoy_would_refuse_reaches_no_proxy_and_the_last_good_stays(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """T11, before it happens: a bug in the compiler is found here, told once, and undone by the next good intent."""
    await room.discovery.register(instance("web"))
    good = await room.next(WEB)
    spoilt = Resource.of(CLUSTER, "spoilt", cluster_pb2.Cluster(name="other").SerializeToString())
    monkeypatch.setattr("vestibule.envoy.compile._LIMITS", (spoilt,))
    await room.discovery.register(payments())
    assert await room.quiet(WEB)
    assert caplog.text.count("VST3110 Cluster 'spoilt' is called 'other' inside") == 1
    monkeypatch.undo()
    after = await room.next(WEB)
    assert after.of_type(LISTENER) == good.of_type(LISTENER)
    assert "spoilt" not in after.of_type(CLUSTER)
