"""What a service says of traffic, in whole snapshots of callers and of the service itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from tests.e2e.mesh_lab import rule
from tests.e2e.traffic_lab import route
from tests.unit.envoy.test_compile import SERVICES, bodies, compiled, instance, world

from vestibule.envoy import limits
from vestibule.envoy.world import World, expiries, last_expiry, next_expiry
from vestibule.intent.traffic import (
    CircuitLimits,
    Fault,
    LimitPer,
    OutlierDetection,
    Permissive,
    RateLimit,
    RetryBudget,
    Traffic,
)
from vestibule.records import Instance
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES

NOON = datetime(2026, 12, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEB = instance("web", 1)
FIRST, SECOND = instance("payments", 1), instance("payments", 2, version="v2")


def saying(*instances: Instance, as_of: datetime | None = None, **traffic: Any) -> World:
    payments = replace(SERVICES[1], traffic=Traffic(**traffic))
    return world(*instances, services=(SERVICES[0], payments, SERVICES[2]), as_of=as_of)


def cluster(within: World, name: str = "payments/http") -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster.FromString(compiled(within).of_type(CLUSTER)[name].body)


def addresses(within: World, name: str) -> set[int]:
    body = compiled(within).of_type(ENDPOINTS)[name].body
    groups = endpoint_pb2.ClusterLoadAssignment.FromString(body).endpoints
    return {
        each.endpoint.address.socket_address.port_value for group in groups for each in group.lb_endpoints
    }


def test_a_version_has_a_cluster_and_the_instances_that_run_it() -> None:
    split = saying(WEB, FIRST, SECOND, versions=("v1", "v2"), routes=(route(port="http", split={"v1": 100}),))
    assert {each for each in compiled(split).of_type(CLUSTER) if each.startswith("payments/http")} == {
        "payments/http",
        "payments/http@v1",
        "payments/http@v2",
    }
    assert addresses(split, "payments/http") == {1001, 1002}
    assert addresses(split, "payments/http@v1") == {1001}
    assert addresses(split, "payments/http@v2") == {1002}


def test_a_weight_that_moves_changes_routes_only() -> None:
    def at(share: int) -> dict[tuple[str, str], bytes]:
        wanted = route(port="http", split={"v1": 100 - share, "v2": share})
        return bodies(compiled(saying(WEB, FIRST, SECOND, versions=("v1", "v2"), routes=(wanted,))))

    before, after = at(0), at(10)
    assert {name for name in after if before.get(name) != after[name]} == {(ROUTES, "egress")}


def test_what_is_in_flight_is_bounded_and_so_are_retries_without_a_word() -> None:
    (plain,) = cluster(saying(WEB)).circuit_breakers.thresholds
    assert (plain.max_requests.value, plain.retry_budget.budget_percent.value) == (10_000, 20)
    said = CircuitLimits(connections=1, pending=2, requests=3, budget=RetryBudget(percent=5, least=1))
    (bound,) = cluster(saying(WEB, circuit=said)).circuit_breakers.thresholds
    assert (bound.max_connections.value, bound.max_pending_requests.value, bound.max_requests.value) == (
        1,
        2,
        3,
    )
    assert (bound.retry_budget.budget_percent.value, bound.retry_budget.min_retry_concurrency.value) == (5, 1)


def test_instances_are_left_out_for_what_is_said_alone() -> None:
    assert not cluster(saying(WEB)).HasField("outlier_detection")
    found = cluster(saying(WEB, outlier=OutlierDetection(consecutive=7))).outlier_detection
    assert (found.consecutive_5xx.value, found.max_ejection_percent.value) == (7, 50)
    assert found.HasField("enforcing_success_rate")
    assert found.enforcing_success_rate.value == 0


def test_there_is_room_for_every_caller_who_may_call() -> None:
    per_caller = RateLimit(requests=1, per=LimitPer.CALLER)
    (named,) = limits.of_port(
        "payments", [per_caller], "http", [rule("a", "web", "ledger"), rule("b", "web")]
    )
    assert named.callers == 2
    (any_number,) = limits.of_port("p", [per_caller], "http", [rule("a", "spiffe://example.org/x/**")])
    assert any_number.callers == limits.UNKNOWN_CALLERS
    assert limits.of_port("p", [replace(per_caller, port="admin")], "http", []) == ()


def test_callers_in_plain_text_have_room_of_their_own() -> None:
    """Else they and the one named caller take turns, and both begin anew each time."""
    limited = Traffic(
        limits=(RateLimit(requests=1, per=LimitPer.CALLER),), permissive=Permissive(until=NOON, reason="old")
    )
    strict = replace(limited, permissive=None)
    assert [_room(each) for each in (strict, limited)] == [1, 2]


def _room(traffic: Traffic) -> int:
    payments = replace(SERVICES[1], traffic=traffic, allow=(rule("payments/a", "web"),))
    within = world(FIRST, services=(SERVICES[0], payments, SERVICES[2]))
    (route,) = (
        each
        for host in route_pb2.RouteConfiguration.FromString(
            compiled(within, "payments").of_type(ROUTES)["ingress/http"].body
        ).virtual_hosts
        for each in host.routes
    )
    switched = extension_matcher_pb2.ExtensionWithMatcherPerRoute()
    route.typed_per_filter_config["vestibule.switched"].Unpack(switched)
    execute = composite_pb2.ExecuteFilterAction()
    switched.xds_matcher.on_no_match.action.typed_config.Unpack(execute)
    limiter = local_rate_limit_pb2.LocalRateLimit()
    execute.filter_chain.typed_config[0].typed_config.Unpack(limiter)
    return int(limiter.max_dynamic_descriptors.value)


def test_limits_come_with_routes_and_leave_the_listener_alone() -> None:
    before = bodies(compiled(saying(FIRST), "payments"))
    after = bodies(compiled(saying(FIRST, limits=(RateLimit(requests=1),)), "payments"))
    assert {name for name in after if before.get(name) != after[name]} == {(ROUTES, "ingress/http")}


def test_plain_text_has_a_chain_and_a_policy_of_its_own_until_it_has_ended() -> None:
    legacy = rule("payments/plaintext/batch", port="http")
    said = Permissive(until=NOON, reason="old", allow=(legacy,))
    listener = compiled(saying(FIRST, permissive=said), "payments").of_type(LISTENER)["ingress/http"]
    chains = listener_pb2.Listener.FromString(listener.body).filter_chains
    assert [each.filter_chain_match.transport_protocol for each in chains] == ["tls", "raw_buffer"]
    assert [each.HasField("transport_socket") for each in chains] == [True, False]
    policies = compiled(saying(FIRST, permissive=said), "payments").of_type(EXTENSION)
    assert b"payments/plaintext/batch" in policies["plaintext/http"].body
    assert b"payments/plaintext/batch" not in policies["policy/http"].body
    ended = bodies(compiled(saying(FIRST, permissive=said, as_of=NOON), "payments"))
    assert ended == bodies(compiled(saying(FIRST), "payments"))


def test_a_fault_that_has_ended_leaves_nothing_behind() -> None:
    wanted = route(port="http", path="/a", fault=Fault(until=NOON, abort=503))
    plain = saying(WEB, routes=(replace(wanted, fault=None),))
    lasting = saying(WEB, routes=(wanted,), as_of=NOON - HOUR)
    ended = saying(WEB, routes=(wanted,), as_of=NOON)
    assert bodies(compiled(ended)) == bodies(compiled(plain))
    assert bodies(compiled(lasting)) == bodies(compiled(saying(WEB, routes=(wanted,))))


def test_the_intent_knows_what_ends_and_when_next() -> None:
    faults = tuple(route(fault=Fault(until=NOON + n * HOUR, abort=503)) for n in range(3))
    intent = saying(routes=faults, permissive=Permissive(until=NOON + HOUR / 2, reason="x")).intent
    assert len(list(expiries(intent))) == 4
    assert last_expiry(intent, NOON - HOUR) is None
    assert last_expiry(intent, NOON + HOUR) == NOON + HOUR
    assert next_expiry(intent, NOON) == NOON + HOUR / 2
    assert next_expiry(intent, NOON + 2 * HOUR) is None
