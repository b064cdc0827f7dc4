"""Routes of a service: each resolved and checked by itself, then against those before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from vestibule.intent import codes, traffic_keys
from vestibule.intent.matches import build_match, refuse_unreachable
from vestibule.intent.model import Defaults, Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.ports import Ports, called_port, called_ports, said_port
from vestibule.intent.problems import Findings
from vestibule.intent.redirects import check_redirect
from vestibule.intent.resolving import Names, advice
from vestibule.intent.retries import (
    check_conditions,
    check_hedge,
    check_tries,
    possible_methods,
    warn_of_hedges,
    warn_of_repeats,
)
from vestibule.intent.shapes import At, Fields
from vestibule.intent.traffic import Mirror, Retry, Route, RouteMatch, Share
from vestibule.policy import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a route is checked against: its service, and what holds where the route says nothing."""

    service: str
    ports: Ports
    names: Names
    versions: tuple[str, ...]
    versions_known: bool
    timeout: timedelta | None
    retry: Retry | None
    defaults: Defaults
    allow: tuple[Rule, ...]

    @property
    def http_ports(self) -> tuple[Port, ...]:
        return tuple(port for port in self.ports.values() if port and port.protocol.is_http)

    @property
    def protocols(self) -> frozenset[Protocol]:
        """Those that are spoken; of a port in error, any."""
        known = [port.protocol for port in self.ports.values() if port]
        return frozenset(known if len(known) == len(self.ports) else Protocol)

    @property
    def effective_retry(self) -> Retry:
        return self.retry or self.defaults.retry

    def effective_timeout(self, protocol: Protocol | None) -> timedelta | None:
        """Streams may last, unless the service says otherwise."""
        return self.timeout or (None if protocol and protocol.lasts else self.defaults.timeout)


def build_routes(fields: Fields, around: Surroundings, findings: Findings) -> tuple[Route, ...]:
    """The routes of a service, in their order; those in error are left out."""
    listed = fields.get(traffic_keys.ROUTES)
    routes: list[tuple[At[Fields], Route]] = []
    ids: dict[str, Position] = {}
    for item in listed.value if listed else ():
        _check_id(item.value, ids, around, findings)
        before = findings.count
        route = _route(item, around, findings)
        if route and findings.count == before:
            routes.append((item, route))
    refuse_unreachable(routes, findings)
    return tuple(route for _, route in routes)


def _check_id(fields: Fields, ids: dict[str, Position], around: Surroundings, findings: Findings) -> None:
    found = fields.get(traffic_keys.ROUTE_ID)
    if found is None:
        return
    if ids.setdefault(found.value, found.at) != found.at:
        message = f"the route id {found.value!r} is taken, by line {ids[found.value].line}"
        findings.add(codes.DUPLICATE_ITEM, message, found.at, advice="Give each route its own id.")
    elif found.value in around.ports:
        message = f"the route id {found.value!r} is the name of a port, whose own route is called so"
        findings.add(codes.DUPLICATE_ITEM, message, found.at, advice="Choose another id.")


def _route(item: At[Fields], around: Surroundings, findings: Findings) -> Route | None:
    fields = item.value
    port_name = said_port("route", item, traffic_keys.ROUTE_PORT, around.ports, findings)
    port = around.ports.get(port_name) if port_name else None
    if port and not port.protocol.is_http:
        message = f"the port {port.name!r} speaks TCP, which has no requests to route"
        findings.add(codes.HTTP_ON_TCP, message, item.at, advice="Remove the route.")
        return None
    said = fields.get(traffic_keys.MATCH)
    match = build_match(said.value, port, findings) if said else RouteMatch()
    check_redirect(fields, traffic_keys.ACTIONS, match, port, findings)
    _check_tries(fields, match, port, around, findings)
    split, mirror = _split(fields, around, findings), _mirrors(fields, around, findings)
    route_id = fields.get(traffic_keys.ROUTE_ID)
    if not (route_id and port_name):
        return None
    return Route(
        name=f"{around.service}/{route_id.value}",
        match=match,
        port=port_name,
        split=split,
        rewrite=fields.value(traffic_keys.REWRITE, None),
        redirect=fields.value(traffic_keys.REDIRECT, None),
        timeout=fields.value(traffic_keys.TIMEOUT, None),
        idle_timeout=fields.value(traffic_keys.IDLE_TIMEOUT, None),
        retry=fields.value(traffic_keys.RETRY, None),
        hedge=fields.value(traffic_keys.HEDGE, None),
        mirror=mirror,
        fault=fields.value(traffic_keys.FAULT, None),
        where=findings.where(item.at),
    )


