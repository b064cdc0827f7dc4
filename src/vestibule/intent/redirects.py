"""Redirects: what can stand beside them, and where they must not lead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vestibule.intent import codes, traffic_keys
from vestibule.intent.model import Port, Protocol
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import Fields, Key
from vestibule.intent.traffic import Redirect, RouteMatch
from vestibule.policy import PathPattern


def check_redirect(
    fields: Fields, actions: Iterable[Key[Any]], match: RouteMatch, port: Port | None, findings: Findings
) -> None:
    """Refuse, beside a redirect, the keys that mean nothing there, and a redirect to itself."""
    place = fields.place(traffic_keys.REDIRECT)
    if place is None:
        return
    for key in actions:
        if other := fields.place(key):
            message = f"{key.name} means nothing where callers are sent elsewhere"
            findings.add(codes.NO_EFFECT, message, other)
    if port and port.protocol is Protocol.GRPC:
        findings.add(codes.NO_EFFECT, f"{port.name!r} speaks gRPC, which follows no redirects", place)
    redirect = fields.get(traffic_keys.REDIRECT)
    if redirect and _leads_back(redirect.value, match):
        findings.add(codes.REDIRECT_LEADS_BACK, "the route matches its own redirect's address", redirect.at)


def _leads_back(redirect: Redirect, match: RouteMatch) -> bool:
    if redirect.host or redirect.https:
        return False
    if redirect.path is None or match.path is None:
        return True
    rest = PathPattern.parse(redirect.path.rstrip("/") + "/**") if match.path.below else None
    return match.path.covers(rest or PathPattern.parse(redirect.path))
