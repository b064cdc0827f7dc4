"""Routes to hosts outside for services that may call them, and an answer for those that may not.

The caller's own proxy decides, since there is none at the other end.  Rules hang at the route, so that a change of them
drains nothing; the caller is known, so they are those about this caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf.message import Message

from vestibule.envoy import access_log, codes, limits, listeners, matches, outside, replies, retries, switched
from vestibule.envoy.access_log import REQUEST_ID
from vestibule.envoy.protos import packed, seconds
from vestibule.envoy.rbac import http_rbac_of_anybody, network_rbac_until
from vestibule.envoy.world import World
from vestibule.intent.model import Defaults
from vestibule.intent.outside import External, OutsideProtocol
from vestibule.policy import Rule
from vestibule.policy.codes import CALL_DENIED
from vestibule.records import Address
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import Resource


@dataclass(frozen=True, slots=True)
class Outward:
    """A host outside from one caller's point of view: ``external`` has the rules about it only, possibly none."""

    external: External
    domains: tuple[str, ...]
    defaults: Defaults


def hosts(world: World, caller: SpiffeId) -> Iterator[Outward]:
    """Every host outside under the names by which apps call it.  What is a service's name goes to the service."""
    externals = world.outside_for(caller)
    if not externals:
        return
    known, name, defaults = world.host_names, world.mesh.name, world.defaults
    taken = {*known.not_http, *chain.from_iterable(known.names.values())}
    for external in externals:
        if given := tuple(each for each in _names(external.name, name) if each not in taken):
            yield Outward(external, given, defaults)


def _names(name: str, mesh: str) -> tuple[str, str]:
    return name, f"{name}.{mesh}"


def virtual_host(out: Outward, tunnel: Route, domains: Iterable[str] | None = None) -> VirtualHost:
    """The host under its names, or under ``domains``."""
    named = out.domains if domains is None else domains
    name = outside.cluster_name(out.external)
    return VirtualHost(name=name, domains=named, routes=[tunnel, _route(out)])


@lru_cache(maxsize=4096)
def tcp_listener(name: str, address: Address, external: External) -> Resource:
    """For a destination that speaks no HTTP; only where a rule allows the caller, and for as long as it does."""
    cluster = outside.cluster_name(external)
    log = access_log.outbound_connections(cluster, "", rule=external.allow[0].name)
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="egress_tcp", cluster=cluster, access_log=[log])
    filters = [listeners.tcp_proxy(proxy)]
    if (end := _end(external.allow)) is not None:
        ending = listener_components_pb2.Filter(name="envoy.filters.network.rbac")
        ending.typed_config.CopyFrom(packed(network_rbac_until(end, external.allow[0].name)))
        filters.insert(0, ending)
    return listeners.outbound(name, address, listener_components_pb2.FilterChain(filters=filters))


def _end(rules: Iterable[Rule]) -> datetime | None:
    """When the last of some rules ends, if all of them do."""
    ends = [rule.expires for rule in rules]
    return None if None in ends else max(each for each in ends if each is not None)


def _route(out: Outward) -> Route:
    external = out.external
    route = Route(name=outside.cluster_name(external), match=matches.every())
    if not external.allow:
        message = f"no rule of egress/{external.name} allows this caller"
        route.direct_response.CopyFrom(replies.direct(403, CALL_DENIED, message))
    elif not outside.speaks_http(external):
        message = "this destination speaks no HTTP: connect to the port in VESTIBULE_UPSTREAM_NAME"
        route.direct_response.CopyFrom(replies.direct(400, codes.NOT_HTTP, message))
    else:
        route.route.CopyFrom(_action(out))
        route.typed_per_filter_config[switched.FILTER].CopyFrom(switched.on(_filters(external)))
        _tell_request_id(route)
    return route


def _action(out: Outward) -> route_components_pb2.RouteAction:
    traffic, defaults = out.external.traffic, out.defaults
    action = route_components_pb2.RouteAction(cluster=outside.cluster_name(out.external))
    # The host outside sees its own name as ``Host``, whatever name the app called it by.
    action.auto_host_rewrite.value = True
    if out.external.protocol is OutsideProtocol.GRPC:
        # Streams may last, unless somebody says how long; a shorter deadline that the client sets is kept.
        most = (traffic.timeout or timedelta(0)).total_seconds()
        action.timeout.CopyFrom(seconds(most))
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(seconds(most))
    else:
        action.timeout.CopyFrom(seconds((traffic.timeout or defaults.timeout).total_seconds()))
    retries.apply(action, traffic.retry or defaults.retry)
    return action


def _filters(external: External) -> Iterator[tuple[str, Message]]:
    # The id of a request is taken off before it leaves; the log, and the app, are still to learn it.
    value = value_pb2.FilterStateValue(object_key=REQUEST_ID, factory_key="envoy.string")
    value.format_string.text_format_source.inline_string = replies.REQUEST_ID
    yield "envoy.filters.http.set_filter_state", set_filter_state_pb2.Config(on_request_headers=[value])
    yield "envoy.filters.http.rbac", http_rbac_of_anybody(external.allow)
    yield from limits.filters(_limits(external))


def _limits(external: External) -> tuple[limits.Limit, ...]:
    """There is one caller here; each of its instances has its own share."""
    return tuple(
        limits.Limit(name=f"egress/{external.name}/limits/{number}", limit=each, callers=1)
        for number, each in enumerate(external.traffic.limits, start=1)
    )


def _tell_request_id(route: Route) -> None:
    header = route.response_headers_to_add.add()
    # Many hosts have an id of their own to tell, by which their support finds the request.
    header.append_action = header.ADD_IF_ABSENT
    header.header.key, header.header.value = "x-request-id", access_log.KEPT_REQUEST_ID
