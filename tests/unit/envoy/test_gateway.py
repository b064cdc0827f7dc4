"""Gateways, as the compiler sees them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id
from tests.unit.envoy.test_compile import AGENT, at, bodies, instance

from vestibule.envoy import gateway_routes
from vestibule.envoy.compile import Compiler, compile_proxy
from vestibule.envoy.host_secrets import CertificateFiles, parse
from vestibule.envoy.routes import Calls
from vestibule.envoy.world import World, destinations_of
from vestibule.intent.model import Defaults, Intent
from vestibule.intent.outside import Gateway, GatewayListener, GatewayTls
from vestibule.intent.traffic import Redirect, Rewrite, Route, RouteMatch, Share, Traffic, ValueMatch
from vestibule.policy import PathPattern
from vestibule.records import Instance
from vestibule.xds.resources import CLUSTER, LISTENER, ROUTES, ProxyKey, Snapshot

TLS = GatewayTls(certificate="/etc/edge/tls.crt", key="/etc/edge/tls.key")


def match(path: str | None = None, **more: Any) -> RouteMatch:
    return RouteMatch(path=None if path is None else PathPattern.parse(path), **more)


def route(
    name: str, path: str | None = None, *, to: str | None = "web", hosts: str = "", **more: Any
) -> Route:
    wanted = match(path, hosts=tuple(hosts.split()))
    port = "http" if to else None
    return Route(name=f"edge/{name}", match=wanted, service=to, service_port=port, **more)


GATEWAY = Gateway(
    name="edge",
    spiffe_id=spiffe_id("edge"),
    listeners={
        "https": GatewayListener(name="https", port=8443, tls=TLS, hosts=("*.example.com",)),
        "http": GatewayListener(name="http", port=8080),
    },
    routes=(
        route("secure", to=None, hosts="*.example.com", redirect=Redirect(https=True)),
        route("admin", hosts="admin.example.com"),
        route("books", "/books/**", to="ledger"),
        route("all", "/api/**"),
    ),
)
HERE = Instance(
    id="edge-1",
    service="edge",
    spiffe_id=spiffe_id("edge"),
    agent_id=AGENT,
    ingress={"https": at(8443), "http": at(8080)},
)


def intent(gateway: Gateway = GATEWAY) -> Intent:
    plain = intent_of(service("web", rule("web/edge", "edge")), service("ledger"))
    return replace(plain, gateways={"edge": gateway})


def compiled(gateway: Gateway = GATEWAY, here: Instance = HERE) -> Snapshot:
    world = World(intent=intent(gateway), instances=(here, instance("web", 1)))
    return compile_proxy(world, ProxyKey(here.spiffe_id, here.id))


def hosts(snapshot: Snapshot, listener: str) -> dict[str, list[str]]:
    """The names of the routes of each virtual host, in order."""
    config = route_pb2.RouteConfiguration.FromString(snapshot.of_type(ROUTES)[f"gateway/{listener}"].body)
    return {host.name: [each.name for each in host.routes] for host in config.virtual_hosts}


def test_a_gateway_has_its_listeners_and_the_clusters_that_it_may_call() -> None:
    snapshot = compiled()
    assert set(snapshot.of_type(LISTENER)) == {"gateway/http", "gateway/https"}
    assert set(snapshot.of_type(CLUSTER)) == {"web/http"}


def test_only_listeners_that_are_laid_out_are_opened() -> None:
    assert set(compiled(here=replace(HERE, ingress={"http": at(8080)})).of_type(LISTENER)) == {"gateway/http"}


def test_a_gateway_under_the_name_of_another_gets_nothing() -> None:
    assert compiled(here=replace(HERE, service="web")).resources == {}


def test_each_host_has_the_routes_that_are_for_it_and_what_is_no_host_has_none() -> None:
    # Where TLS is spoken, being sent to TLS means nothing.
    assert hosts(compiled(), "https") == {
        "*.example.com": ["edge/books", "edge/all", "unknown"],
        "admin.example.com": ["edge/admin", "edge/books", "edge/all", "unknown"],
        "*": ["unknown"],
    }
    assert hosts(compiled(), "http") == {
        "*": ["edge/books", "edge/all", "unknown"],
        "*.example.com": ["edge/secure", "edge/secure", "edge/books", "edge/all", "unknown"],
        "admin.example.com": [
            "edge/secure",
            "edge/secure",
            "edge/admin",
            "edge/books",
            "edge/all",
            "unknown",
        ],
    }


def test_tls_asks_clients_for_nothing_and_the_sidecar_for_the_certificate() -> None:
    listener = listener_pb2.Listener.FromString(compiled().of_type(LISTENER)["gateway/https"].body)
    (chain,) = listener.filter_chains
    tls = tls_pb2.DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
    assert not tls.require_client_certificate.value
    (secret,) = tls.common_tls_context.tls_certificate_sds_secret_configs
    assert parse(secret.name) == CertificateFiles(certificate=TLS.certificate, key=TLS.key)
    assert listener.per_connection_buffer_limit_bytes.value == 32 * 1024
    manager = hcm_pb2.HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)
    assert manager.use_remote_address.value
    assert manager.path_with_escaped_slashes_action == manager.UNESCAPE_AND_REDIRECT
    assert manager.request_timeout.seconds == 300


def test_a_gateway_is_compiled_anew_only_when_something_of_its_own_changes() -> None:
    compiler, key = Compiler(), ProxyKey(HERE.spiffe_id, HERE.id)
    instances = (HERE, instance("web", 1))
    compiler.take(World(intent=intent(), instances=instances))
    first = compiler.compile(key, None)
    other = intent_of(
        service("web", rule("web/edge", "edge")), service("ledger"), service("more"), version="v2"
    )
    compiler.take(World(intent=replace(other, gateways={"edge": GATEWAY}), instances=instances))
    second = compiler.compile(key, first)
    assert second.trace is first.trace
    moved = replace(GATEWAY, routes=GATEWAY.routes[2:])
    compiler.take(World(intent=replace(other, gateways={"edge": moved}, version="v3"), instances=instances))
    third = compiler.compile(key, second)
    changed = {name for name, body in bodies(third.snapshot).items() if bodies(second.snapshot)[name] != body}
    assert changed == {(ROUTES, "gateway/http"), (ROUTES, "gateway/https")}


# ------------------------------------------------------------------------- routes upon routes


def calls(*own: Route) -> Calls:
    web = replace(service("web"), traffic=Traffic(routes=own, versions=("v1", "v2")))
    (target,) = destinations_of(web)
    return Calls(target=target, traffic=web.traffic, defaults=Defaults())


def own(path: str | None = None, version: str = "v2", **more: Any) -> Route:
    wanted = more.pop("match", match(path))
    return Route(
        name="web/own", match=wanted, port="http", split=(Share(version=version, weight=100),), **more
    )


def led(gateways: Route, *owns: Route) -> list[tuple[str, str]]:
    """Path and version of each route that comes of a gateway's and a service's own."""
    found = gateway_routes.composed(gateways, calls(*owns))
    return [(str(each.match.path), each.split[0].version if each.split else "any") for each in found]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ("/api/**", "/api/v2/**", [("/api/v2/**", "v2"), ("/api/**", "any")]),
        ("/api/v2/x", "/api/**", [("/api/v2/x", "v2"), ("/api/v2/x", "any")]),
        (None, "/v2/**", [("/v2/**", "v2"), ("None", "any")]),
        ("/api/**", None, [("/api/**", "v2")]),
        ("/api/**", "/other/**", [("/api/**", "any")]),
        # They cross: neither holds the other.
        ("/a/{x}/c", "/a/b/{y}", [("/a/b/c", "v2"), ("/a/{x}/c", "any")]),
        ("/{x}/b/**", "/a/{y}/c", [("/a/b/c", "v2"), ("/{x}/b/**", "any")]),
    ],
)
def test_a_services_own_routes_hold_behind_a_gateways(
    mine: str | None, theirs: str | None, expected: list[tuple[str, str]]
) -> None:
    assert led(route("r", mine), own(theirs)) == expected


@pytest.mark.parametrize(
    ("mine", "to", "theirs", "expected"),
    [
        ("/api/**", "/", "/v2/**", [("/api/v2/**", "v2"), ("/api/**", "any")]),
        ("/api/**", "/v2", "/v2/things/{id}", [("/api/things/{id}", "v2"), ("/api/**", "any")]),
        ("/api/**", "/v2", "/v2/**", [("/api/**", "v2"), ("/api/**", "any")]),
        ("/api/**", "/v2/x", "/v2/**", [("/api/**", "v2"), ("/api/**", "any")]),
        ("/api/**", "/v1", "/v2/**", [("/api/**", "any")]),
        ("/api", "/v2", "/v2", [("/api", "v2"), ("/api", "any")]),
        (None, "/v2", "/v2/x", [("/x", "v2"), ("None", "any")]),
    ],
)
def test_a_services_paths_are_those_that_a_gateway_rewrites_to(
    mine: str | None, to: str, theirs: str, expected: list[tuple[str, str]]
) -> None:
    assert led(route("r", mine, rewrite=Rewrite(path=to)), own(theirs)) == expected


def test_what_both_ask_is_asked_and_what_neither_says_is_left() -> None:
    gateways = replace(
        route("r", timeout=timedelta(seconds=1)),
        match=match(methods=frozenset({"GET", "PUT"}), headers=(ValueMatch(name="a"),)),
    )
    beta = match(methods=frozenset({"GET"}), headers=(ValueMatch(name="b"),))
    slow = own(match=beta, timeout=timedelta(seconds=9), idle_timeout=timedelta(seconds=7))
    both, rest = gateway_routes.composed(gateways, calls(slow))
    assert both.match.methods == {"GET"}
    assert [each.name for each in both.match.headers] == ["a", "b"]
    assert (both.timeout, both.idle_timeout) == (timedelta(seconds=1), timedelta(seconds=7))
    assert rest == gateways
    posts = own(match=match(methods=frozenset({"POST"})))
    assert list(gateway_routes.composed(gateways, calls(posts))) == [gateways]


def test_both_rewrite_one_after_the_other() -> None:
    inner = own("/v2/**", rewrite=Rewrite(path="/new", host="inner"))
    first, _ = gateway_routes.composed(route("r", "/api/**", rewrite=Rewrite(path="/v2")), calls(inner))
    assert (str(first.match.path), first.rewrite) == ("/api/**", Rewrite(path="/new", host="inner"))


@pytest.mark.parametrize(
    ("mine", "to", "theirs", "then", "expected"),
    [
        ("/api/**", "/", "/v1/**", None, ("/api/v1/**", "/v1")),
        ("/api/**", None, "/api/v1/**", "/v2", ("/api/v1/**", "/v2")),
        ("/v1/public/**", None, "/v1/**", "/v2", ("/v1/public/**", "/v2/public")),
        ("/v1/public", None, "/v1/**", "/v2", ("/v1/public", "/v2/public")),
        ("/v1/public/**", None, "/v1/**", "/", ("/v1/public/**", "/public")),
        ("/api/**", "/foo/bar", "/foo/**", "/new", ("/api/**", "/new/bar")),
        ("/api/**", "/foo", None, "/base", ("/api/**", "/base/foo")),
        ("/api/**", "/v1", "/v1/things/{id}", "/v2", ("/api/things/{id}", "/v2")),
        ("/api", "/v1", "/v1", "/v2", ("/api", "/v2")),
        ("/a/b/{y}", None, "/a/{x}/c", "/z", ("/a/b/c", "/z/b/c")),
        (None, None, None, None, ("None", None)),
    ],
)
def test_a_path_arrives_where_both_lead_it_one_after_the_other(
    mine: str | None, to: str | None, theirs: str | None, then: str | None, expected: tuple[str, str | None]
) -> None:
    """Nothing that a gateway's pattern names gets lost on the way: ``/v1/public`` never becomes ``/v2``."""
    gateways = route("r", mine, rewrite=Rewrite(path=to) if to else None)
    first, *_ = gateway_routes.composed(
        gateways, calls(own(theirs, rewrite=Rewrite(path=then) if then else None))
    )
    assert (str(first.match.path), first.rewrite.path if first.rewrite else None) == expected


def test_a_services_redirect_keeps_what_only_the_gateway_names() -> None:
    there = own("/v1/**", redirect=Redirect(path="/v2"))
    first, _ = gateway_routes.composed(route("r", "/v1/public/**"), calls(there))
    assert first.redirect == Redirect(path="/v2/public")
