"""A sidecar's session: it finds its identity, vouches for its own processes and keeps its instance registered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from vestibule.agent.sidecars import (
    Attachment,
    Checks,
    Done,
    Event,
    Grants,
    Process,
    Session,
    Sidecars,
    ViewCache,
    Welcomed,
    leases,
)
from vestibule.errors import VestibuleError
from vestibule.net.codes import REMOTE_REFUSED, UNREACHABLE
from vestibule.records import (
    Address,
    Boundary,
    CheckView,
    Health,
    Instance,
    Keeper,
    Lease,
    PortView,
    ServiceView,
)
from vestibule.spiffe import Selector, SpiffeId
from vestibule.xds.resources import ProxyKey

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
SELECTORS = frozenset({Selector("supervised", "service:web")})
VIEW = ServiceView(
    service="web",
    spiffe_id=WEB,
    ports=(PortView(name="http", protocol="http"),),
    upstreams=(),
    intent_version="1",
    mesh="shop",
    environment="prod",
)
INSTANCE = Instance(
    id="i-1", service="web", spiffe_id=WEB, agent_id=WEB, ingress={"http": Address.parse("127.0.0.1:7001")}
)
SIDECAR: Process = (100, 1)
ENVOY: Process = (101, 2)
STRANGER: Process = (900, 9)


@dataclass
class Upstream:
    """The server, as an in-memory double that can be away."""

    away: bool = False
    old: bool = False
    states: dict[str, bytes] = field(default_factory=dict)
    renewals: list[list[str]] = field(default_factory=list)
    views: dict[SpiffeId, ServiceView] = field(default_factory=lambda: {WEB: VIEW})
    instances: dict[str, Instance] = field(default_factory=dict)
    registrations: int = 0
    drained: list[str] = field(default_factory=list)

    def _check(self) -> None:
        if self.away:
            raise UNREACHABLE.error("the server is away")

    async def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        self._check()
        return self.views.get(spiffe_id)

    async def register(self, instance: Instance, state: bytes) -> float:
        self._check()
        self.instances[instance.id] = instance
        self.states[instance.id] = state
        self.registrations += 1
        return 30.0

    async def renew(self, leases: Iterable[Lease]) -> tuple[float, frozenset[str]]:
        self._check()
        if self.old:
            raise REMOTE_REFUSED.error("no such method")
        asked = list(leases)
        self.renewals.append([each.instance_id for each in asked])
        return 30.0, frozenset(
            each.instance_id for each in asked if self.states.get(each.instance_id) != each.state
        )

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, within: float) -> int:
        self._check()
        self.instances[instance_id] = replace(self.instances[instance_id], health=Health.DRAINING)
        self.drained.append(instance_id)
        return 0

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId) -> None:
        self._check()
        self.instances.pop(instance_id, None)


@dataclass
class Vouched:
    known: dict[Process, tuple[str, str]] = field(default_factory=dict)

    def vouch(self, service: str, pid: int, start_time: int, role: str) -> None:
        self.known[pid, start_time] = (service, role)

    def withdraw(self, pid: int, start_time: int) -> None:
        self.known.pop((pid, start_time), None)


@dataclass
class World:
    directory: Path
    upstream: Upstream = field(default_factory=Upstream)
    vouched: Vouched = field(default_factory=Vouched)
    entries: dict[frozenset[Selector], list[SpiffeId]] = field(default_factory=lambda: {SELECTORS: [WEB]})

    asked: list[tuple[CheckView, Address]] = field(default_factory=list)
    wrong: str | None = None

    def __post_init__(self) -> None:
        self.sidecars = self.new_agent()

    def new_agent(self) -> Sidecars:
        views = ViewCache(self.directory / "views.json")
        views.load()
        return Sidecars(
            upstream=self.upstream,
            identities=lambda selectors: self.entries.get(selectors, []),
            vouched=self.vouched,
            is_descendant=lambda child, ancestor: child == ENVOY and ancestor == SIDECAR,
            views=views,
            checks=Checks(self.ask),
        )

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sidecars.leases.run())
        try:
            yield
        finally:
            task.cancel()

    def health(self) -> Health | None:
        """What the server knows."""
        known = self.upstream.instances.get("i-1")
        return known.health if known else None

    async def ask(self, check: CheckView, address: Address, protocol: str, keeper: Keeper) -> str | None:
        self.asked.append((check, address))
        return self.wrong

    @asynccontextmanager
    async def attached(
        self, selectors: frozenset[Selector] = SELECTORS, instance_id: str = "i-1"
    ) -> AsyncIterator[Session]:
        session = Session(self.sidecars, Attachment("web", instance_id, SIDECAR, selectors))
        task = asyncio.create_task(session.run())
        try:
            yield session
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(leases, "SPREAD", 0)
    return World(tmp_path)


async def heard(session: Session) -> Event:
    async with asyncio.timeout(60):
        return await session.events.get()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0)


async def test_it_is_welcomed_by_its_identity_and_told_what_its_service_looks_like(world: World) -> None:
    async with world.attached() as session:
        assert await heard(session) == Welcomed(WEB)
        assert await heard(session) == VIEW


async def test_without_an_entry_it_is_told_why_and_goes_on_waiting(world: World) -> None:
    world.entries = {}
    async with world.attached() as session:
        problem = await heard(session)
        assert isinstance(problem, VestibuleError)
        assert problem.code.code == "VST2131"
        assert "supervised:service:web" in problem.message
        world.entries = {SELECTORS: [WEB]}
        world.sidecars.wake()
        assert await heard(session) == Welcomed(WEB)


async def test_an_identity_of_another_service_is_not_its_own(world: World) -> None:
    other = SpiffeId.parse("spiffe://example.org/ns/prod/sa/other")
    world.entries = {SELECTORS: [other]}
    async with world.attached() as session:
        assert isinstance(await heard(session), VestibuleError)


async def test_a_changed_intent_is_told_once(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        changed = ServiceView(
            service="web",
            spiffe_id=WEB,
            ports=(),
            upstreams=(),
            intent_version="2",
            mesh="shop",
            environment="prod",
        )
        world.upstream.views[WEB] = changed
        await asyncio.sleep(0)
        world.sidecars.wake()
        assert await heard(session) == changed
        world.sidecars.wake()
        await asyncio.sleep(0.01)
        assert session.events.empty()


async def test_it_vouches_for_its_envoy_which_is_then_known_as_its_proxy(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.vouch(ENVOY, "envoy")
        assert world.vouched.known == {ENVOY: ("web", "envoy")}
        assert world.sidecars.proxy_of(ENVOY) == ProxyKey(WEB, "i-1")
    assert world.vouched.known == {}
    with pytest.raises(VestibuleError, match="not the Envoy"):
        world.sidecars.proxy_of(ENVOY)


async def test_it_cannot_vouch_for_a_process_it_did_not_start(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        with pytest.raises(VestibuleError) as caught:
            session.vouch(STRANGER, "envoy")
        assert caught.value.code.code == "VST2132"
        assert world.vouched.known == {}


async def test_a_process_named_before_the_identity_is_known_waits_for_it(world: World) -> None:
    unix = frozenset({Selector("unix", "uid:1000")})
    async with world.attached(selectors=unix) as session:
        await heard(session)
        session.vouch(ENVOY, "envoy")
        assert world.vouched.known == {}
        world.entries[unix] = [WEB]
        world.sidecars.wake()
        assert await heard(session) == Welcomed(WEB)
        assert await heard(session) == VIEW
        assert await heard(session) == Done("vouch")
        assert world.vouched.known == {ENVOY: ("web", "envoy")}


async def test_who_loses_the_identity_loses_what_came_with_it(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.vouch(ENVOY, "envoy")
        session.register(INSTANCE)
        await until(lambda: world.upstream.instances == {"i-1": INSTANCE})
        world.entries[SELECTORS] = []
        world.sidecars.wake()
        await until(lambda: not world.sidecars.sessions and not world.upstream.instances)
        assert world.vouched.known == {}


async def test_its_app_is_no_proxy(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.vouch(ENVOY, "app")
        with pytest.raises(VestibuleError):
            world.sidecars.proxy_of(ENVOY)


async def test_a_registered_instance_leaves_with_its_sidecar(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        assert set(world.upstream.instances) == {"i-1"}
    assert world.upstream.instances == {}


async def test_an_instance_outlives_an_agent_that_is_stopped_in_order(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        world.sidecars.stop()
    assert set(world.upstream.instances) == {"i-1"}


async def test_what_changed_about_an_instance_is_announced_at_once_not_with_its_next_renewal(
    world: World,
) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        without_app = replace(INSTANCE, ingress={})
        session.register(without_app)
        assert await heard(session) == Done("register")
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        assert world.upstream.instances["i-1"].ingress == INSTANCE.ingress


async def test_it_cannot_register_for_another_service(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        stranger = Instance(id="i-1", service="payments", spiffe_id=WEB, agent_id=WEB)
        with pytest.raises(VestibuleError) as caught:
            session.register(stranger)
        assert caught.value.code.code == "VST2134"


async def test_registration_waits_for_a_server_that_is_away_and_happens_when_it_is_back(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        world.upstream.away = True
        session.register(INSTANCE)
        await asyncio.sleep(0)
        assert world.upstream.instances == {}
        world.upstream.away = False
        world.sidecars.wake()
        assert await heard(session) == Done("register")


async def test_a_restarted_server_is_told_again_at_once(world: World) -> None:
    async with world.attached() as session, world.renewing():
        await heard(session), await heard(session)
        session.register(INSTANCE)
        await heard(session)
        before = world.upstream.registrations
        world.upstream.instances.clear()
        world.upstream.states.clear()
        world.sidecars.wake()
        await until(lambda: world.upstream.registrations > before)
        assert set(world.upstream.instances) == {"i-1"}


async def test_leases_of_all_instances_are_renewed_by_one_question(world: World) -> None:
    async with world.attached() as first, world.attached(instance_id="i-2") as second:
        for session in (first, second):
            await heard(session), await heard(session)
            session.register(replace(INSTANCE, id=session.instance_id))
            assert await heard(session) == Done("register")
        async with world.renewing():
            await until(lambda: bool(world.upstream.renewals))
            # What the server does not know any more is registered again, and nothing else is.
            del world.upstream.states["i-2"]
            world.sidecars.wake()
            await until(lambda: "i-2" in world.upstream.states)
        assert world.upstream.registrations == 3
        assert all(set(asked) == {"i-1", "i-2"} for asked in world.upstream.renewals)


async def test_who_left_is_not_renewed(world: World) -> None:
    async with world.attached() as first, world.renewing():
        await heard(first), await heard(first)
        first.register(INSTANCE)
        assert await heard(first) == Done("register")
        async with world.attached(instance_id="i-2") as second:
            await heard(second), await heard(second)
            second.register(replace(INSTANCE, id="i-2"))
            assert await heard(second) == Done("register")
        world.sidecars.wake()
        seen = len(world.upstream.renewals)
        await until(lambda: len(world.upstream.renewals) > seen)
        assert world.upstream.renewals[-1] == ["i-1"]


async def test_an_older_server_is_told_of_each_instance_by_itself(world: World) -> None:
    world.upstream.old = True
    async with world.attached() as session, world.renewing():
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        await until(lambda: world.upstream.registrations >= 2)


async def test_leases_are_renewed_as_soon_as_the_server_is_back(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        world.upstream.away = True
        async with world.renewing():
            await asyncio.sleep(0)
            world.upstream.away = False
            world.sidecars.wake()
            await until(lambda: bool(world.upstream.renewals))
        assert world.upstream.registrations == 1


async def test_a_restarted_agent_welcomes_from_memory_while_the_server_is_away(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
    world.upstream.away = True
    world.sidecars = world.new_agent()
    async with world.attached() as session:
        assert await heard(session) == Welcomed(WEB)
        assert await heard(session) == VIEW


CHECK = CheckView(kind="http", port="http", every=0.001, unhealthy=2, healthy=2)
APP = Address.parse("127.0.0.1:7002")
REACHABLE = replace(INSTANCE, apps={"http": APP})


async def test_a_new_app_is_called_only_after_it_passed_a_check_and_again_when_it_is_well_again(
    world: World,
) -> None:
    world.upstream.views[WEB] = replace(VIEW, check=CHECK)
    world.wrong = "it sleeps"
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(REACHABLE)
        await until(lambda: world.health() is Health.STARTING)
        assert world.upstream.instances["i-1"].health is Health.STARTING
        await until(lambda: world.health() is Health.UNHEALTHY)
        world.wrong = None
        await until(lambda: world.health() is Health.HEALTHY)
        assert world.asked[-1] == (CHECK, APP)
        world.wrong = "it broke"
        await until(lambda: world.health() is Health.UNHEALTHY)


async def test_an_app_in_a_network_that_cannot_be_entered_is_not_asked_since_somebody_else_would_answer(
    world: World,
) -> None:
    world.upstream.views[WEB] = replace(VIEW, check=CHECK)
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(replace(REACHABLE, boundary=Boundary.NETNS))
        await until(lambda: world.health() is Health.UNKNOWN)
        assert world.asked == []


async def test_who_is_called_already_is_called_on_until_a_new_check_fails(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(REACHABLE)
        await until(lambda: world.health() is Health.UNKNOWN)
        assert not world.asked
        world.upstream.views[WEB] = replace(VIEW, check=CHECK)
        world.wrong = "it never was well"
        world.sidecars.wake()
        await until(lambda: world.health() is Health.UNHEALTHY)
        world.upstream.views[WEB] = VIEW
        world.sidecars.wake()
        await until(lambda: world.health() is Health.UNKNOWN)


async def test_an_app_that_came_back_passes_a_check_before_it_is_called_again(world: World) -> None:
    world.upstream.views[WEB] = replace(VIEW, check=CHECK)
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(REACHABLE)
        await until(lambda: world.health() is Health.HEALTHY)
        session.register(replace(REACHABLE, ingress={}))
        await until(lambda: world.health() is Health.UNKNOWN)
        world.wrong = "not yet"
        session.register(REACHABLE)
        assert session.health is Health.STARTING


async def test_a_sidecar_cannot_say_how_well_it_is_nor_where(world: World) -> None:
    world.sidecars.locality = "eu/a"
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(replace(INSTANCE, health=Health.HEALTHY, locality="us"))
        await until(lambda: "i-1" in world.upstream.instances)
        known = world.upstream.instances["i-1"]
        assert (known.health, known.locality) == (Health.UNKNOWN, "eu/a")


async def test_an_instance_whose_proxy_does_not_listen_yet_is_not_called(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(replace(INSTANCE, health=Health.STARTING))
        await until(lambda: world.health() is Health.STARTING)
        session.register(INSTANCE)
        await until(lambda: world.health() is Health.UNKNOWN)


async def test_a_sidecar_that_stops_stays_registered_while_its_callers_leave(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        await session.drain(1)
        assert await heard(session) == Done("drain")
        assert world.upstream.drained == ["i-1"]
        await until(lambda: world.health() is Health.DRAINING)


async def test_a_sidecar_that_stops_does_not_wait_for_a_server_that_is_away(world: World) -> None:
    async with world.attached() as session:
        await heard(session), await heard(session)
        session.register(INSTANCE)
        assert await heard(session) == Done("register")
        world.upstream.away = True
        await session.drain(1)
        assert await heard(session) == Done("drain")


def test_a_key_opens_only_the_service_it_was_granted_for() -> None:
    grants = Grants()
    grants.grant(hashlib.sha256(b"key").digest(), "web")
    grants.check(b"key", "web")
    for key, service in ((b"key", "payments"), (b"other", "web"), (b"", "web")):
        with pytest.raises(VestibuleError) as caught:
            grants.check(key, service)
        assert caught.value.code.code == "VST2130"
        assert "key" not in str(caught.value).replace("supervisor key", "")
    grants.revoke(hashlib.sha256(b"key").digest())
    with pytest.raises(VestibuleError):
        grants.check(b"key", "web")
