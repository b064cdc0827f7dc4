"""What can be seen only with every file at hand: requests that are sent where they are denied."""

from __future__ import annotations

from collections.abc import Mapping

from vestibule.intent import codes
from vestibule.intent.model import Service
from vestibule.intent.nodes import START, Position
from vestibule.intent.outside import Gateway
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.traffic import Route
from vestibule.policy import may_call


def warn_of_denied_routes(gateway: Gateway, services: Mapping[str, Service], findings: Findings) -> None:
    """Warn of every route of a gateway to a port that no rule lets it call."""
    for route in gateway.routes:
        called = services.get(route.service or "")
        if called and not may_call(called.allow, gateway.spiffe_id, route.service_port):
            _warn(f"{called.name} does not allow the gateway {gateway.name}", route, findings)


def warn_of_denied_mirrors(service: Service, services: Mapping[str, Service], findings: Findings) -> None:
    """Warn of every mirror to a service that denies callers of this one."""
    for route in service.traffic.routes:
        callers = [match for rule in service.rules_for(route.port or "") for match in rule.callers]
        for mirror in route.mirror:
            called = services.get(mirror.service or "")
            if called is None or not callers:
                continue
            allowed = [match for rule in called.rules_for(mirror.port or "") for match in rule.callers]
            denied = next((each for each in callers if not any(a.covers(each) for a in allowed)), None)
            if denied:
                _warn(
                    f"{called.name} gets no copies of requests from {denied}, which it denies",
                    route,
                    findings,
                )


def _warn(message: str, route: Route, findings: Findings) -> None:
    where = route.where
    at = Position(where.line, where.column) if where and where.line and where.column else START
    findings.add(codes.NEVER_ALLOWED, message, at, severity=Severity.WARNING)
