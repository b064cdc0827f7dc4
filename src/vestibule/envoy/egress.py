"""What a proxy does for its app's own calls: one listener for all services by name, and one per upstream.

By name means by ``Host``, ``:authority`` or a proxy's absolute form.  ``payments`` is the service's only HTTP port,
else the one named ``http``, else the first; ``grpc.payments`` is a certain one.  Both may be followed by the mesh's
name.  Whom a service may call follows from the callees' rules; the callee enforces them in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from vestibule.envoy import (
    access_log,
    codes,
    http,
    listeners,
    matches,
    outside,
    outward,
    replies,
    revoked,
    routes,
)
from vestibule.envoy.outward import Outward
from vestibule.envoy.protos import serialized
from vestibule.envoy.routes import Calls
from vestibule.envoy.trees import field
from vestibule.envoy.world import Destination, HostNames, World
from vestibule.intent.built_in import SECRETS_SERVICE
from vestibule.policy.codes import CALL_DENIED
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ROUTES, Resource


def by_name(world: World, caller: SpiffeId, allowed: Mapping[str, Calls], *, abroad: bool = True) -> Resource:
    """The routes of the listener that leads everywhere: the same for all instances of a service.

    Without ``abroad`` to services only.
    """
    return _routes_by_name(_Names.of(world, caller, allowed, abroad=abroad))


def resources(
    world: World, instance: Instance, allowed: Mapping[str, Calls], routes_by_name: Resource
) -> Iterator[Resource]:
    """The listeners that the instance has laid out, and their routes.  ``allowed`` is by the destinations' names."""
    if instance.egress is not None:
        yield _http_listener("egress", instance.egress, "", "")
        yield routes_by_name
    for name, address in sorted(instance.upstreams.items()):
        target, calls = world.destination(name), allowed.get(name)
        if target is None and (external := world.outside(name, instance.spiffe_id)) is not None:
            out = Outward(external, (), world.defaults)
            yield from _outward(f"upstream/{name}", address, out)
        elif target is None:
            yield _http_listener(f"upstream/{name}", address, name, "")
            yield _no_longer(f"upstream/{name}", name, known=False)
        elif target.port.protocol.is_http:
            yield _http_listener(f"upstream/{name}", address, target.service, target.port.name)
            if calls is not None:
                yield _routes_to(f"upstream/{name}", calls)
            else:
                yield _no_longer(f"upstream/{name}", name, known=True)
        elif calls is not None:
            yield _tcp_listener(f"upstream/{name}", address, target, world.cut_off(target.spiffe_id))


@dataclass(frozen=True, slots=True)
class _Names:
    """Which host names lead where, from one service's point of view."""

    allowed: tuple[tuple[Calls, tuple[str, ...]], ...]
    denied: bytes
    not_http: tuple[str, ...]
    outward: tuple[Outward, ...]

    @classmethod
    def of(cls, world: World, caller: SpiffeId, allowed: Mapping[str, Calls], *, abroad: bool) -> _Names:
        known = world.host_names
        return cls(
            allowed=tuple(
                (each, known.names[each.target]) for each in allowed.values() if each.target in known.names
            ),
            denied=_domains(known).but(allowed),
            not_http=known.not_http,
            outward=tuple(outward.hosts(world, caller)) if abroad else (),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Domains:
    """The names of all destinations, written already, and which part is whose."""

    written: bytes
    places: Mapping[str, tuple[int, int]]

    def but(self, names: Iterable[str]) -> bytes:
        """What is written of all others."""
        parts, at = [], 0
        for start, end in sorted(self.places[each] for each in names if each in self.places):
            parts.append(self.written[at:start])
            at = end
        return b"".join((*parts, self.written[at:]))


@lru_cache(maxsize=4)
def _domains(known: HostNames) -> _Domains:
    parts, places, at = [], dict[str, tuple[int, int]](), 0
    for each, domains in known.names.items():
        part = serialized(VirtualHost(domains=domains))
        places[each.name] = (at, at + len(part))
        parts.append(part)
        at += len(part)
    return _Domains(b"".join(parts), places)


@lru_cache(maxsize=4096)
def _http_listener(name: str, address: Address, service: str, port: str) -> Resource:
    manager = http.egress(
        name, access_log.outbound(service, port), custom_methods=name == f"upstream/{SECRETS_SERVICE}"
    )
    filters = listener_components_pb2.FilterChain(filters=[http.network_filter(manager)])
    return listeners.outbound(name, address, filters)


@lru_cache(maxsize=4096)
def _tcp_listener(name: str, address: Address, target: Destination, cut: str) -> Resource:
    log = access_log.outbound_connections(target.service, target.port.name)
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="egress_tcp", cluster=target.cluster, access_log=[log])
    filters = listener_components_pb2.FilterChain(
        filters=[listeners.tcp_proxy(proxy)], metadata=revoked.generation(cut)
    )
    return listeners.outbound(name, address, filters)


