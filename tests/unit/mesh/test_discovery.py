"""Instances under leases, and services as their sidecars see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.mesh.kept import KeptInstances

from vestibule.calls.mesh_api import view_from_wire
from vestibule.doors.sidecar_api import view_to_wire
from vestibule.errors import VestibuleError
from vestibule.intent import Loaded, load_files
from vestibule.mesh import DirectorySource, Discovery, discovery
from vestibule.mesh.discovery import LEASE
from vestibule.records import Address, CheckView, Health, Instance, Lease
from vestibule.spiffe import SpiffeId
from vestibule.store.codes import STORE_UNUSABLE
from vestibule.testing import FakeClock
from vestibule.testing.intents import AllAtOnce

FILES = {
    "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\n",
    "services/web.yaml": b"service: web\nports: {http: {protocol: http}}\nallow: []\n",
    "services/payments.yaml": b"""
service: payments
ports: {http: {protocol: http}, db: {protocol: tcp}}
allow:
- {id: pay, from: [web], port: http, methods: [POST]}
deny: [{id: never, from: [web], port: http, paths: [/never]}]
""",
}
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/a")


def identity(service: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{service}")


def at(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def instance(service: str = "web", **changes: Any) -> Instance:
    plain = Instance(
        id="i-1",
        service=service,
        spiffe_id=identity(service),
        agent_id=AGENT,
        ingress={"http": at(1000)},
        apps={"http": at(1001)},
        egress=at(1002),
    )
    return replace(plain, **changes)


def loaded() -> Loaded:
    return load_files(FILES)


class Room:
    """A discovery, its clock and what it keeps."""

    def __init__(
        self, kept: KeptInstances | None = None, *, clock: FakeClock | None = None, shared: bool = False
    ) -> None:
        self.clock = clock or FakeClock()
        self.files: dict[str, bytes] = {}
        self.kept = kept or KeptInstances()
        self.source = DirectorySource(
            Path("unused"), self.clock, read=lambda _: load_files(self.files) if self.files else loaded()
        )

        self.discovery = Discovery(self.kept, AllAtOnce(self.source), self.clock, shared=shared)

    async def open(self) -> Discovery:
        await self.source.load()
        await self.discovery.load()
        return self.discovery


@pytest.fixture
async def room() -> Room:
    room = Room()
    await room.open()
    return room


async def test_an_instance_is_known_and_kept_once_it_is_registered(room: Room) -> None:
    assert await room.discovery.register(instance()) == LEASE.total_seconds()
    assert room.discovery.instances() == (instance(),)
    assert list(room.kept.kept) == ["i-1"]


async def test_a_renewal_changes_nothing_and_writes_nothing(room: Room) -> None:
    await room.discovery.register(instance())
    seen, writes = room.discovery.instances_revision.value, room.kept.writes
    room.clock.advance(10)
    await room.discovery.register(instance())
    assert (room.discovery.instances_revision.value, room.kept.writes) == (seen, writes)
    assert room.discovery.lease_of("i-1") == room.clock.now() + LEASE


def lease(**changes: Any) -> Lease:
    return replace(Lease(instance_id="i-1", spiffe_id=identity("web"), state=b"1"), **changes)


async def test_leases_of_an_agent_are_renewed_together_and_each_for_itself(room: Room) -> None:
    for number in ("1", "2", "3"):
        await room.discovery.register(instance(id=f"i-{number}"), number.encode())
    seen, writes = room.discovery.instances_revision.value, room.kept.writes
    room.clock.advance(10)
    asked = [
        lease(),
        lease(instance_id="i-2", state=b"something else by now"),
        lease(instance_id="i-3", state=b""),
        lease(instance_id="unknown"),
    ]
    assert room.discovery.renew(AGENT, asked) == (LEASE.total_seconds(), ["i-2", "i-3", "unknown"])
    assert (room.discovery.instances_revision.value, room.kept.writes) == (seen, writes)
    assert room.discovery.lease_of("i-1") == room.clock.now() + LEASE
    assert room.discovery.lease_of("i-2") != room.clock.now() + LEASE


async def test_a_renewal_is_of_ones_own_instance_as_this_server_heard_of_it(room: Room) -> None:
    await room.discovery.register(instance(), b"1")
    other = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/b")
    assert room.discovery.renew(other, [lease()])[1] == ["i-1"]
    assert room.discovery.renew(AGENT, [lease(spiffe_id=identity("payments"))])[1] == ["i-1"]
    again = Room(room.kept)  # was not told in which state it is
    await again.open()
    assert again.discovery.renew(AGENT, [lease()])[1] == ["i-1"]
    # An agent that is older than renewals together says nothing of a state.
    await room.discovery.register(instance())
    assert room.discovery.renew(AGENT, [lease(state=b"")])[1] == ["i-1"]


async def test_what_the_intent_has_no_room_for_is_not_renewed(room: Room) -> None:
    await room.discovery.register(instance(), b"1")
    room.files = {
        **FILES,
        "services/web.yaml": b"service: web\nports: {other: {protocol: http}}\nallow: []\n",
    }
    await room.source.load()
    assert room.discovery.renew(AGENT, [lease()])[1] == ["i-1"]


async def test_an_instance_is_forgotten_when_its_lease_ends(room: Room) -> None:
    await room.discovery.register(instance())
    task = asyncio.create_task(room.discovery.run())
    await room.clock.until_asleep()
    room.clock.advance(LEASE)
    await room.clock.until_asleep()
    assert room.discovery.instances() == ()
    assert room.kept.kept == {}
    task.cancel()


@asynccontextmanager
async def running(*rooms: Room) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """Their discoveries at work; the function lets time pass."""

    async def later(seconds: float) -> None:
        for _ in range(int(seconds / 2)):
            rooms[0].clock.advance(2)
            for _ in range(50):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(each.discovery.run()) for each in rooms]
    try:
        await rooms[0].clock.until_asleep()
        yield later
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def two_servers() -> tuple[Room, Room]:
    """Two on one database."""
    one = Room(shared=True)
    other = Room(one.kept, clock=one.clock, shared=True)
    await one.open()
    await other.open()
    return one, other


async def test_servers_of_one_database_know_the_instances_of_each_other(room: Room) -> None:
    one, other = await two_servers()
    await one.discovery.register(instance(), b"1")
    seen = other.discovery.instances_revision.value
    await other.discovery.follow()
    assert other.discovery.instances() == (instance(),)
    assert other.discovery.instances_revision.value > seen
    # Nothing new: nobody compiles anything.
    seen = other.discovery.instances_revision.value
    await other.discovery.follow()
    assert other.discovery.instances_revision.value == seen
    await one.discovery.drain("i-1", identity("web"), AGENT)
    await other.discovery.follow()
    assert other.discovery.instances()[0].health is Health.DRAINING
    await one.discovery.deregister("i-1", identity("web"), AGENT)
    await other.discovery.follow()
    assert other.discovery.instances() == ()


async def test_who_renews_at_one_server_lives_at_all_of_them() -> None:
    one, other = await two_servers()
    await one.discovery.register(instance(), b"1")
    await one.discovery.register(instance(id="silent"), b"1")
    await other.discovery.follow()
    async with running(one, other) as later:
        for _ in range(6):
            await later(10)
            assert one.discovery.renew(AGENT, [lease()])[1] == []
        await other.discovery.follow()
        assert [each.id for each in one.discovery.instances()] == ["i-1"]
        assert [each.id for each in other.discovery.instances()] == ["i-1"]
        assert list(one.kept.kept) == ["i-1"]


async def test_an_agent_that_goes_to_another_server_registers_there_again() -> None:
    one, other = await two_servers()
    await one.discovery.register(instance(), b"1")
    await other.discovery.follow()
    assert other.discovery.renew(AGENT, [lease()])[1] == ["i-1"]
    await other.discovery.register(instance(), b"1")
    assert other.discovery.renew(AGENT, [lease()])[1] == []


async def test_no_lease_ends_because_the_database_was_away() -> None:
    one, other = await two_servers()
    await one.discovery.register(instance(), b"1")
    await other.discovery.follow()
    async with running(one, other) as later:
        one.kept.broken = STORE_UNUSABLE.error("gone")
        for _ in range(6):
            await later(10)
            assert one.discovery.renew(AGENT, [lease()])[1] == []
        one.kept.broken = None
        await later(20)
        assert one.discovery.renew(AGENT, [lease()])[1] == []
        await later(2)
        assert [each.id for each in other.discovery.instances()] == ["i-1"]


async def test_what_could_not_be_forgotten_is_forgotten_when_the_disk_is_back(room: Room) -> None:
    await room.discovery.register(instance())
    async with running(room) as later:
        room.kept.broken = STORE_UNUSABLE.error("full")
        await later(40)
        assert (room.discovery.instances(), list(room.kept.kept)) == ((), ["i-1"])
        room.kept.broken = None
        await later(4)
        assert room.kept.kept == {}


async def test_leases_are_extended_when_the_server_starts_again(room: Room) -> None:
    await room.discovery.register(instance())
    later = Room(room.kept)
    later.clock.advance(10 * LEASE)
    await later.open()
    assert later.discovery.instances() == (instance(),)
    assert later.discovery.lease_of("i-1") == later.clock.now() + LEASE


async def test_nobody_takes_or_removes_somebody_elses_instance(room: Room) -> None:
    await room.discovery.register(instance())
    other = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/b")
    with pytest.raises(VestibuleError, match="VST3202"):
        await room.discovery.register(instance(agent_id=other))
    with pytest.raises(VestibuleError, match="VST3202"):
        await room.discovery.register(instance("payments"))
    await room.discovery.deregister("i-1", identity("web"), other)
    assert room.discovery.instances() == (instance(),)
    await room.discovery.deregister("i-1", identity("web"), AGENT)
    assert room.discovery.instances() == ()


async def test_one_agent_cannot_bury_the_mesh_under_instances(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MOST_PER_AGENT", 2)
    for number in range(2):
        await room.discovery.register(instance(id=f"i-{number}"))
    with pytest.raises(VestibuleError, match="VST3204"):
        await room.discovery.register(instance(id="i-2"))
    await room.discovery.register(instance(id="i-1"))
    other = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/b")
    await room.discovery.register(instance(id="i-2", agent_id=other))


@pytest.mark.parametrize(
    "address",
    [
        Address(host="payments.example.org", port=80),
        Address(host="0.0.0.0", port=80),
        Address(host="::", port=80),
        Address(host="224.0.0.1", port=80),
        Address(host="fe80::1%eth0", port=80),
        Address(host="127.0.0.1 ", port=80),
        Address(path="/" + "x" * 107),
        Address(path="/a\0b"),
    ],
    ids=str,
)
async def test_an_address_that_proxies_refuse_is_refused_at_once(room: Room, address: Address) -> None:
    """It would freeze the endpoints of the service for all its callers."""
    for changes in ({"ingress": {"http": address}}, {"apps": {"http": address}}, {"egress": address}):
        with pytest.raises(VestibuleError, match="VST3201"):
            await room.discovery.register(instance(**changes))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"id": "../x"}, "VST3201"),
        ({"id": ""}, "VST3201"),
        ({"ingress": {"admin": at(1000)}}, "VST3201"),
        ({"apps": {}}, "VST3201"),
        ({"egress": at(1000)}, "VST3201"),
        ({"upstreams": {"payments/http": at(1002)}}, "VST3201"),
        ({"spiffe_id": identity("payments")}, "VST3200"),
        ({"spiffe_id": identity("stranger")}, "VST3200"),
    ],
)
async def test_an_instance_that_makes_no_sense_is_refused(
    room: Room, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(VestibuleError, match=code):
        await room.discovery.register(instance(**changes))
    assert room.kept.kept == {}


async def test_a_service_is_described_with_what_it_may_call(room: Room) -> None:
    web = room.discovery.describe(identity("web"))
    assert web is not None
    assert [port.name for port in web.ports] == ["http"]
    assert [(each.name, each.port, each.protocol) for each in web.upstreams] == [
        ("payments/http", "http", "http")
    ]
    assert (web.mesh, web.environment) == ("shop", "prod")
    payments = room.discovery.describe(identity("payments"))
    assert payments is not None
    assert payments.upstreams == ()
    assert payments.places == {
        "payments": "services/payments.yaml",
        "payments/never": "services/payments.yaml:6",
    }
    assert room.discovery.describe(identity("stranger")) is None


async def test_a_version_that_the_service_does_not_declare_is_refused_and_one_that_runs_stays() -> None:
    files = dict(FILES)
    clock = FakeClock()
    source = DirectorySource(Path("unused"), clock, read=lambda _: load_files(files))
    kept = Discovery(KeptInstances(), AllAtOnce(source), clock)
    await source.load()
    await kept.register(instance(version="v7"))
    files["services/web.yaml"] += b"versions: [v1, v2]\n"
    await source.load()
    await kept.register(instance(version="v7"))
    await kept.register(instance(id="i-2", version="v2"))
    with pytest.raises(VestibuleError, match=r"VST3201 web has no version 'v7', only v1, v2"):
        await kept.register(instance(id="i-3", version="v7"))


# ------------------------------------------------------------------------ outside hosts and gateways

BEYOND = {
    **FILES,
    "services/payments.yaml": FILES["services/payments.yaml"].replace(b"from: [web]", b"from: [web, edge]"),
    "egress/stripe.yaml": b"""
