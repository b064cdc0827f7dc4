"""Gateways, from ``gateways/NAME.yaml`` to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vestibule.intent import codes, outside_keys, rule_keys, service_keys, traffic_keys
from vestibule.intent.demanding import issuer_of
from vestibule.intent.matches import build_match, covers_host, refuse_unreachable
from vestibule.intent.model import Defaults, Port
from vestibule.intent.nodes import START, Position
from vestibule.intent.outside import DEFAULT_ADDRESS, Gateway, GatewayListener
from vestibule.intent.ports import called_port, called_ports
from vestibule.intent.presence import exactly_one
from vestibule.intent.problems import Findings
from vestibule.intent.redirects import check_redirect
from vestibule.intent.resolving import Names
from vestibule.intent.retries import check_conditions, check_tries, warn_of_repeats
from vestibule.intent.shapes import At, Fields
from vestibule.intent.traffic import Route, RouteMatch, RouteToken

_ANYWHERE = (DEFAULT_ADDRESS, "::")


def build_gateway(
    name: str, fields: Fields, names: Names, defaults: Defaults, findings: Findings
) -> Gateway | None:
    """A gateway; None if it has no identity, for which a problem has been noted elsewhere."""
    listeners = _listeners(fields, findings)
    routes = _routes(name, fields, listeners, names, defaults, findings)
    spiffe_id = names.gateways.get(name)
    if spiffe_id is None:
        return None
    return Gateway(
        name=name,
        spiffe_id=spiffe_id,
        listeners=MappingProxyType(listeners),
        routes=routes,
        owner=fields.value(service_keys.OWNER, None),
        where=findings.where(START),
    )


def _listeners(fields: Fields, findings: Findings) -> dict[str, GatewayListener]:
    table = fields.get(outside_keys.LISTENERS)
    listeners: dict[str, GatewayListener] = {}
    if table and not table.value:
        findings.add(
            codes.MALFORMED_VALUE, "a gateway without listeners", table.at, advice="Write a listener."
        )
    for name, (_, record) in table.value.items() if table else ():
        port = record.value.get(outside_keys.LISTENER_PORT) if record else None
        if record is None or port is None:
            continue
        hosts = record.value.get(outside_keys.LISTENER_HOSTS)
        listener = GatewayListener(
            name=name,
            port=port.value,
            address=record.value.value(outside_keys.ADDRESS, DEFAULT_ADDRESS),
            tls=record.value.value(outside_keys.GATEWAY_TLS, None),
            hosts=tuple(each.value for each in hosts.value) if hosts else ("*",),
        )
        if taken := next((each for each in listeners.values() if _collide(each, listener)), None):
            message = f"the listeners {taken.name!r} and {name!r} have the same port {port.value}"
            findings.add(codes.DUPLICATE_ITEM, message, port.at, advice="Give each listener its own.")
        listeners[name] = listener
    return listeners


def _collide(one: GatewayListener, other: GatewayListener) -> bool:
    return one.port == other.port and (
        one.address == other.address or one.address in _ANYWHERE or other.address in _ANYWHERE
    )


def _routes(
    gateway: str,
    fields: Fields,
    listeners: Mapping[str, GatewayListener],
    names: Names,
    defaults: Defaults,
    findings: Findings,
) -> tuple[Route, ...]:
    listed = fields.get(outside_keys.GATEWAY_ROUTES)
    routes: list[tuple[At[Fields], Route]] = []
    ids: dict[str, Position] = {}
    answered = [host for listener in listeners.values() for host in listener.hosts]
    for item in listed.value if listed else ():
        before = findings.count
        route_id = item.value.get(traffic_keys.ROUTE_ID)
        if route_id and ids.setdefault(route_id.value, route_id.at) != route_id.at:
            message = f"the route id {route_id.value!r} is taken, by line {ids[route_id.value].line}"
            findings.add(codes.DUPLICATE_ITEM, message, route_id.at, advice="Give each route its own id.")
        route = _route(gateway, item, answered, names, defaults, findings)
        if route and findings.count == before:
            routes.append((item, route))
    # One that only leads from plain text to TLS takes nothing away from those after it, where TLS is spoken.
    secure = any(listener.tls for listener in listeners.values())
    lasting = [each for each in routes if not (secure and _only_to_https(each[1]))]
    refuse_unreachable(lasting, findings)
    return tuple(route for _, route in routes)


def _only_to_https(route: Route) -> bool:
    return route.redirect is not None and route.redirect.is_only_to_https


def _route(
    gateway: str,
    item: At[Fields],
    answered: Iterable[str],
    names: Names,
    defaults: Defaults,
    findings: Findings,
) -> Route | None:
    fields = item.value
    said = fields.get(outside_keys.GATEWAY_MATCH)
    port = _leads_to(item, names, findings)
    match = build_match(said.value, port, findings) if said else RouteMatch()
    if hosts := said.value.get(outside_keys.MATCH_HOSTS) if said else None:
        _check_hosts(hosts.value, answered, findings)
    check_redirect(fields, outside_keys.GATEWAY_ACTIONS, match, None, findings)
    retry, timeout = fields.get(traffic_keys.RETRY), fields.get(traffic_keys.TIMEOUT)
    if port and (said_at := retry or timeout):
        standing = None if port.protocol.lasts else defaults.timeout
        longest = timeout.value if timeout else standing
        check_tries(retry.value if retry else defaults.retry, longest, said_at.at, findings)
    if retry and port:
        check_conditions(retry.value, (port.protocol,), retry.at, findings)
        warn_of_repeats(retry.value, match.methods, port.protocol, retry.at, findings)
    route_id, to = fields.get(traffic_keys.ROUTE_ID), fields.get(outside_keys.LEADS_TO)
    token = _token(fields, names, findings)
    if route_id is None:
        return None
    return Route(
        name=f"{gateway}/{route_id.value}",
        match=match,
        service=to.value if to else None,
        service_port=port.name if port else None,
        token=token,
        rewrite=fields.value(traffic_keys.REWRITE, None),
        redirect=fields.value(traffic_keys.REDIRECT, None),
        timeout=fields.value(traffic_keys.TIMEOUT, None),
        idle_timeout=fields.value(traffic_keys.IDLE_TIMEOUT, None),
        retry=fields.value(traffic_keys.RETRY, None),
        where=findings.where(item.at),
    )


def _token(fields: Fields, names: Names, findings: Findings) -> RouteToken | None:
    said = fields.get(outside_keys.ROUTE_TOKEN)
    if said is None or fields.place(traffic_keys.REDIRECT):
        return None  # or it means nothing, as is said elsewhere
    issuer, audience = issuer_of(said, names, findings), said.value.get(rule_keys.AUDIENCE)
    if issuer and names.issuers and not names.issuers[issuer].is_outside:
        # They are bound to callers, whom a gateway does not know, and may be revoked.
        message = f"the tokens of {issuer!r} are for services; who comes from outside has none to call as"
        fix = "Ask for tokens of an issuer outside, or call the service through a sidecar."
        findings.add(codes.MALFORMED_VALUE, message, said.at, advice=fix)
        return None
    return RouteToken(issuer=issuer, audience=audience.value) if issuer and audience else None


def _leads_to(item: At[Fields], names: Names, findings: Findings) -> Port | None:
    fields = item.value
    keys = (outside_keys.LEADS_TO, traffic_keys.REDIRECT)
    to = fields.get(outside_keys.LEADS_TO)
    if not exactly_one(fields, keys, item.at, findings, "the route") or to is None:
        return None
    ports = called_ports(to, names, findings)
    named = fields.get(outside_keys.SERVICE_PORT)
    if ports is None or (named is None and fields.place(outside_keys.SERVICE_PORT)):
        return None
    return called_port(to, named, ports, findings)


def _check_hosts(hosts: Iterable[At[str]], answered: Iterable[str], findings: Findings) -> None:
    answered = list(answered)
    for host in hosts:
        if answered and not any(
            covers_host(each, host.value) or covers_host(host.value, each) for each in answered
        ):
            message = f"no listener answers for the host {host.value!r}"
            findings.add(
                codes.UNREACHABLE_ROUTE, message, host.at, advice="Add it to the hosts of a listener."
            )