# ---------------------------------------------------------------------------------------------- tries


def _check_tries(
    fields: Fields, match: RouteMatch, port: Port | None, around: Surroundings, findings: Findings
) -> None:
    retry, timeout = fields.get(traffic_keys.RETRY), fields.get(traffic_keys.TIMEOUT)
    hedge = fields.get(traffic_keys.HEDGE)
    protocol = port.protocol if port else None
    longest = timeout.value if timeout else around.effective_timeout(protocol)
    tried = retry.value if retry else around.effective_retry
    allowed = possible_methods(rule for rule in around.allow if port and rule.port == port.name)
    # Where nobody may call, nothing can be carried out twice.
    methods = match.methods or (allowed if allowed is not None else frozenset({"GET"}))
    if (said := retry or timeout) and not hedge:
        check_tries(tried, longest, said.at, findings)
    if hedge:
        check_hedge(hedge.value, longest, hedge.at, findings)
        _refuse_tries_beside(retry, findings)
        if protocol is not Protocol.GRPC:
            warn_of_hedges(methods, hedge.at, findings)
    if retry and port:
        check_conditions(retry.value, (port.protocol,), retry.at, findings)
        warn_of_repeats(retry.value, methods, protocol, retry.at, findings)


def _refuse_tries_beside(retry: At[Retry] | None, findings: Findings) -> None:
    """How many tries there are, and when the next begins, is said by the hedge."""
    for key in (traffic_keys.ATTEMPTS, traffic_keys.PER_TRY):
        if retry and retry.parts and (place := retry.parts.place(key)):
            message = f"{key.name} of retry means nothing beside a hedge, which says its own"
            findings.add(codes.NO_EFFECT, message, place)


# ---------------------------------------------------------------------------------- splits and mirrors


def _split(fields: Fields, around: Surroundings, findings: Findings) -> tuple[Share, ...]:
    table = fields.get(traffic_keys.SPLIT)
    if table is None:
        return ()
    for version, (at, _) in table.value.items():
        _check_version(At(version, at), around, findings)
    shares = [
        Share(version=version, weight=weight.value) for version, (_, weight) in table.value.items() if weight
    ]
    total = sum(share.weight for share in shares)
    if len(shares) == len(table.value) and total != 100:
        findings.add(codes.WEIGHTS, f"the weights add up to {total}, not to 100", table.at)
    return tuple(shares)


def _check_version(version: At[str], around: Surroundings, findings: Findings) -> None:
    if version.value in around.versions or not around.versions_known:
        return
    message = f"the service has no version {version.value!r}"
    if around.versions:
        fix = advice(version.value, around.versions, "versions")
    else:
        fix = f"List them: versions: [{version.value}, …]."
    findings.add(codes.UNKNOWN_NAME, message, version.at, advice=fix)


def _mirrors(fields: Fields, around: Surroundings, findings: Findings) -> tuple[Mirror, ...]:
    listed = fields.get(traffic_keys.MIRROR)
    mirrors = [_mirror(item.value, around, findings) for item in listed.value] if listed else []
    return tuple(mirror for mirror in mirrors if mirror)


def _mirror(fields: Fields, around: Surroundings, findings: Findings) -> Mirror | None:
    to, percent = fields.get(traffic_keys.TO), fields.value(traffic_keys.PER_CENT, 100.0)
    if to is None:
        return None
    if isinstance(to.value, str):
        _check_version(At(to.value, to.at), around, findings)
        return Mirror(percent=percent, version=to.value)
    service, port = to.value
    ports = called_ports(At(service, to.at), around.names, findings)
    if ports is None:
        return None
    chosen = called_port(At(service, to.at), At(port, to.at) if port else None, ports, findings)
    return Mirror(percent=percent, service=service, port=chosen.name) if chosen else None
