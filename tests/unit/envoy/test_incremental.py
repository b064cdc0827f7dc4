"""Compiling what changed gives what compiling everything gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id
from tests.unit.envoy.test_compile import at, forget, instance

from vestibule.envoy.compile import Compilation, Compiler, compile_proxy
from vestibule.envoy.world import World
from vestibule.errors import VestibuleError
from vestibule.intent.model import DenyDetail, Intent
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ENDPOINTS, ProxyKey, Snapshot

NAMES = ("web", "payments", "ledger")
CALLERS = (*NAMES, "spiffe://example.org/**")


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    services = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        callers = draw(st.lists(st.sampled_from(CALLERS), unique=True, max_size=2))
        rules = [rule(f"{name}/{n}", caller, paths="/a") for n, caller in enumerate(callers)]
        two = draw(st.booleans())
        made = service(name, *rules, http="http", db="tcp") if two else service(name, *rules)
        detail = draw(st.sampled_from(list(DenyDetail)))
        services.append(replace(made, deny_detail=detail))
    intent = intent_of(*services)
    defaults = replace(intent.mesh.defaults, timeout=timedelta(seconds=draw(st.integers(1, 2))))
    version = f"v{draw(st.integers(1, 3))}"
    return replace(intent, mesh=replace(intent.mesh, defaults=defaults), version=version)


@st.composite
def instances(draw: st.DrawFn) -> tuple[Instance, ...]:
    found = []
    for name in NAMES:
        for number in draw(st.sets(st.integers(1, 3))):
            changes: dict[str, Any] = {}
            if draw(st.booleans()):
                changes["upstreams"] = {draw(st.sampled_from(NAMES)): at(4000 + number)}
            if draw(st.booleans()):
                changes["ingress"] = {}
            found.append(instance(name, number, **changes))
    return tuple(found)


lives: st.SearchStrategy[Mapping[SpiffeId, timedelta]] = st.dictionaries(
    st.sampled_from([spiffe_id(name) for name in NAMES]), st.sampled_from([timedelta(minutes=5)])
).map(MappingProxyType)
worlds = st.builds(World, intent=intents(), instances=instances(), svid_ttls=lives)


@dataclass
class Proxies:
    """Every proxy there may be, compiled from world to world."""

    compiler: Compiler = field(default_factory=Compiler)
    known: dict[ProxyKey, Compilation] = field(default_factory=dict)

    def take(self, world: World) -> dict[ProxyKey, Snapshot | None]:
        self.compiler.take(world)
        found: dict[ProxyKey, Snapshot | None] = {}
        for name in NAMES:
            for number in (1, 2, 3):
                proxy = ProxyKey(spiffe_id(name), f"{name}-{number}")
                try:
                    self.known[proxy] = self.compiler.compile(proxy, self.known.get(proxy))
                    found[proxy] = self.known[proxy].snapshot
                except VestibuleError:
                    found[proxy] = None
        return found


def rebuilt(world: World, proxy: ProxyKey) -> Snapshot | None:
    try:
        return compile_proxy(world, proxy)
    except VestibuleError:
        return None


@settings(max_examples=60, deadline=None)
@given(st.lists(worlds, min_size=2, max_size=5))
def test_what_is_compiled_step_by_step_is_what_a_full_rebuild_gives(steps: list[World]) -> None:
    proxies = Proxies()
    for world in steps:
        stepwise = proxies.take(world)
        fresh = World(intent=world.intent, instances=world.instances, svid_ttls=world.svid_ttls)
        assert stepwise == {proxy: rebuilt(fresh, proxy) for proxy in stepwise}


def test_a_full_rebuild_of_the_last_world_gives_the_same_bytes_also_with_nothing_remembered() -> None:
    proxies, parts = Proxies(), (service("web"), service("payments", rule("payments/a", "web", paths="/a")))
    running = (instance("web", 1), instance("payments", 1))
    proxies.take(World(intent=intent_of(parts[0]), instances=running))
    stepwise = proxies.take(World(intent=intent_of(*parts), instances=running))
    forget()
    fresh = World(intent=intent_of(*parts), instances=running)
    assert {proxy: rebuilt(fresh, proxy) for proxy in stepwise} == stepwise


def test_an_instance_that_comes_concerns_its_callers_only() -> None:
    intent = intent_of(service("web"), service("payments", rule("payments/a", "web")), service("ledger"))
    running = tuple(instance(name, 1) for name in NAMES)
    proxies = Proxies()
    before = proxies.take(World(intent=intent, instances=running))
    after = proxies.take(World(intent=intent, instances=(*running, instance("payments", 2))))
    changed = {proxy.instance_id for proxy, was in before.items() if after[proxy] is not was}
    assert changed == {"web-1", "payments-2"}
    web = ProxyKey(spiffe_id("web"), "web-1")
    (was, now) = (before[web], after[web])
    assert was is not None
    assert now is not None
    shared = {url for url in now.resources if now.resources[url] is was.resources[url]}
    assert now.resources.keys() - shared == {ENDPOINTS}


def test_a_commit_that_changes_one_service_compiles_only_for_those_it_concerns() -> None:
    """All of the others' configurations are the very same objects, under the new version."""

    def intent(paths: str, version: str) -> Intent:
        rules = rule("payments/a", "web", paths=paths)
        made = intent_of(service("web"), service("payments", rules), service("ledger"))
        return replace(made, version=version)

    running = tuple(instance(name, 1) for name in NAMES)
    proxies = Proxies()
    before = proxies.take(World(intent=intent("/a", "v1"), instances=running))
    traces = {proxy: each.trace for proxy, each in proxies.known.items()}
    after = proxies.take(World(intent=intent("/b", "v2"), instances=running))
    same = {proxy.instance_id for proxy, each in proxies.known.items() if each.trace is traces[proxy]}
    assert same == {"ledger-1", "web-1"}
    for proxy, now in after.items():
        was = before[proxy]
        assert (now is None) == (was is None)
        if was is not None and now is not None:
            assert now.version == "v2"
            assert (now.resources is was.resources) == (proxy.instance_id != "payments-1")
