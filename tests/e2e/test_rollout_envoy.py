"""Rollouts with real Envoys: what one refuses, or what makes requests fail, is taken back from all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from tests.e2e.mesh_lab import Lab, Proxy, intent_of, rule, service, until, wire
from tests.unit.mesh.kept import KeptRollouts

from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.doors.xds_serving import serve_delta
from vestibule.envoy.clusters import app_cluster_name
from vestibule.envoy.compile import Compilation, Compiler
from vestibule.envoy.protos import packed, serialized
from vestibule.errors import VestibuleError
from vestibule.intent.model import Intent, Rollout
from vestibule.mesh import Publisher, Reading, Rolling
from vestibule.mesh.error_rates import Count, Report, Side
from vestibule.mesh.revision import Revision
from vestibule.mesh.rollout import Phase
from vestibule.net.grpc import Stream
from vestibule.proxy.admin import Admin
from vestibule.proxy.counters import traffic_of
from vestibule.records import Instance, ProxyTraffic
from vestibule.xds.ledger import Ledger
from vestibule.xds.messages import Event
from vestibule.xds.resources import AGGREGATED_TYPES, LISTENER, ProxyKey, Resource, Snapshot

CLOCK = SystemClock()
CHARGE = rule("payments/charge", "web", methods="POST GET", paths="/v1/charges")
NOWHERE = "203.0.113.7"
"""An address for documentation (RFC 5737): a listener there is well formed, and no Envoy can open it."""


def intent(version: str, protocol: str = "http") -> Intent:
    made = intent_of(service("web"), service("payments", CHARGE, http=protocol), version=version)
    return replace(made, mesh=replace(made.mesh, rollout=Rollout(watch=timedelta(seconds=60))))


class Memory:
    """A ``Source`` that has what it is given."""

    place = "memory"

    def __init__(self, first: Intent) -> None:
        self.revision = Revision()
        self.reading = Reading(intent=first)

    def give(self, newer: Intent) -> None:
        self.reading = Reading(intent=newer)
        self.revision.bump()

    async def load(self) -> Reading:
        return self.reading

    async def run(self) -> None: ...


class Records:
    """An audit log."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.actions += [each.action for each in events]

    record_or_defer = record


class RolledProxy(Proxy):
    """Its configuration comes from a publisher that asks a rollout."""

    lab: RolledLab

    @property
    def key(self) -> ProxyKey:
        return ProxyKey(self.instance.spiffe_id, self.instance.id)

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        session = self.lab.ledger.open(self.key, CLOCK.now())

        def note(event: Event) -> None:
            self._saw(event)
            session.note(event, CLOCK.now())

        try:
            watch = self.lab.publisher.watch(self.key)
            await serve_delta(stream, watch, types=AGGREGATED_TYPES, on_event=note)
        finally:
            session.close(CLOCK.now())


class RolledLab(Lab):
    """A lab whose intents come by a rollout."""

    kind = RolledProxy

    def __init__(self, first: Intent) -> None:
        super().__init__(first)
        self.source = Memory(first)
        self.records = Records()
        self.default, self.ttls, self.revision = timedelta(hours=1), {}, Revision()
        self.instances_revision = Revision()
        self.ledger = Ledger(heard=lambda proxy, event: self.rolling.heard(proxy, event))
        self.rolling = Rolling(
            self.source,
            KeptRollouts(),
            self.records,
            CLOCK,
            instances=self.instances,
            proxy=self.ledger.state,
        )
        self.publisher = Publisher(self.rolling, self, self)  # type: ignore[arg-type]
        self.rolling.compares_with(self.publisher.compiled)

    def instances(self) -> tuple[Instance, ...]:
        return self.world.instances

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.rolling.run())
            tasks.create_task(self.publisher.run())
            tasks.create_task(self._count())

    async def _count(self) -> None:
        """As sidecars, agents and the server's door do it."""
        while True:
            for each in self.proxies.values():
                with suppress(VestibuleError):
                    self._took(each, await traffic_of(Admin(each.admin)))
            await asyncio.sleep(0.3)

    def _took(self, proxy: Proxy, traffic: ProxyTraffic) -> None:
        sides = ((Side.INBOUND, traffic.inbound), (Side.OUTBOUND, traffic.outbound))
        counts = tuple((side, Count(each.requests, each.denied, each.failed)) for side, each in sides)
        report = Report(instance_id=proxy.instance.id, service=proxy.instance.service, counts=counts)
        self.rolling.take_report(ProxyKey(proxy.instance.spiffe_id, proxy.instance.id), report)

    def all_have(self, version: str) -> bool:
        states = [self.ledger.state(ProxyKey(each.spiffe_id, each.id)) for each in self.world.instances]
        return all(state is not None and state.version == version for state in states)


