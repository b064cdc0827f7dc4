"""Health, circuit limits, outlier detection, rate limits, localities, plain text: as said, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.intent.reading import MESH, accepted, found, only, read, whole_language

from vestibule.intent.traffic import (
    CheckKind,
    CircuitLimits,
    HealthCheck,
    LimitPer,
    Locality,
    Nearness,
    OutlierDetection,
    Permissive,
    RateLimit,
    RetryBudget,
    Traffic,
)
from vestibule.policy import PathPattern, Rule

HTTP = "service: payments\nports: {http: {protocol: http}}\nallow: []\n"
TCP = "service: payments\nports: {raw: {protocol: tcp}}\nallow: []\n"
PLAIN = "mtls: {{permissive_until: 2026-12-31T00:00:00Z, reason: legacy batch, allow: {}}}\n"
GRPC = "service: payments\nports: {rpc: {protocol: grpc}}\nallow: []\n"


@pytest.fixture(autouse=True)
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


def traffic(service: str) -> Traffic:
    return accepted(read(service)).services["payments"].traffic


def test_health_says_what_is_asked_and_how_often() -> None:
    said = (
        "health: {http: '/healthz?full=1', port: http, every: 2s, timeout: 500ms, unhealthy: 2, healthy: 4}\n"
    )
    assert traffic(HTTP + said).health == HealthCheck(
        kind=CheckKind.HTTP,
        path="/healthz?full=1",
        port="http",
        every=timedelta(seconds=2),
        timeout=timedelta(milliseconds=500),
        unhealthy=2,
        healthy=4,
    )
    assert traffic(GRPC + "health: {grpc: shop.Payments}\n").health == HealthCheck(
        kind=CheckKind.GRPC, grpc_service="shop.Payments"
    )
    assert traffic(GRPC + "health: {grpc: ''}\n").health == HealthCheck(kind=CheckKind.GRPC)
    assert traffic(TCP + "health: {tcp: true}\n").health == HealthCheck(kind=CheckKind.TCP)


def test_circuit_limits_and_outlier_detection_may_be_said_by_service_and_mesh() -> None:
    said = (
        "circuit_limits: {connections: 100, pending: 50, requests: 200, retry_budget: {percent: 12.5, least: 0}}\n"
        "outlier_detection: {consecutive: 7, interval: 2s, eject_for: 1m, most: 100%}\n"
    )
    limits = CircuitLimits(
        connections=100, pending=50, requests=200, budget=RetryBudget(percent=12.5, least=0)
    )
    outlier = OutlierDetection(
        consecutive=7, interval=timedelta(seconds=2), eject_for=timedelta(minutes=1), most_percent=100
    )
    found_traffic = traffic(HTTP + said)
    assert (found_traffic.circuit, found_traffic.outlier) == (limits, outlier)
    defaults = "defaults:\n" + "".join(f"  {line}\n" for line in said.splitlines())
    mesh = accepted(read(mesh=MESH + defaults)).mesh
    assert (mesh.defaults.circuit, mesh.defaults.outlier) == (limits, outlier)


def test_what_is_left_out_is_the_documented_default() -> None:
    found_traffic = traffic(HTTP + "circuit_limits: {retry_budget: {}}\noutlier_detection: {}\n")
    assert found_traffic.circuit == CircuitLimits(budget=RetryBudget())
    assert found_traffic.outlier == OutlierDetection()
    assert traffic(HTTP) == Traffic()


def test_limits_count_all_requests_or_those_of_each_caller() -> None:
    said = "limits:\n  - {requests: 100/s}\n  - {requests: 5/m, per: caller, burst: 20, port: http, path: /v1/**}\n"
    first, second = traffic(HTTP + said).limits
    assert first == RateLimit(requests=100)
    assert second == RateLimit(
        requests=5,
        window=timedelta(minutes=1),
        per=LimitPer.CALLER,
        burst=20,
        port="http",
        path=PathPattern.parse("/v1/**"),
    )
    assert str(second.where) == "services/payments.yaml:6:5"


def test_a_locality_prefers_what_is_near_and_says_what_comes_next() -> None:
    said = "locality: {prefer: zone, failover: [eu-west, us-east]}\n"
    assert traffic(HTTP + said).locality == Locality(prefer=Nearness.ZONE, failover=("eu-west", "us-east"))


def test_plain_text_is_accepted_until_a_day_that_is_said() -> None:
    said = PLAIN.format("[{id: batch, methods: [POST], paths: [/batch/**]}, {id: rest, port: http}]")
    batch = Rule(
        name="payments/plaintext/batch",
        callers=(),
        port="http",
        methods=frozenset({"POST"}),
        paths=(PathPattern.parse("/batch/**"),),
    )
    rest = Rule(name="payments/plaintext/rest", callers=(), port="http")
    until = datetime(2026, 12, 31, tzinfo=UTC)
    expected = Permissive(until=until, reason="legacy batch", allow=(batch, rest))
    assert traffic(HTTP + said).permissive == expected
    assert traffic(TCP + PLAIN.format("[{id: any}]")).permissive is not None
    assert traffic(HTTP + "mtls: strict\n").permissive is None


@pytest.mark.parametrize(
    ("line", "code", "why"),
    [
        ("health: {}", "VST0021", "says nothing"),
        ("health: {http: /a, tcp: true}", "VST0027", "http and tcp"),
        ("health: {http: healthz}", "VST0025", "not a path"),
        ("health: {http: '/a b'}", "VST0025", "not a path"),
        ("health: {http: /a, port: htp}", "VST0040", "no port 'htp'"),
        ("health: {grpc: shop.Payments}", "VST0059", "no port speaks what health asks for, grpc"),
        ("health: {grpc: a, port: http}", "VST0059", "the port 'http' does not speak"),
        ("health: {grpc: 'a b', port: http}", "VST0025", "not a gRPC service"),
        ("health: {tcp: false}", "VST0025", "true or left out"),
        ("health: {tcp: 1}", "VST0022", "true or false"),
        ("health: {http: /a, every: 1s, timeout: 2s}", "VST0058", "longer"),
        ("health: {http: /a, unhealthy: 0}", "VST0025", "from 1 to 100"),
        ("circuit_limits: {}", "VST0021", "says nothing"),
        ("circuit_limits: {connections: 0}", "VST0025", "from 1"),
        ("circuit_limits: {retries: 3}", "VST0020", "no key 'retries'"),
        ("circuit_limits: {retry_budget: {percent: 101}}", "VST0025", "hundred"),
        ("outlier_detection: {most: 50}", "VST0022", "such as 10%"),
        ("outlier_detection: {most: 0%}", "VST0025", "hundred"),
        ("outlier_detection: {most: 101%}", "VST0025", "hundred"),
        ("limits: [{per: caller}]", "VST0021", "'requests'"),
        ("limits: [{requests: 100}]", "VST0022", "a rate"),
        ("limits: [{requests: 100/d}]", "VST0025", "not a rate"),
        ("limits: [{requests: 0/s}]", "VST0025", "not a rate"),
        ("limits: [{requests: 1/s, per: user}]", "VST0025", "not one of all, caller"),
        ("limits: [{requests: 1/s, burst: 0}]", "VST0025", "from 1"),
        ("limits: [{requests: 1/s, port: htp}]", "VST0040", "no port"),
        ("limits: [{requests: 1/s}, {requests: 2/s}]", "VST0026", "line 4 limits the same"),
        ("locality: {failover: [a]}", "VST0021", "'prefer'"),
        ("locality: {prefer: near}", "VST0025", "not one of zone"),
        ("locality: {prefer: any, failover: [a]}", "VST0054", "no order to keep"),
        ("locality: {prefer: zone, failover: [a/b]}", "VST0025", "not a region"),
        ("mtls: permissive", "VST0025", "not one of strict"),
        ("mtls: [strict]", "VST0022", "strict, or permissive_until"),
        ("mtls: {reason: a, allow: [{id: a}]}", "VST0021", "'permissive_until'"),
        ("mtls: {permissive_until: 2026-12-31T00:00:00Z, allow: [{id: a}]}", "VST0021", "'reason'"),
        ("mtls: {permissive_until: 2026-12-31, reason: a, allow: [{id: a}]}", "VST0025", "not an instant"),
        ("mtls: {permissive_until: 2026-12-31T00:00:00Z, reason: a}", "VST0021", "'allow'"),
        (PLAIN.format("[]"), "VST0025", "rule"),
        (PLAIN.format("[{id: a, port: raw}]"), "VST0040", "no port 'raw'"),
        (PLAIN.format("[{id: a}, {id: a}]"), "VST0026", "taken"),
        (PLAIN.format("[{id: a, from: [web]}]"), "VST0020", "from"),
        (PLAIN.format("[{id: a, paths: ['/a/*']}]"), "VST4010", "trailing"),
    ],
)
def test_a_bound_that_cannot_be_meant_is_refused(line: str, code: str, why: str) -> None:
    place, message, fix = only(read(HTTP + line + "\n"))
    assert place.startswith("services/payments.yaml:4:")
    assert place.endswith(code)
    assert re.search(why, message), message
    assert fix


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("limits: [{requests: 1/s}]", "VST0050"),
        ("circuit_limits: {requests: 1}", "VST0050"),
        ("circuit_limits: {retry_budget: {}}", "VST0050"),
        ("health: {http: /a}", "VST0059"),
    ],
)
def test_requests_are_not_bounded_where_there_are_none(line: str, code: str) -> None:
    place, _, _ = only(read(TCP + line + "\n"))
    assert place.startswith("services/payments.yaml:4:")
    assert place.endswith(code)
    traffic(
        TCP
        + "circuit_limits: {connections: 5, pending: 5}\noutlier_detection: {}\nlocality: {prefer: zone}\n"
    )


def test_a_limit_names_no_tcp_port() -> None:
    mixed = "service: payments\nports: {raw: {protocol: tcp}, http: {protocol: http}}\nallow: []\n"
    assert found(read(mixed + "limits: [{requests: 1/s, port: raw}]\n")) == [
        "services/payments.yaml:4:32 VST0050"
    ]


@pytest.mark.parametrize(
    "line",
    ["health: {tcp: true}", "circuit_limits: {connections: 1}", "locality: {prefer: zone}", "mtls: strict"],
)
def test_what_nobody_can_call_has_nothing_to_bound(line: str) -> None:
    assert only(read("service: payments\n" + line + "\n"))[0] == "services/payments.yaml:2:1 VST0054"
