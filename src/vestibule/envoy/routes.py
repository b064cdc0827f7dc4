"""Routes to a destination: what a caller's proxy, or a gateway, does with the requests that are meant for it.

The caller's proxy rewrites, splits, retries and times; the callee's authorises what then arrives there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from envoy.config.route.v3.route_components_pb2 import RouteAction
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy import faults, matches, paths, retries, switched
from vestibule.envoy.mcp_replies import SPEAKS_MCP
from vestibule.envoy.protos import fraction, seconds
from vestibule.envoy.world import Destination
from vestibule.intent.model import Defaults, Protocol
from vestibule.intent.traffic import Mirror, Redirect, Route, Traffic
from vestibule.policy import Rule

_REDIRECTS: Final = {
    301: route_components_pb2.RedirectAction.MOVED_PERMANENTLY,
    302: route_components_pb2.RedirectAction.FOUND,
    303: route_components_pb2.RedirectAction.SEE_OTHER,
    307: route_components_pb2.RedirectAction.TEMPORARY_REDIRECT,
    308: route_components_pb2.RedirectAction.PERMANENT_REDIRECT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """All that decides how calls from one proxy to one destination travel.

    ``traffic`` holds what is in force: nothing that has expired.  ``mirrors`` are the clusters of other services that
    the proxy has, as far as routes mirror to them: what is mirrored to a service that does not allow the caller goes
    nowhere.  ``injecting`` are the rules there that let in who shows a token which callers' proxies send along.
    """

    target: Destination
    traffic: Traffic
    defaults: Defaults
    mirrors: frozenset[str] = frozenset()
    injecting: tuple[Rule, ...] = ()
    _hash: int | None = field(default=None, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        # Everybody who calls a destination looks up what was made of this, which goes deep.
        if (known := self._hash) is None:
            known = hash((self.target, self.traffic, self.defaults, self.mirrors))
            object.__setattr__(self, "_hash", known)
        return known

    @property
    def routes(self) -> Iterator[Route]:
        """The routes of the destination's port."""
        return routes_of(self.traffic, self.target.port.name)


def routes_of(traffic: Traffic, port: str) -> Iterator[Route]:
    """A service's routes for one of its ports."""
    return (each for each in traffic.routes if each.port in (None, port))


def versions_of(traffic: Traffic, port: str) -> tuple[str, ...]:
    """The versions that have clusters of their own: all of them, as soon as one is spoken of by a route.

    So a weight that moves from or to 0 changes routes and nothing else.
    """
    routes = tuple(routes_of(traffic, port))
    named = {share.version for route in routes for share in route.split}
    named |= {mirror.version for route in routes for mirror in route.mirror if mirror.version is not None}
    return tuple(sorted({*traffic.versions, *named})) if named else ()


def mirrored(traffic: Traffic, port: str) -> frozenset[str]:
    """The clusters of other services to which routes of a port send copies."""
    every = (mirror for route in routes_of(traffic, port) for mirror in route.mirror)
    return frozenset(f"{each.service}/{each.port or port}" for each in every if each.service is not None)


def version_cluster(target: Destination, version: str) -> str:
    """The name of the cluster, and of the endpoints, of one version of a destination."""
    return f"{target.cluster}@{version}"


def routes(calls: Calls, *, host: str = "") -> Iterator[EnvoyRoute]:
    """Every route to a destination in order, the last of which takes what the others leave.

    ``host`` is what the callee sees as ``Host``, unless a route says otherwise; what the caller wrote, if it is empty.
    """
    for each in calls.routes:
        yield route(each, calls, host=host)
        if matches.is_every(each.match):
            return
    yield route(Route(name=calls.target.cluster), calls, host=host)


def route(wanted: Route, calls: Calls, *, host: str = "") -> EnvoyRoute:
    """One route.  What it leaves open, the service says, else the mesh."""
    compiled = EnvoyRoute(name=wanted.name, match=matches.match(wanted.match))
    if calls.target.port.protocol is Protocol.MCP:
        compiled.metadata.filter_metadata["vestibule"].update(SPEAKS_MCP)
    if wanted.redirect is not None:
        compiled.redirect.CopyFrom(redirection(wanted, wanted.redirect))
        return compiled
    action = compiled.route
    _lead(action, wanted, calls)
    _bound(action, wanted, calls)
    _rewrite(action, wanted, host)
    for mirror in wanted.mirror:
        _mirror(action, mirror, calls)
    if wanted.fault is not None:
        compiled.typed_per_filter_config[switched.FILTER].CopyFrom(faults.of_route(wanted.fault))
    return compiled


def _lead(action: RouteAction, wanted: Route, calls: Calls) -> None:
    shares = [share for share in wanted.split if share.weight]
    if not shares:
        action.cluster = calls.target.cluster
    elif len(shares) == 1:
        action.cluster = version_cluster(calls.target, shares[0].version)
    else:
        for share in shares:
            action.weighted_clusters.clusters.add(
                name=version_cluster(calls.target, share.version), weight=UInt32Value(value=share.weight)
            )


def _bound(action: RouteAction, wanted: Route, calls: Calls) -> None:
    """Times and tries."""
    said = wanted.timeout or calls.traffic.timeout
    if calls.target.port.protocol is Protocol.GRPC:
        # Streams may last, unless somebody says how long; a shorter deadline that the client sets is kept.
        most = said or timedelta(0)
        action.timeout.CopyFrom(_duration(most))
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(_duration(most))
        if said is not None:
            action.max_stream_duration.max_stream_duration.CopyFrom(_duration(most))
    else:
        standing = timedelta(0) if calls.target.port.protocol.lasts else calls.defaults.timeout
        action.timeout.CopyFrom(_duration(said or standing))
    if calls.target.port.protocol is Protocol.MCP:
        # Unless somebody says more, a server may have nothing to say to its clients for hours.
        action.idle_timeout.CopyFrom(seconds(0))
    if wanted.idle_timeout is not None:
        action.idle_timeout.CopyFrom(_duration(wanted.idle_timeout))
    retry = wanted.retry or calls.traffic.retry or calls.defaults.retry
    retries.apply(action, retry, wanted.hedge)


def _rewrite(action: RouteAction, wanted: Route, host: str) -> None:
    if wanted.rewrite is not None and wanted.rewrite.path is not None:
        paths.rewrite(action, wanted.match.path, wanted.rewrite.path)
    if wanted.rewrite is not None and wanted.rewrite.host is not None:
        host = wanted.rewrite.host
    if host:
        action.host_rewrite_literal = host


def redirection(wanted: Route, redirect: Redirect) -> route_components_pb2.RedirectAction:
    """Where a caller is sent instead."""
    action = route_components_pb2.RedirectAction(response_code=_REDIRECTS[redirect.status])
    if redirect.path is not None:
        paths.rewrite(action, wanted.match.path, redirect.path)
    if redirect.host is not None:
        action.host_redirect = redirect.host
    if redirect.https:
        action.https_redirect = True
    return action


def _mirror(action: RouteAction, mirror: Mirror, calls: Calls) -> None:
    if mirror.version is not None:
        cluster = version_cluster(calls.target, mirror.version)
    else:
        cluster = f"{mirror.service}/{mirror.port or calls.target.port.name}"
        if cluster not in calls.mirrors:
            return
    policy = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
    policy.runtime_fraction.CopyFrom(
        base_pb2.RuntimeFractionalPercent(default_value=fraction(mirror.percent))
    )
    if mirror.service is not None:
        policy.host_rewrite_literal = mirror.service


def _duration(amount: timedelta) -> Duration:
    return seconds(amount.total_seconds())
