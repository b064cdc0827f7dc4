"""What there is to prove is read off the intent, and every example is one that the rules allow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.app.up.edges import (
    Request,
    Route,
    allowed_edges,
    denied_routes,
    rules_to_remove,
    stranger_to,
    unproven_ports,
)
from vestibule.intent import Intent, Mesh, Port, Protocol, Service
from vestibule.policy import Call, IdentityMatch, PathPattern, Rule, may_call
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing.deciding import decided

DOMAIN = TrustDomain.parse("example.org")


def identity(name: str) -> SpiffeId:
    return SpiffeId.of(DOMAIN, f"/ns/test/sa/{name}")


def rule(
    service: str,
    callers: Iterable[str],
    *,
    name: str = "rule",
    port: str = "http",
    methods: Iterable[str] = (),
    paths: Iterable[str] = (),
) -> Rule:
    return Rule(
        name=f"{service}/{name}",
        callers=tuple(
            IdentityMatch.parse(caller if caller.startswith("spiffe:") else str(identity(caller)))
            for caller in callers
        ),
        port=port,
        methods=frozenset(methods),
        paths=tuple(PathPattern.parse(path) for path in paths),
    )


def service(name: str, *rules: Rule, ports: dict[str, Protocol] | None = None) -> Service:
    kinds = {"http": Protocol.HTTP} if ports is None else ports
    return Service(
        name=name,
        spiffe_id=identity(name),
        ports={each: Port(name=each, protocol=protocol) for each, protocol in kinds.items()},
        allow=rules,
    )


def intent(*services: Service) -> Intent:
    mesh = Mesh(name="test", trust_domain=DOMAIN, environment="test")
    return Intent(mesh=mesh, services={each.name: each for each in services})


SHOP = intent(
    service("web"),
    service("orders", rule("orders", ["web"], methods=["GET", "POST"], paths=["/v1/orders/**"])),
    service("payments", rule("payments", ["orders"], methods=["POST"], paths=["/v1/charges"])),
    service("intruder", ports={}),
)
ALL = tuple(SHOP.services)


def test_an_edge_exists_where_a_rule_allows_a_caller() -> None:
    assert [str(edge) for edge in allowed_edges(SHOP, ALL)] == ["orders → payments", "web → orders"]


def test_the_least_harmful_request_comes_first() -> None:
    (_, orders) = allowed_edges(SHOP, ALL)
    assert orders.requests == (Request("GET", "/v1/orders"), Request("POST", "/v1/orders"))


def test_services_that_do_not_run_take_part_in_nothing() -> None:
    assert [str(edge) for edge in allowed_edges(SHOP, ["web", "orders"])] == ["web → orders"]
    assert all("payments" not in str(route) for route in denied_routes(SHOP, ["web", "orders"]))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/v1/charges", "/v1/charges"),
        ("/v1/{id}/lines", "/v1/1/lines"),
        ("/v1/refunds/**", "/v1/refunds"),
        ("/**", "/"),
        ("/", "/"),
        ("/a/", "/a/"),
    ],
)
def test_a_pattern_gives_a_path_that_it_matches(pattern: str, path: str) -> None:
    one = intent(service("web"), service("api", rule("api", ["web"], paths=[pattern])))
    (edge,) = allowed_edges(one, ["web", "api"])
    assert edge.requests == (Request("GET", path),)
    assert PathPattern.parse(pattern).matches(path)


def test_a_rule_without_methods_and_paths_is_tried_with_the_simplest_request() -> None:
    one = intent(service("web"), service("api", rule("api", ["web"])))
    assert allowed_edges(one, ["web", "api"])[0].requests == (Request("GET", "/"),)


def test_an_outsider_comes_first_among_those_who_may_not_call() -> None:
    assert denied_routes(SHOP, ALL)[0] == Route("intruder", "orders", "http")
    assert denied_routes(SHOP, ALL)[3] == Route("payments", "orders", "http")
    assert Route("web", "orders", "http") not in denied_routes(SHOP, ALL)


def test_a_service_is_not_its_own_intruder() -> None:
    assert all(route.caller != route.callee for route in denied_routes(SHOP, ALL))


def test_a_port_is_denied_where_only_another_port_is_allowed() -> None:
    two = intent(
        service("web"),
        service(
            "api",
            rule("api", ["web"], port="http"),
            ports={"http": Protocol.HTTP, "admin": Protocol.HTTP},
        ),
    )
    assert Route("web", "api", "admin") in denied_routes(two, ["web", "api"])


def test_grpc_and_tcp_need_the_services_own_clients() -> None:
    mixed = intent(
        service("web"),
        service("db", rule("db", ["web"], port="sql"), ports={"sql": Protocol.TCP, "rpc": Protocol.GRPC}),
    )
    assert allowed_edges(mixed, ["web", "db"]) == ()
    assert unproven_ports(mixed, ["web", "db"]) == ("db/sql (tcp)", "db/rpc (grpc)")


def test_a_stranger_is_let_in_nowhere() -> None:
    stranger = stranger_to(SHOP, "payments", "http")
    assert stranger is not None
    assert not may_call(SHOP.services["payments"].allow, stranger)


def test_a_port_open_to_the_whole_trust_domain_has_no_stranger() -> None:
    everyone = intent(service("web"), service("api", rule("api", ["spiffe://example.org/**"])))
    assert stranger_to(everyone, "api", "http") is None


def test_all_rules_that_allow_a_request_must_go_for_it_to_be_denied() -> None:
    twice = intent(
        service("web"),
        service(
            "api",
            rule("api", ["web"], name="narrow", paths=["/a"]),
            rule("api", ["web"], name="wide", paths=["/**"]),
            rule("api", ["web"], name="other", paths=["/b"]),
        ),
    )
    route = Route("web", "api", "http")
    assert rules_to_remove(twice, route, Request("GET", "/a")) == ("api/narrow", "api/wide")


NAMES = st.sampled_from(["web", "api", "db"])
PATTERNS = st.sampled_from(["/", "/a", "/a/**", "/{x}", "/a/{x}/b", "/**", "/a/{x}/**"])
VERBS = st.sampled_from(["GET", "POST", "DELETE", "PURGE"])
RULES = st.builds(
    lambda callers, methods, paths, name: (callers, methods, paths, name),
    st.lists(NAMES, min_size=1, max_size=3),
    st.lists(VERBS, max_size=3),
    st.lists(PATTERNS, max_size=3),
    st.sampled_from(["r1", "r2", "r3"]),
)


@given(st.dictionaries(NAMES, st.lists(RULES, max_size=3)))
def test_whatever_the_rules_examples_are_allowed_and_denied_routes_are_not(
    allow: dict[str, list[tuple[list[str], list[str], list[str], str]]],
) -> None:
    world = intent(
        *(
            service(
                name,
                *(rule(name, c, methods=m, paths=p, name=i) for c, m, p, i in allow.get(name, [])),
            )
            for name in ("web", "api", "db")
        )
    )
    for edge in allowed_edges(world, world.services):
        caller = world.services[edge.route.caller].spiffe_id
        for request in edge.requests:
            call = Call(caller=caller, port="http", method=request.method, path=request.path)
            rules = world.services[edge.route.callee].allow
            assert decided(rules, call).allowed
            left = [r for r in rules if r.name not in rules_to_remove(world, edge.route, request)]
            assert not decided(left, call).allowed
    for route in denied_routes(world, world.services):
        caller = world.services[route.caller].spiffe_id
        assert not may_call(world.services[route.callee].allow, caller)
