"""What requests a route is for, and whether any are left for it by the routes before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from vestibule.intent import codes, outside_keys, traffic_keys
from vestibule.intent.model import Port, Protocol
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.traffic import Route, RouteMatch, ValueMatch
from vestibule.policy import PathPattern

_EVERYTHING: Final = PathPattern(segments=(), below=True)


def build_match(fields: Fields, port: Port | None, findings: Findings) -> RouteMatch:
    """The match of a route on this port."""
    methods, hosts = fields.get(traffic_keys.MATCH_METHODS), fields.get(outside_keys.MATCH_HOSTS)
    for method in methods.value if methods else ():
        if port and port.protocol is Protocol.GRPC and method.value != "POST":
            message = f"the port {port.name!r} speaks gRPC, where {method.value} never occurs"
            findings.add(codes.GRPC_METHOD, message, method.at)
    return RouteMatch(
        path=fields.value(traffic_keys.MATCH_PATH, None),
        methods=frozenset(each.value for each in methods.value) if methods else frozenset(),
        headers=_values(fields, traffic_keys.MATCH_HEADERS),
        query=_values(fields, traffic_keys.MATCH_QUERY),
        hosts=tuple(each.value for each in hosts.value) if hosts else (),
    )


def _values(fields: Fields, key: Key[traffic_keys.ValueTable]) -> tuple[ValueMatch, ...]:
    table = fields.get(key)
    found = sorted(table.value.items()) if table else []
    return tuple(replace(match.value, name=name) for name, (_, match) in found if match)


def refuse_unreachable(routes: list[tuple[At[Fields], Route]], findings: Findings) -> None:
    """Note every route of which an earlier one on its port takes all requests."""
    earlier: defaultdict[str | None, list[Route]] = defaultdict(list)
    for item, route in routes:
        before = earlier[route.port]
        if taken := next((each for each in before if covers(each.match, route.match)), None):
            message = f"the route {route.name} is never used: {taken.name} takes all of its requests"
            findings.add(codes.UNREACHABLE_ROUTE, message, item.at)
        before.append(route)


def covers(wide: RouteMatch, narrow: RouteMatch) -> bool:
    """Whether every request that ``narrow`` matches is matched by ``wide`` too (sufficient, not necessary)."""
    return (
        (wide.path is None or wide.path.covers(narrow.path or _EVERYTHING))
        and (not wide.methods or (bool(narrow.methods) and narrow.methods <= wide.methods))
        and (not wide.hosts or all(_covered(host, wide.hosts) for host in narrow.hosts or ("*",)))
        and all(any(_implies(mine, each) for mine in narrow.headers) for each in wide.headers)
        and all(any(_implies(mine, each) for mine in narrow.query) for each in wide.query)
    )


def covers_host(wide: str, narrow: str) -> bool:
    """Whether every host that ``narrow`` names is named by ``wide``: ``*.a.b`` is all below ``a.b``, not itself."""
    if wide == "*" or wide == narrow:
        return True
    return wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:]) and narrow != wide[2:]


def _covered(host: str, hosts: Iterable[str]) -> bool:
    return any(covers_host(each, host) for each in hosts)


def _implies(narrow: ValueMatch, wide: ValueMatch) -> bool:
    if narrow.name != wide.name or narrow.absent != wide.absent:
        return False
    if wide.equals is not None:
        return narrow.equals == wide.equals
    if wide.prefix is not None:
        return (narrow.equals or narrow.prefix or "").startswith(wide.prefix)
    return True
