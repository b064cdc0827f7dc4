"""Routes to a destination, as messages: what callers' proxies are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from tests.e2e.mesh_lab import service
from tests.e2e.traffic_lab import has, route

from vestibule.envoy import clusters, routes
from vestibule.envoy.routes import Calls
from vestibule.envoy.switched import FILTER
from vestibule.envoy.world import destinations_of
from vestibule.intent.model import Defaults
from vestibule.intent.traffic import (
    Fault,
    Hedge,
    Mirror,
    Redirect,
    Retry,
    RetryOn,
    Rewrite,
    Traffic,
)
from vestibule.records import Address

PAYMENTS = service("payments")
GRPC = service("payments", api="grpc")
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
NOON = datetime(2026, 12, 31, 12, tzinfo=UTC)


def calls(*found: Any, of: Any = PAYMENTS, mirrors: frozenset[str] = frozenset(), **traffic: Any) -> Calls:
    (target,) = destinations_of(of)
    said = Traffic(routes=found, **traffic)
    return Calls(target=target, traffic=said, defaults=Defaults(), mirrors=mirrors)


def compiled(*found: Any, host: str = "", **more: Any) -> list[EnvoyRoute]:
    return list(routes.routes(calls(*found, **more), host=host))


def only(wanted: Any, **more: Any) -> EnvoyRoute:
    first, *_ = compiled(wanted, **more)
    return first


def test_without_routes_there_is_one_to_all_instances() -> None:
    (default,) = compiled()
    assert (default.name, default.match.prefix) == ("payments/http", "/")
    assert default.route.cluster == "payments/http"
    assert default.route.timeout.ToTimedelta() == timedelta(seconds=15)
    assert default.route.retry_policy.num_retries.value == 2
    assert default.route.retry_policy.retry_on == "connect-failure,refused-stream,reset-before-request"
    assert not default.typed_per_filter_config


def test_the_default_route_comes_last_unless_another_takes_everything() -> None:
    assert [each.name for each in compiled(route(path="/a"))] == ["payments/route", "payments/http"]
    assert [each.name for each in compiled(route(), route("payments/never"))] == ["payments/route"]
    assert [each.name for each in compiled(route(path="/**"))] == ["payments/route"]
    assert len(compiled(route(headers=(has("x"),)))) == 2


def test_routes_of_other_ports_are_none_of_this_one() -> None:
    assert [each.name for each in compiled(route(port="admin"))] == ["payments/http"]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1", "path", "/v1"),
        ("/", "path", "/"),
        ("/v1/", "path", "/v1/"),
        ("/v1/**", "path_separated_prefix", "/v1"),
        ("/**", "prefix", "/"),
        (None, "prefix", "/"),
    ],
)
def test_paths_are_matched_as_cheaply_as_they_can_be(path: str | None, field: str, value: str) -> None:
    match = only(route(path=path, headers=(has("x"),))).match
    assert getattr(match, field) == value


def test_templates_are_regular_expressions_of_whole_segments() -> None:
    assert only(route(path="/v1/{id}/lines/**")).match.safe_regex.regex == "/v1/[^/]+/lines(?:/.*)?"


def test_weights_choose_clusters_and_the_rest_has_none() -> None:
    weighted = only(route(split={"v1": 90, "v2": 10, "v3": 0})).route.weighted_clusters
    assert [(each.name, each.weight.value) for each in weighted.clusters] == [
        ("payments/http@v1", 90),
        ("payments/http@v2", 10),
    ]
    assert only(route(split={"v1": 0, "v2": 100})).route.cluster == "payments/http@v2"


def test_every_version_has_a_cluster_as_soon_as_one_is_spoken_of() -> None:
    assert routes.versions_of(Traffic(versions=("v2", "v1"), routes=(route(path="/a"),)), "http") == ()
    split = Traffic(versions=("v1", "v2"), routes=(route(split={"v1": 100}),))
    assert routes.versions_of(split, "http") == ("v1", "v2")
    mirror = Traffic(versions=("v1", "v2"), routes=(route(mirror=(Mirror(version="v2"),)),))
    assert routes.versions_of(mirror, "http") == ("v1", "v2")
    elsewhere = Traffic(versions=("v1",), routes=(route(port="admin", split={"v1": 100}),))
    assert routes.versions_of(elsewhere, "http") == ()


@pytest.mark.parametrize(
    ("path", "new", "expected"),
    [
        ("/a", "/b", {"prefix_rewrite": "/b"}),
        ("/v1/**", "/v2", {"regex": "^/v1", "substitution": "/v2"}),
        ("/v1/**", "/", {"regex": "^/v1/?", "substitution": "/"}),
        ("/v1/{id}/x", "/v2/", {"regex": "^/v1", "substitution": "/v2"}),
        (None, "/api", {"regex": "^", "substitution": "/api"}),
    ],
)
def test_a_new_path_takes_the_place_of_what_is_literal(
    path: str | None, new: str, expected: dict[str, str]
) -> None:
    action = only(route(path=path, rewrite=Rewrite(path=new))).route
    if "regex" in expected:
        found = {
            "regex": action.regex_rewrite.pattern.regex,
            "substitution": action.regex_rewrite.substitution,
        }
    else:
        found = {"prefix_rewrite": action.prefix_rewrite}
    assert found == expected


def test_a_route_says_more_than_its_service_which_says_more_than_the_mesh() -> None:
    own, service_wide = compiled(
        route(path="/a", timeout=timedelta(seconds=1), retry=Retry(attempts=5)),
        timeout=timedelta(seconds=2),
        retry=Retry(attempts=4),
    )
    assert own.route.timeout.ToTimedelta() == timedelta(seconds=1)
    assert own.route.retry_policy.num_retries.value == 4
    assert service_wide.route.timeout.ToTimedelta() == timedelta(seconds=2)
    assert service_wide.route.retry_policy.num_retries.value == 3


def test_grpc_calls_last_as_long_as_they_like_unless_somebody_says_how_long() -> None:
    (free,) = compiled(of=GRPC)
    assert free.route.HasField("timeout")
    assert free.route.timeout.ToTimedelta() == timedelta(0)
    assert free.route.max_stream_duration.HasField("grpc_timeout_header_max")
    assert not free.route.max_stream_duration.HasField("max_stream_duration")
    (bound,) = compiled(of=GRPC, timeout=timedelta(seconds=3))
    for field in ("max_stream_duration", "grpc_timeout_header_max"):
        assert getattr(bound.route.max_stream_duration, field).ToTimedelta() == timedelta(seconds=3)


def test_who_is_tried_once_has_no_retries() -> None:
    (once,) = compiled(retry=Retry(attempts=1))
    assert not once.route.HasField("retry_policy")


def test_retries_say_what_when_and_where() -> None:
    retry = Retry(
        attempts=2,
        on=(RetryOn.CONNECT_FAILURE,),
        statuses=(503, 429),
        per_try=timedelta(milliseconds=300),
        backoff=timedelta(milliseconds=100),
    )
    (found,) = compiled(retry=retry)
    policy = found.route.retry_policy
    # A try that runs out of time is a reset, in Envoy's eyes.
    assert policy.retry_on == "connect-failure,reset,retriable-status-codes"
    assert list(policy.retriable_status_codes) == [503, 429]
    assert policy.per_try_timeout.ToTimedelta() == timedelta(milliseconds=300)
    assert policy.retry_back_off.base_interval.ToTimedelta() == timedelta(milliseconds=100)
    assert policy.retry_back_off.max_interval.ToTimedelta() == timedelta(seconds=1)
    assert [each.name for each in policy.retry_host_predicate] == [
        "envoy.retry_host_predicates.previous_hosts"
    ]


def test_a_hedge_is_a_further_try_beside_the_first() -> None:
    action = only(route(hedge=Hedge(after=timedelta(milliseconds=200), attempts=3))).route
    assert action.hedge_policy.hedge_on_per_try_timeout
    assert action.retry_policy.per_try_timeout.ToTimedelta() == timedelta(milliseconds=200)
    assert action.retry_policy.num_retries.value == 2


def test_copies_go_only_where_the_caller_may_call_itself() -> None:
    mirror = (Mirror(version="v2", percent=0.5), Mirror(service="audit", port="http"))
    wanted = route(mirror=mirror)
    (alone,) = only(wanted).route.request_mirror_policies
    assert (alone.cluster, alone.runtime_fraction.default_value.numerator) == ("payments/http@v2", 5_000)
    both = only(wanted, mirrors=frozenset({"audit/http"})).route.request_mirror_policies
    assert [each.cluster for each in both] == ["payments/http@v2", "audit/http"]
    assert routes.mirrored(Traffic(routes=(wanted,)), "http") == {"audit/http"}


def test_callers_are_redirected_without_any_of_the_rest() -> None:
    wanted = route(path="/old", redirect=Redirect(path="/new", host="x", https=True, status=307))
    found = only(wanted)
    assert not found.HasField("route")
    assert (found.redirect.path_redirect, found.redirect.host_redirect) == ("/new", "x")
    assert found.redirect.https_redirect
    assert found.redirect.response_code == found.redirect.TEMPORARY_REDIRECT


def test_a_fault_is_in_its_own_route_with_its_end() -> None:
    found, rest = compiled(route(path="/a", fault=Fault(until=NOON, abort=503)))
    assert b"2026-12-31T12:00:00.000000Z" in found.typed_per_filter_config[FILTER].value
    assert not rest.typed_per_filter_config


def test_the_callee_sees_the_host_that_is_said() -> None:
    first, rest = compiled(route(path="/a", rewrite=Rewrite(host="inner")), host="payments")
    assert (first.route.host_rewrite_literal, rest.route.host_rewrite_literal) == ("inner", "payments")


def test_answers_of_an_mcp_server_last_too_and_its_app_speaks_plain_http() -> None:
    tools = service("tools", main="mcp")
    (free,) = compiled(of=tools)
    assert free.route.timeout.ToTimedelta() == timedelta(0)
    (bound,) = compiled(of=tools, timeout=timedelta(seconds=3))
    assert bound.route.timeout.ToTimedelta() == timedelta(seconds=3)
    app = clusters.app(tools.ports["main"], Address(host="127.0.0.1", port=1))
    options = HttpProtocolOptions()
    assert Cluster.FromString(app.body).typed_extension_protocol_options[OPTIONS].Unpack(options)
    assert options.explicit_http_config.HasField("http_protocol_options")
