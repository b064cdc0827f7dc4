"""The way in from outside: listeners at the edge, hardened against whoever may come, and routes to services.

A gateway has an identity and calls services under their rules, as any service does; its clients have none that counts
here.  Nothing that they send speaks for them or for a proxy: what claims to is taken out before anything reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.type.matcher.v3 import string_pb2

from vestibule.envoy import (
    access_log,
    codes,
    gateway_http,
    gateway_routes,
    gateway_tokens,
    http,
    listeners,
    matches,
    replies,
)
from vestibule.envoy import routes as service_routes
from vestibule.envoy.gateway_tls import serving_tls
from vestibule.envoy.protos import serialized
from vestibule.envoy.routes import Calls
from vestibule.envoy.tokens import NO_ISSUERS, Issuers
from vestibule.intent.model import Protocol
from vestibule.intent.outside import Gateway, GatewayListener, GatewayTls
from vestibule.intent.traffic import Redirect, Route
from vestibule.records import Address, Instance
from vestibule.xds.resources import ROUTES, Resource


def resources(
    gateway: Gateway, instance: Instance, calls: Mapping[str, Calls], issuers: Issuers = NO_ISSUERS
) -> Iterator[Resource]:
    """The listeners that the instance has laid out, and their routes.

    ``calls`` are by ``service/port``, ``issuers`` whose tokens count.
    """
    yield gateway_tokens.resource(gateway.routes, issuers)
    known = frozenset(each.name for each in issuers.known)
    streams = any(each.target.port.protocol is Protocol.GRPC for each in calls.values())
    secure = next((each.port for _, each in sorted(gateway.listeners.items()) if each.tls is not None), None)
    for name, listener in sorted(gateway.listeners.items()):
        address = instance.ingress.get(name)
        if address is None:
            continue
        yield _listener(gateway.name, name, address, listener.tls, streams)
        led = tuple((each, _called(each, calls)) for each in gateway.routes)
        asked = frozenset(each.token.issuer for each in gateway.routes if each.token is not None)
        yield _routes(listener, led, secure, asked & known)


def _only_to_https(route: Route) -> bool:
    return route.redirect is not None and route.redirect.is_only_to_https


def _called(route: Route, calls: Mapping[str, Calls]) -> Calls | None:
    return calls.get(f"{route.service}/{route.service_port}")


def listener_name(listener: str) -> str:
    return f"gateway/{listener}"


@lru_cache(maxsize=1024)
def _listener(gateway: str, name: str, address: Address, tls: GatewayTls | None, streams: bool) -> Resource:
    manager = gateway_http.edge(listener_name(name), access_log.inbound(gateway, name), streams=streams)
    chain = listener_components_pb2.FilterChain(filters=[http.network_filter(manager)])
    if tls is not None:
        chain.transport_socket.CopyFrom(serving_tls(tls))
    log = access_log.inbound_connections(gateway, name)
    return listeners.edge(listener_name(name), address, chain, log)


_Led = tuple[Route, Calls | None]


@lru_cache(maxsize=1024)
def _routes(
    listener: GatewayListener, led: tuple[_Led, ...], secure: int | None, issuers: frozenset[str]
) -> Resource:
    """``issuers`` are those whose keys are known."""
    name = listener_name(listener.name)
    kept = [each for each in led if not (listener.tls is not None and _only_to_https(each[0]))]
    calls = dict(kept)
    hosts = [
        _virtual_host(domain, gateway_routes.for_domain(domain, calls), calls, secure, issuers)
        for domain in gateway_routes.domains(listener.hosts, calls)
    ]
    if "*" not in listener.hosts:
        hosts.append(_virtual_host("*", (), calls, secure))
    # The port stays in ``Host``, so that redirects lead back to where the client came.
    config = route_pb2.RouteConfiguration(name=name, virtual_hosts=hosts, ignore_port_in_host_matching=True)
    return Resource.of(ROUTES, name, serialized(config))


def _virtual_host(
    domain: str,
    wanted: Iterable[Route],
    calls: Mapping[Route, Calls | None],
    secure: int | None,
    issuers: frozenset[str] = frozenset(),
) -> VirtualHost:
    host = VirtualHost(name=domain, domains=[domain])
    for route in wanted:
        host.routes.extend(_route(route, calls[route], secure, issuers))
    host.routes.append(_nowhere())
    # Envoy writes it on requests that it takes for ones from outside.
    host.request_headers_to_remove.append("x-envoy-external-address")
    return host


def _route(
    wanted: Route, calls: Calls | None, secure: int | None, issuers: frozenset[str]
) -> Iterator[EnvoyRoute]:
    if wanted.redirect is not None:
        yield from _elsewhere(wanted, wanted.redirect, secure)
    elif calls is None:
        message = "this gateway may not call what is there"
        yield EnvoyRoute(
            name=wanted.name,
            match=matches.match(wanted.match),
            direct_response=replies.direct(403, codes.GATEWAY_NOT_ALLOWED, message),
        )
    elif wanted.token is not None and wanted.token.issuer not in issuers:
        message = "nobody can be recognised here at the moment"
        yield EnvoyRoute(
            name=wanted.name,
            match=matches.match(wanted.match),
            direct_response=replies.direct(503, codes.ISSUER_WITHOUT_KEYS, message),
        )
    else:
        for each in gateway_routes.composed(wanted, calls):
            compiled = service_routes.route(each, calls)
            if (asked := gateway_tokens.asked_by(wanted)) is not None:
                compiled.typed_per_filter_config[gateway_tokens.SLOT].CopyFrom(asked)
            yield compiled


def _elsewhere(wanted: Route, redirect: Redirect, secure: int | None) -> Iterator[EnvoyRoute]:
    """Clients that named a port are sent to that of our own listener for TLS; others to the usual one.

    Whoever came by the usual port may well have come through something that translates ports.
    """
    action = service_routes.redirection(wanted, redirect)
    plain = EnvoyRoute(name=wanted.name, match=matches.match(wanted.match), redirect=action)
    if redirect.https and redirect.host is None and secure is not None:
        named = EnvoyRoute()
        named.CopyFrom(plain)
        named.match.headers.append(_names_a_port())
        named.redirect.port_redirect = secure
        yield named
    yield plain


def _names_a_port() -> route_components_pb2.HeaderMatcher:
    with_port = string_pb2.StringMatcher(safe_regex=matches.regex(r".*:[0-9]+"))
    return route_components_pb2.HeaderMatcher(name=":authority", string_match=with_port)


def _nowhere() -> EnvoyRoute:
    answer = replies.direct(404, codes.NO_GATEWAY_ROUTE, "there is nothing at this address")
    return EnvoyRoute(
        name="unknown", match=route_components_pb2.RouteMatch(prefix="/"), direct_response=answer
    )