@asynccontextmanager
async def shop() -> AsyncIterator[RolledLab]:
    async with RolledLab(intent("v1")) as lab:
        await lab.rolling.load()
        running = asyncio.create_task(lab.run())
        try:
            await lab.add("payments")
            await lab.add("web")
            lab.instances_revision.bump()
            await lab.ready()
            await until(partial(lab.all_have, "v1"), "all have v1")
            yield lab
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def statuses(lab: Lab, count: int) -> list[int]:
    async with wire(lab.proxies["web-1"].instance.egress) as client:
        return [(await client.ask("GET", "/v1/charges")).status for _ in range(count)]


def unopenable() -> Resource:
    """A listener that any validation lets pass and no Envoy takes."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="nowhere", cluster=app_cluster_name("http"))
    tcp = listener_components_pb2.FilterChain()
    tcp.filters.add(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))
    place = address_pb2.Address(socket_address=address_pb2.SocketAddress(address=NOWHERE, port_value=4711))
    message = listener_pb2.Listener(name="nowhere", address=place, filter_chains=[tcp])
    return Resource.of(LISTENER, "nowhere", serialized(message))


async def test_what_one_envoy_refuses_is_taken_back_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Compiler.compile

    def with_a_fault(self: Compiler, proxy: ProxyKey, before: Any) -> Compilation:
        del before  # it may be the one with the fault
        made = whole(self, proxy, None)
        if made.snapshot.version != "v2" or proxy.instance_id != "payments-1":
            return made
        every = [each for by_name in made.snapshot.resources.values() for each in by_name.values()]
        snapshot = Snapshot.of("v2", [*every, unopenable()])
        return Compilation(snapshot, made.trace)

    async with shop() as lab:
        monkeypatch.setattr(Compiler, "compile", with_a_fault)
        lab.source.give(intent("v2"))
        await until(lambda: lab.rolling.state.phase is Phase.REFUSED, "v2 is refused")
        assert "payments-1 refused Listener nowhere" in lab.rolling.state.reason
        assert NOWHERE in lab.rolling.state.reason
        await until(partial(lab.all_have, "v1"), "all have v1 again")
        assert await statuses(lab, 3) == [200, 200, 200]
        assert lab.records.actions[-2:] == ["intent.try", "intent.refuse"]
        lab.source.give(intent("v3"))
        await until(partial(lab.all_have, "v3"), "what comes next is tried")


async def test_a_change_that_makes_requests_fail_is_taken_back() -> None:
    async with shop() as lab:
        assert set(await statuses(lab, 40)) == {200}
        await until(
            lambda: lab.rolling.judging.rates.total("web", Side.OUTBOUND).requests >= 40, "they are reported"
        )
        # The app speaks HTTP/1.1 only.
        lab.source.give(intent("v2", "http2"))
        await until(partial(lab.all_have, "v2"), "all have v2")
        async with asyncio.timeout(60):
            while lab.rolling.state.phase is not Phase.REFUSED:
                assert not set(await statuses(lab, 10)) & {403, 404}
                await asyncio.sleep(0.1)
        assert "requests" in lab.rolling.state.reason
        await until(partial(lab.all_have, "v1"), "all have v1 again")
        assert await statuses(lab, 3) == [200, 200, 200]
