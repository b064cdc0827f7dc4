"""Compiling what changed gives what compiling everything gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id
from tests.e2e.traffic_lab import route
from tests.unit.envoy.test_compile import at, forget, instance

from vestibule.envoy.compile import Compilation, Compiler, compile_proxy
from vestibule.envoy.world import World
from vestibule.errors import VestibuleError
from vestibule.intent.model import DenyDetail, Intent, Issuer, Service
from vestibule.intent.outside import External, Gateway, GatewayListener, HostPort, OutsideTls
from vestibule.intent.traffic import (
    CircuitLimits,
    Fault,
    LimitPer,
    Locality,
    Mirror,
    Nearness,
    OutlierDetection,
    Permissive,
    RateLimit,
    Retry,
    Rewrite,
    Route,
    Traffic,
)
from vestibule.policy import Condition, Effect, McpDemand, Mode, Rule, TokenDemand
from vestibule.records import Emergency, Health, Instance
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, SpiffeId
from vestibule.xds.resources import ENDPOINTS, ProxyKey, Snapshot

NAMES = ("web", "payments", "ledger")
CALLERS = (*NAMES, "edge", "spiffe://example.org/**")
PLACES = ("", "north", "north/a", "south/b")
NOON = datetime(2026, 12, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
ENDS = st.sampled_from([NOON, LATER])
NOWS = st.sampled_from([None, NOON, LATER])
SECONDS = st.none() | st.builds(lambda n: timedelta(seconds=n), st.integers(1, 2))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def routes(draw: st.DrawFn, name: str, *, to: tuple[str, ...] = ()) -> Route:
    """One of a service's, or one of a gateway's ``to`` a service."""
    share = draw(st.sampled_from([0, 30, 100]))
    versioned = not to and draw(st.booleans())
    service = draw(st.sampled_from(to)) if to else None
    return route(
        f"{name}/r",
        draw(st.sampled_from([None, "/a", "/a/**", "/a/{x}"])),
        methods=draw(st.sampled_from([frozenset(), frozenset({"GET"})])),
        split={"v1": 100 - share, "v2": share} if versioned else {},
        port=None if to else "http",
        service=service,
        service_port="http" if to else None,
        timeout=draw(SECONDS),
        retry=draw(maybe(st.builds(Retry, attempts=st.integers(1, 3)))),
        rewrite=draw(maybe(st.just(Rewrite(path="/b")))),
        mirror=draw(st.sampled_from([(), (Mirror(percent=10.0, version="v2"),)])) if not to else (),
        fault=draw(maybe(st.builds(Fault, until=ENDS, abort=st.sampled_from([404, 503]))))
        if not to
        else None,
    )


@st.composite
def traffic(draw: st.DrawFn, name: str) -> Traffic:
    permissive = st.builds(
        Permissive, until=ENDS, reason=st.just("moving"), allow=st.just((rule(f"{name}/plain", port="http"),))
    )
    near = st.builds(
        Locality, prefer=st.sampled_from(list(Nearness)), failover=st.sampled_from([(), ("north", "south")])
    )
    limit = st.builds(RateLimit, requests=st.integers(1, 2), per=st.sampled_from(list(LimitPer)))
    return Traffic(
        versions=("v1", "v2"),
        routes=tuple(draw(st.lists(routes(name), max_size=2))),
        timeout=draw(SECONDS),
        retry=draw(maybe(st.just(Retry(attempts=2)))),
        circuit=draw(maybe(st.builds(CircuitLimits, requests=st.integers(1, 2)))),
        outlier=draw(maybe(st.builds(OutlierDetection, consecutive=st.integers(1, 2)))),
        limits=tuple(draw(st.lists(limit, max_size=1))),
        locality=draw(maybe(near)),
        permissive=draw(maybe(permissive)),
    )


@st.composite
def externals(draw: st.DrawFn) -> dict[str, External]:
    callers = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
    stripe = External(
        name="stripe",
        hosts=(HostPort(host="api.stripe.example", port=443),),
        tls=draw(st.sampled_from(list(OutsideTls))),
        allow=tuple(rule(f"egress/stripe/{each}", each, paths="/v1/**") for each in callers),
        traffic=Traffic(timeout=draw(SECONDS)),
    )
    return draw(st.sampled_from([{}, {"stripe": stripe}]))


@st.composite
def gateways(draw: st.DrawFn, services: tuple[str, ...]) -> dict[str, Gateway]:
    leading = st.lists(routes("edge", to=services), max_size=2) if services else st.just([])
    listener = GatewayListener(name="http", port=8080, hosts=draw(st.sampled_from([("*",), ("a.example",)])))
    edge = Gateway(
        name="edge", spiffe_id=spiffe_id("edge"), listeners={"http": listener}, routes=tuple(draw(leading))
    )
    return draw(st.sampled_from([{}, {"edge": edge}]))


LABELS = st.sampled_from([{}, {"env": "prod"}, {"env": "test"}])
CONDITIONS = st.sampled_from(
    [Condition.parse(each) for each in ("caller.labels.env == service.labels.env", "request.host != 'a'")]
)
TOKENS = st.builds(TokenDemand, issuer=st.just("internal"), audience=st.sampled_from(["a", "b"]))
ISSUERS = st.sampled_from(["https://one.example", "https://other.example"]).map(
    lambda url: {"internal": Issuer(name="internal", issuer=url, keys='{"keys": []}')}
)


@st.composite
def asking(draw: st.DrawFn, made: Rule, effect: Effect) -> Rule:
    """A rule with whatever a rule may ask for besides."""
    until = draw(maybe(ENDS))
    return replace(
        made,
        callers=tuple(replace(each, until=until) for each in made.callers),
        effect=effect,
        mode=draw(st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW])),
        anyone=draw(st.booleans()),
        when=draw(maybe(CONDITIONS)),
        token=draw(maybe(TOKENS)),
        expires=draw(maybe(ENDS)),
    )


@st.composite
def tools(draw: st.DrawFn, name: str) -> Service:
    """A port for MCP."""
    rules = tuple(
        replace(
            draw(asking(rule(f"{name}/{number}", "web"), Effect.ALLOW)),
            mcp=McpDemand(tools=(draw(st.sampled_from(["a", "b_*"])),)),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    return service(name, *rules, http="mcp")


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    services = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        callers = draw(st.lists(st.sampled_from(CALLERS), unique=True, max_size=2))
        rules = [rule(f"{name}/{n}", caller, paths="/a") for n, caller in enumerate(callers)]
        two = draw(st.booleans())
        made = service(name, *rules, http="http", db="tcp") if two else service(name, *rules)
        detail = draw(st.sampled_from(list(DenyDetail)))
        denied = draw(st.sampled_from([(), (rule(f"{name}/deny", "web", paths="/a"),)]))
        denied = tuple(draw(asking(each, Effect.DENY)) for each in denied)
        port = "http" if two else None
        allow = tuple(replace(draw(asking(each, Effect.ALLOW)), port=port) for each in rules)
        denied = tuple(replace(each, port=port) for each in denied)
        said = draw(traffic(name))
        if not two and draw(st.sampled_from([False, False, True])):
            made, allow, denied = (found := draw(tools(name))), found.allow, ()
            said = Traffic()
        labels = draw(LABELS)
        services.append(
            replace(made, deny_detail=detail, deny=denied, allow=allow, traffic=said, labels=labels)
        )
    intent = intent_of(*services)
    intent = replace(intent, mesh=replace(intent.mesh, issuers=draw(ISSUERS)))
    edges = draw(gateways(tuple(each.name for each in services)))
    intent = replace(intent, externals=draw(externals()), gateways=edges)
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
            changes["version"] = draw(st.sampled_from(["v1", "v2"]))
            changes["locality"] = draw(st.sampled_from(PLACES))
            changes["health"] = draw(st.sampled_from(list(Health)))
            found.append(instance(name, number, **changes))
    if draw(st.booleans()):
        found.append(instance("edge", 1, apps={}, egress=None, ingress={"http": at(8080)}))
    return tuple(found)


lives: st.SearchStrategy[Mapping[SpiffeId, timedelta]] = st.dictionaries(
    st.sampled_from([spiffe_id(name) for name in NAMES]), st.sampled_from([timedelta(minutes=5)])
).map(MappingProxyType)
OPENED = Emergency(
    id="1",
    callers=("spiffe://example.org/ns/prod/sa/ledger",),
    service="payments",
    reason="an outage",
    ticket="T-1",
    approver="b",
    opener="a",
    opened_at=NOON,
    expires_at=LATER,
)
REVOKED = Revocations(
    version=1,
    entries=(Revocation(target=RevokedIdentity(spiffe_id=spiffe_id("ledger")), at=NOON, version=1),),
)
worlds = st.builds(
    World,
    intent=intents(),
    instances=instances(),
    svid_ttls=lives,
    as_of=NOWS,
    emergencies=st.sampled_from([(), (OPENED,)]),
    ended=st.sampled_from([(), (OPENED,)]),
    revocations=st.sampled_from([Revocations(), REVOKED]),
)


@dataclass
class Proxies:
    """Every proxy there may be, compiled from world to world."""

    compiler: Compiler = field(default_factory=Compiler)
    known: dict[ProxyKey, Compilation] = field(default_factory=dict)

    def take(self, world: World) -> dict[ProxyKey, Snapshot | None]:
        self.compiler.take(world)
        found: dict[ProxyKey, Snapshot | None] = {}
        for name in (*NAMES, "edge"):
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
        fresh = replace(world)
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
