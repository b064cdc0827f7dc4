"""What a caller's own proxy does with a request, before anything arrives where it was meant for."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl

from vestibule.intent.model import Intent, Port, Service
from vestibule.intent.traffic import Route, RouteMatch, Traffic, ValueMatch
from vestibule.policy import PathPattern, PortPolicy, may_call
from vestibule.spiffe import SpiffeId

_LASTS: Final = timedelta(0)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(f"{string.ascii_letters}{string.digits}-._~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """``sent``: whether anything leaves the caller's proxy at all; it does not where no rule lets the caller make any
    call to the port.

    ``route`` is the one that takes the request, as logs name it.  ``versions`` are those it may reach, with their
    weights, where it matters.  ``path`` and ``host`` are what the callee sees.  ``redirect`` is the status of an answer
    that sends the caller elsewhere.  ``timeout`` None: none.
    """

    sent: bool
    route: str = ""
    written: Route | None = None
    versions: tuple[tuple[str, int], ...] = ()
    path: str = ""
    host: str = ""
    redirect: int | None = None
    timeout: timedelta | None = None
    attempts: int = 1
    fault: bool = False


def journey(
    intent: Intent,
    caller: SpiffeId,
    service: Service,
    port: Port,
    policy: PortPolicy,
    *,
    method: str | None,
    path: str | None,
    headers: Mapping[str, str],
    now: datetime,
) -> Journey:
    """How a request of ``caller`` travels.  ``policy`` is the port's; ``path`` has its query; TCP has none."""
    if not may_call((*policy.allow, *policy.emergencies), caller):
        return Journey(sent=False)
    name = f"{service.name}/{port.name}"
    if method is None or path is None:
        return Journey(sent=True, route=name)
    path = _normalised(path)
    route = route_of(service.traffic, port.name, method, path, headers) or Route(name=name)
    if route.redirect is not None:
        return Journey(sent=False, route=route.name, written=route, redirect=route.redirect.status)
    retry = route.retry or service.traffic.retry or intent.mesh.defaults.retry
    return Journey(
        sent=True,
        route=route.name,
        written=route,
        versions=tuple((share.version, share.weight) for share in route.split if share.weight),
        path=_rewritten(route, path),
        host=route.rewrite.host if route.rewrite and route.rewrite.host else service.name,
        timeout=_timeout(intent, service, port, route),
        attempts=retry.attempts,
        fault=route.fault is not None and now < route.fault.until,
    )


def _normalised(path: str) -> str:
    """As the proxy of a caller makes it: without doubled slashes, dot segments and escapes that nothing needs."""
    bare, mark, query = path.partition("?")
    bare = _ESCAPE.sub(_unescaped, bare.replace("\\", "/"))
    parts: list[str] = []
    segments = [each for each in bare.split("/") if each]
    for each in segments:
        if each == "..":
            parts = parts[:-1]
        elif each != ".":
            parts.append(each)
    ends = bare.endswith("/") or bool(segments and segments[-1] in (".", ".."))
    return f"/{'/'.join(parts)}{'/' if ends and parts else ''}{mark}{query}"


def _unescaped(escape: re.Match[str]) -> str:
    """An escape of an unreserved character (RFC 3986, section 2.3) as the character itself."""
    meant = chr(int(escape[1], 16))
    return meant if meant in _UNRESERVED else escape[0]


def _timeout(intent: Intent, service: Service, port: Port, route: Route) -> timedelta | None:
    said = route.timeout or service.traffic.timeout
    standing = _LASTS if port.protocol.lasts else intent.mesh.defaults.timeout
    return (said or standing) or None


def route_of(traffic: Traffic, port: str, method: str, path: str, headers: Mapping[str, str]) -> Route | None:
    """The first of a service's routes that takes a request; None where the last resort does."""
    for route in traffic.routes:
        if route.port in (None, port) and matches(route.match, method, path, headers):
            return route
    return None


def matches(match: RouteMatch, method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is one of those; its hosts aside."""
    bare, _, query = path.partition("?")
    parameters = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    return (
        (match.path is None or match.path.matches(bare))
        and (not match.methods or method in match.methods)
        and all(_holds(each, headers.get(each.name)) for each in match.headers)
        and all(_holds(each, parameters.get(each.name)) for each in match.query)
    )


def _holds(wanted: ValueMatch, value: str | None) -> bool:
    if wanted.absent or value is None:
        return wanted.absent and value is None
    if wanted.equals is not None:
        return value == wanted.equals
    return value.startswith(wanted.prefix or "")


def _rewritten(route: Route, path: str) -> str:
    """As the callee sees it (``envoy.paths``)."""
    if route.rewrite is None or route.rewrite.path is None:
        return path
    bare, mark, query = path.partition("?")
    return f"{_replaced(route.match.path, bare, route.rewrite.path)}{mark}{query}"


def _replaced(pattern: PathPattern | None, path: str, wanted: str) -> str:
    if pattern is not None and pattern.is_literal and not pattern.below:
        return wanted
    literal = pattern.literal if pattern is not None else ""
    wanted = wanted.rstrip("/")
    slash = "" if wanted else "/?"
    return re.sub(f"^{re.escape(literal)}{slash}", lambda _: wanted or "/", path, count=1)