external: stripe
hosts: [api.stripe.com:443]
allow: [{id: all, from: [web]}]
""",
    "gateways/edge.yaml": b"""
gateway: edge
listeners:
  https: {port: 8443, tls: {certificate: /etc/edge/tls.crt, key: /etc/edge/tls.key}}
routes: [{id: all, to: payments, port: http}]
""",
}


@pytest.fixture
async def beyond(monkeypatch: pytest.MonkeyPatch) -> Room:
    found = load_files(BEYOND)
    assert found.intent is not None, found.problems
    monkeypatch.setitem(globals(), "loaded", lambda: found)
    room = Room()
    await room.open()
    return room


def edge(**changes: Any) -> Instance:
    anywhere = Address(host="0.0.0.0", port=8443)
    plain = Instance(
        id="edge-1", service="edge", spiffe_id=identity("edge"), agent_id=AGENT, ingress={"https": anywhere}
    )
    return replace(plain, **changes)


async def test_a_sidecar_is_told_of_the_hosts_outside_that_its_service_may_call(beyond: Room) -> None:
    view = beyond.discovery.describe(identity("web"))
    assert view is not None
    assert [(each.name, each.service, each.protocol) for each in view.upstreams] == [
        ("payments/http", "payments", "http"),
        ("stripe", "external:stripe", "http"),
    ]
    other = beyond.discovery.describe(identity("payments"))
    assert other is not None
    assert other.upstreams == ()


async def test_a_gateway_is_told_where_to_listen_and_with_which_files(beyond: Room) -> None:
    view = beyond.discovery.describe(identity("edge"))
    assert view is not None
    assert view.is_gateway
    (port,) = view.ports
    assert port.listen == Address(host="0.0.0.0", port=8443)
    assert (port.name, port.certificate, port.key) == ("https", "/etc/edge/tls.crt", "/etc/edge/tls.key")
    assert view.upstreams == ()
    assert view_from_wire(view_to_wire(view)) == view


async def test_a_gateway_listens_anywhere_and_has_no_app(beyond: Room) -> None:
    await beyond.discovery.register(edge())
    assert beyond.discovery.instances() == (edge(),)
    for wrong in (edge(id="e-2", ingress={"other": at(1)}), edge(id="e-2", spiffe_id=identity("web"))):
        with pytest.raises(VestibuleError, match=r"VST320[01]"):
            await beyond.discovery.register(wrong)
    with pytest.raises(VestibuleError, match="VST3201"):
        await beyond.discovery.register(instance(ingress={"http": Address(host="0.0.0.0", port=1)}))


# ------------------------------------------------------------------------- health and versions


async def load(room: Room, **more: bytes) -> None:
    """Read other files of services: ``web=b"versions: …"`` are lines that are added."""
    files = dict(FILES)
    for name, lines in more.items():
        files[f"services/{name}.yaml"] += lines
    room.source._read = lambda _: load_files(files)
    await room.source.load()


async def test_an_agent_is_told_how_to_ask_the_app(room: Room) -> None:
    assert room.discovery.describe(identity("payments")).check is None  # type: ignore[union-attr]
    await load(room, payments=b"health: {tcp: true, port: db, every: 250ms, timeout: 100ms}\n")
    view = room.discovery.describe(identity("payments"))
    assert view is not None
    assert view.check == CheckView(kind="tcp", port="db", every=0.25, timeout=0.1)
    await load(room, payments=b"health: {http: /healthz}\n")
    view = room.discovery.describe(identity("payments"))
    assert view is not None
    assert view.check == CheckView(kind="http", port="http", path="/healthz")


async def test_what_is_known_of_an_app_outlives_the_agent_that_asked_it(room: Room) -> None:
    await room.discovery.register(instance(health=Health.STARTING))
    await room.discovery.register(instance(health=Health.HEALTHY))
    await room.discovery.register(instance(health=Health.STARTING))
    assert room.discovery.instances()[0].health is Health.HEALTHY
    await room.discovery.register(instance(health=Health.UNKNOWN, ingress={}))
    await room.discovery.register(instance(health=Health.STARTING))
    assert room.discovery.instances()[0].health is Health.STARTING


async def test_an_instance_that_drains_does_not_come_back(room: Room) -> None:
    await room.discovery.register(instance())
    stranger = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/b")
    assert await room.discovery.drain("i-1", identity("web"), stranger) is None
    assert await room.discovery.drain("i-2", identity("web"), AGENT) is None
    drained = await room.discovery.drain("i-1", identity("web"), AGENT)
    assert drained is not None
    assert drained.health is Health.DRAINING
    await room.discovery.register(instance(health=Health.HEALTHY))
    assert room.discovery.instances() == (instance(health=Health.DRAINING),)
    assert room.kept.kept["i-1"].health is Health.DRAINING


async def test_what_runs_in_a_version_that_is_listed_no_more_is_named(room: Room) -> None:
    await room.discovery.register(instance(version="v7"))
    assert room.discovery.undeclared() == ()
    await load(room, web=b"versions: [v1, v2]\n")
    await room.discovery.register(instance(id="i-2", version="v2"))
    assert [each.id for each in room.discovery.undeclared()] == ["i-1"]
