"""The compiler as a pure function."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id

from vestibule.envoy import clusters, egress, ingress
from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.names import BOOTSTRAP_CLUSTERS
from vestibule.envoy.world import World
from vestibule.errors import VestibuleError
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.inspection import check
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, ProxyKey, Snapshot

AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/test")
SERVICES = (
    service("web", rule("web/edge", "spiffe://example.org/edge/**")),
    service(
        "payments", rule("payments/charge", "web", methods="POST", paths="/v1/charges"), http="http", db="tcp"
    ),
    service("ledger"),
)


def at(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def instance(name: str, number: int, **changes: Any) -> Instance:
    plain = Instance(
        id=f"{name}-{number}",
        service=name,
        spiffe_id=spiffe_id(name),
        agent_id=AGENT,
        ingress={"http": at(1000 + number)},
        apps={"http": at(2000 + number)},
        egress=at(3000 + number),
    )
    return replace(plain, **changes)


def world(*instances: Instance, services: Any = SERVICES, **more: Any) -> World:
    return World(intent=intent_of(*services), instances=instances, **more)


def compiled(within: World, name: str = "web", number: int = 1) -> Snapshot:
    snapshot = compile_proxy(within, ProxyKey(spiffe_id(name), f"{name}-{number}"))
    check(snapshot, given=BOOTSTRAP_CLUSTERS)
    return snapshot


def bodies(snapshot: Snapshot) -> dict[tuple[str, str], bytes]:
    return {
        (url, name): each.body for url, named in snapshot.resources.items() for name, each in named.items()
    }


def forget() -> None:
    """Let nothing be remembered from an earlier compilation."""
    for module in (clusters, egress, ingress):
        for each in vars(module).values():
            if hasattr(each, "cache_clear"):
                each.cache_clear()


def manager(snapshot: Snapshot, listener: str) -> Any:
    (chain,) = listener_pb2.Listener.FromString(snapshot.of_type(LISTENER)[listener].body).filter_chains
    return hcm_pb2.HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)


def test_a_rebuild_from_nothing_gives_the_same_bytes() -> None:
    instances = (instance("web", 1), instance("payments", 1), instance("payments", 2))
    first = compiled(world(*instances))
    forget()
    again = compiled(world(*reversed(instances), services=tuple(reversed(SERVICES))))
    assert bodies(first) == bodies(again)


def test_an_unchanged_resource_is_the_very_same_object() -> None:
    before = compiled(world(instance("web", 1)))
    after = compiled(world(instance("web", 1), instance("payments", 1)))
    changed = {name for name, body in bodies(before).items() if bodies(after)[name] != body}
    assert changed == {(ENDPOINTS, "payments/http")}
    assert before.of_type(LISTENER)["egress"] is after.of_type(LISTENER)["egress"]


def test_a_proxy_is_told_only_of_what_it_may_call() -> None:
    snapshot = compiled(world(instance("web", 1)))
    assert set(snapshot.of_type(CLUSTER)) == {"app:http", "payments/db", "payments/http"}
    assert set(snapshot.of_type(ENDPOINTS)) == {"payments/db", "payments/http"}
    assert set(compiled(world(instance("ledger", 1)), "ledger").of_type(CLUSTER)) == {"app:http"}


def test_a_new_rule_changes_the_callees_policy_and_nothing_else_there() -> None:
    here = instance("payments", 1)
    more = replace(SERVICES[1], allow=(*SERVICES[1].allow, rule("payments/all", "ledger")))
    before = bodies(compiled(world(here), "payments"))
    after = bodies(compiled(world(here, services=(SERVICES[0], more, SERVICES[2])), "payments"))
    assert {name for name in after if before.get(name) != after[name]} == {(EXTENSION, "policy/http")}


def test_instances_of_another_identity_are_nobodys_endpoints() -> None:
    posing = instance("payments", 1, spiffe_id=spiffe_id("ledger"))
    (found,) = [
        endpoint_pb2.ClusterLoadAssignment.FromString(each.body)
        for name, each in compiled(world(instance("web", 1), posing)).of_type(ENDPOINTS).items()
        if name == "payments/http"
    ]
    assert list(found.endpoints) == []


def test_a_cluster_is_pinned_to_the_callees_identity_and_resumes_nothing() -> None:
    resource = compiled(world(instance("web", 1))).of_type(CLUSTER)["payments/http"]
    cluster = cluster_pb2.Cluster.FromString(resource.body)
    tls = tls_pb2.UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
    (san,) = (
        tls.common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    )
    assert (san.san_type, san.matcher.exact) == (san.URI, str(spiffe_id("payments")))
    assert tls.HasField("max_session_keys")
    assert tls.max_session_keys.value == 0


def test_the_age_of_connections_follows_the_life_of_svids() -> None:
    ttls = {spiffe_id("web"): timedelta(seconds=10)}
    short = manager(compiled(world(instance("web", 1), svid_ttls=ttls)), "ingress/http")
    age = short.common_http_protocol_options.max_connection_duration.ToTimedelta()
    assert age == timedelta(seconds=4)
    assert age * 1.25 <= ttls[spiffe_id("web")] / 2
    # The field that the Python types do not know is there, and survives.
    assert b"\x42\x09\x09" in short.common_http_protocol_options.SerializeToString()


def test_listeners_of_upstreams_that_are_gone_still_answer() -> None:
    laid_out = instance("web", 1, upstreams={"payments/http": at(1), "ledger": at(2), "lost": at(3)})
    routes = compiled(world(laid_out)).of_type(ROUTES)
    statuses = {}
    for name in ("payments/http", "ledger", "lost"):
        config = route_pb2.RouteConfiguration.FromString(routes[f"upstream/{name}"].body)
        statuses[name] = config.virtual_hosts[0].routes[-1].direct_response.status
    assert statuses == {"payments/http": 0, "ledger": 403, "lost": 404}


def test_where_the_app_is_no_callee_is_told() -> None:
    laid_out = instance("web", 1, upstreams={"payments/http": at(1)})
    routes = compiled(world(laid_out)).of_type(ROUTES)
    for name in ("egress", "upstream/payments/http"):
        config = route_pb2.RouteConfiguration.FromString(routes[name].body)
        assert "x-envoy-external-address" in config.request_headers_to_remove


def test_no_host_name_has_two_meanings() -> None:
    # "payments.shop" could be payments in the mesh shop, or the port payments of the service shop.
    odd = (
        service("web"),
        service("shop", rule("shop/a", "web"), payments="http", http="http"),
        service("payments", rule("payments/a", "web"), http="http", grpc="grpc"),
    )
    config = route_pb2.RouteConfiguration.FromString(
        compiled(world(instance("web", 1), services=odd)).of_type(ROUTES)["egress"].body
    )
    domains = [domain for host in config.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains))
    routed = {host.name: set(host.domains) for host in config.virtual_hosts}
    assert routed["payments/http"] == {
        "payments",
        "payments.shop",
        "http.payments",
        "http.payments.shop",
    }
    assert routed["payments/grpc"] == {"grpc.payments", "grpc.payments.shop"}


def test_a_proxy_whose_service_is_gone_gets_nothing_and_one_unknown_an_error() -> None:
    assert compiled(world(instance("web", 1), services=SERVICES[1:])).resources == {}
    with pytest.raises(VestibuleError, match="VST3000"):
        compiled(world())
    with pytest.raises(VestibuleError, match="VST3000"):
        compile_proxy(world(instance("web", 1)), ProxyKey(spiffe_id("ledger"), "web-1"))


def test_a_world_knows_whom_a_caller_may_call() -> None:
    services = (
        service("a", rule("a/x", "spiffe://example.org/ns/prod/**"), http="http"),
        service("b", rule("b/x", "web", port="grpc"), http="http", grpc="grpc"),
        service("c", rule("c/x", "spiffe://example.org/ns/test/**")),
    )
    within = world(services=services)
    assert within.allowed_for(spiffe_id("web")) == {"a", "b/grpc"}
    assert within.allowed_for(spiffe_id("other")) == {"a"}
    assert within.allowed_for(SpiffeId.parse("spiffe://example.org/ns/testing/x")) == set()


def test_nothing_under_way_outlives_the_svid_that_it_began_with_whatever_the_caller_asks_for() -> None:
    services = (service("web"), service("payments", rule("payments/all", "web"), rpc="grpc"))
    here = instance("payments", 1, ingress={"rpc": at(1)}, apps={"rpc": at(2)})
    there = world(here, instance("web", 1), services=services, default_svid_ttl=timedelta(minutes=30))
    snapshot = compiled(there, "payments")
    options = manager(snapshot, "ingress/rpc").common_http_protocol_options
    assert options.max_stream_duration.seconds == 1800
    (route,) = (
        route_pb2.RouteConfiguration.FromString(snapshot.of_type(ROUTES)["ingress/rpc"].body)
        .virtual_hosts[0]
        .routes
    )
    # A deadline that a gRPC caller asks for is heeded up to the bound.
    assert route.route.max_stream_duration.grpc_timeout_header_max.seconds == 1800
    called = cluster_pb2.Cluster.FromString(compiled(there).of_type(CLUSTER)["payments/rpc"].body)
    packed = called.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    upstream = http_protocol_options_pb2.HttpProtocolOptions.FromString(packed.value)
    assert upstream.common_http_protocol_options.max_stream_duration.seconds == 1800