@lru_cache(maxsize=4096)
def _routes_by_name(names: _Names) -> Resource:
    shared = [_host_of(calls, domains) for calls, domains in names.allowed]
    outside = [outward.virtual_host(each, _tunnel()) for each in names.outward]
    shared.append(serialized(route_pb2.RouteConfiguration(virtual_hosts=outside)))
    if names.denied:
        shared.append(_denied_host(names.denied))
    return Resource.of(ROUTES, "egress", b"".join((_named("egress"), *shared, _others(names.not_http))))


@lru_cache(maxsize=16)
def _others(not_http: tuple[str, ...]) -> bytes:
    """The hosts that are the same for all callers, and the end of the routes, written already."""
    hosts = []
    if not_http:
        message = "this service speaks no HTTP: connect to the port in VESTIBULE_UPSTREAM_NAME"
        answer = replies.direct(400, codes.NOT_HTTP, message)
        hosts.append(VirtualHost(name="tcp", domains=not_http, routes=[_tunnel(), _answer("tcp", answer)]))
    hosts.append(
        VirtualHost(name="unknown", domains=["*"], routes=[_tunnel(), _unknown("%REQ(:AUTHORITY)%")])
    )
    return _rest(hosts)


def _denied_host(domains: bytes) -> bytes:
    """Fields are written in the order of their numbers: name, domains, routes."""
    name = serialized(VirtualHost(name="denied"))
    return field(
        route_pb2.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER, name + domains + _routes_of_denied()
    )


@cache
def _routes_of_denied() -> bytes:
    return serialized(VirtualHost(routes=[_tunnel(), _denied()]))


@lru_cache(maxsize=16_384)
def _host_of(calls: Calls, domains: tuple[str, ...]) -> bytes:
    """One destination among the routes, written already: the same for all that may call it."""
    host = VirtualHost(name=calls.target.name, domains=domains, routes=[_tunnel(), *routes.routes(calls)])
    return serialized(route_pb2.RouteConfiguration(virtual_hosts=[host]))


@lru_cache(maxsize=4096)
def _routes_to(name: str, calls: Calls) -> Resource:
    # The app dialled an address of this host; the callee's app should see its own name.
    found = routes.routes(calls, host=calls.target.service)
    return _config(name, [VirtualHost(name=calls.target.name, domains=["*"], routes=[_tunnel(), *found])])


def _outward(name: str, address: Address, out: Outward) -> Iterator[Resource]:
    """A listener for one host outside."""
    if outside.speaks_http(out.external):
        yield _http_listener(name, address, outside.cluster_name(out.external), "")
        yield _routes_outward(name, out)
    elif out.external.allow:
        yield outward.tcp_listener(name, address, out.external)


@lru_cache(maxsize=4096)
def _routes_outward(name: str, out: Outward) -> Resource:
    return _config(name, [outward.virtual_host(out, _tunnel(), ["*"])])


@lru_cache(maxsize=4096)
def _no_longer(name: str, upstream: str, *, known: bool) -> Resource:
    """For a listener whose destination was taken away while the app runs."""
    route = _denied() if known else _unknown(upstream)
    return _config(name, [VirtualHost(name=upstream, domains=["*"], routes=[_tunnel(), route])])


def _tunnel() -> Route:
    match = route_components_pb2.RouteMatch(connect_matcher=route_components_pb2.RouteMatch.ConnectMatcher())
    message = (
        "no tunnels: call http://NAME/ (the sidecars encrypt) or use the port in VESTIBULE_UPSTREAM_NAME"
    )
    return Route(
        name="tunnel", match=match, direct_response=replies.direct(501, codes.TUNNEL_REFUSED, message)
    )


def _denied() -> Route:
    return _answer(
        "denied", replies.direct(403, CALL_DENIED, "no rule of the called service allows this caller")
    )


def _unknown(shown: str) -> Route:
    return _answer("unknown", replies.direct(404, codes.UNKNOWN_DESTINATION, f"no service is called {shown}"))


def _answer(name: str, answer: route_components_pb2.DirectResponseAction) -> Route:
    return Route(name=name, match=matches.every(), direct_response=answer)


def _config(name: str, hosts: Iterable[VirtualHost]) -> Resource:
    return Resource.of(ROUTES, name, _named(name) + _rest(hosts))


def _named(name: str) -> bytes:
    """How routes begin.  Fields are written in the order of their numbers: name, virtual hosts, all else."""
    return serialized(route_pb2.RouteConfiguration(name=name))


def _rest(hosts: Iterable[VirtualHost]) -> bytes:
    """The last hosts, and what follows them."""
    return serialized(
        route_pb2.RouteConfiguration(
            virtual_hosts=hosts,
            # Envoy writes it on requests that it takes for ones from outside, as it does the app's here.
            request_headers_to_remove=["x-envoy-external-address"],
        )
    )
