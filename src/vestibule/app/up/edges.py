"""Who may call whom, read off an intent, with requests that the rules allow: what there is to prove.

Nothing here does I/O, and nothing is guessed: every example request is put before ``policy.decide``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from vestibule.intent import Intent, Port, Protocol, Service
from vestibule.intent.port_policies import port_policy
from vestibule.policy import Call, Engine, PathPattern, Placeholder, Rule, decide, may_call
from vestibule.spiffe import SpiffeId

METHODS_BY_HARM: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
"""Which method to try first where several are allowed: the one that changes least."""

PLAIN_HTTP: Final = (Protocol.HTTP, Protocol.HTTP2)
"""Protocols in which one request can be written down without knowing the service.  gRPC and TCP need its client."""

STRANGER_PATH: Final = "/proof/stranger"


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for.  A method with a body is sent with an empty JSON object."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """From one service to one port of another, whether that is allowed or not."""

    caller: str
    callee: str
    port: str

    def __str__(self) -> str:
        return f"{self.caller} → {self.callee}" + (f"/{self.port}" if self.port != "http" else "")


@dataclass(frozen=True, slots=True)
class Edge:
    """A route on which some request is allowed; ``requests`` are examples, the least harmful first."""

    route: Route
    requests: tuple[Request, ...]

    def __str__(self) -> str:
        return str(self.route)


def allowed_edges(intent: Intent, running: Iterable[str]) -> tuple[Edge, ...]:
    """Every edge between two running services on which a plain HTTP request is allowed, in order."""
    services = _running(intent, running)
    edges = []
    for callee in services:
        for port in _http_ports(callee):
            engine = Engine(port_policy(intent, callee, port))
            for caller in services:
                if requests := tuple(_examples(engine, caller.spiffe_id)):
                    edges.append(Edge(Route(caller.name, callee.name, port.name), requests))
    return tuple(sorted(edges, key=lambda edge: edge.route))


def denied_routes(intent: Intent, running: Iterable[str]) -> tuple[Route, ...]:
    """Routes on which no rule allows any call.  Callers that no rule speaks of come first, then those that nobody
    lets in, then the others."""
    services = _running(intent, running)
    ties = {
        caller.name: 2 * any(may_call(callee.allow, caller.spiffe_id) for callee in services)
        + bool(caller.allow)
        for caller in services
    }
    routes = (
        Route(caller.name, callee.name, port.name)
        for callee in services
        for port, caller in product(_http_ports(callee), services)
        if caller is not callee and not may_call(callee.rules_for(port.name), caller.spiffe_id)
    )
    return tuple(sorted(routes, key=lambda route: (ties[route.caller], route)))


def unproven_ports(intent: Intent, running: Iterable[str]) -> tuple[str, ...]:
    """Ports that take part in no proof, because nobody can call them without the service's own client."""
    return tuple(
        f"{service.name}/{port.name} ({port.protocol.value})"
        for service in _running(intent, running)
        for port in service.ports.values()
        if port.protocol not in PLAIN_HTTP
    )


def stranger_to(intent: Intent, callee: str, port: str) -> SpiffeId | None:
    """An identity of the trust domain that no rule of the port lets in; None if the port is open to all of it."""
    domain = intent.mesh.trust_domain
    rules = intent.services[callee].rules_for(port)
    invented = SpiffeId.of(domain, STRANGER_PATH)
    others = (service.spiffe_id for service in intent.services.values() if service.name != callee)
    return next((each for each in (invented, *others) if not may_call(rules, each)), None)


def rules_to_remove(intent: Intent, route: Route, request: Request) -> tuple[str, ...]:
    """The names of the rules that must all go for the request to be denied."""
    caller = intent.services[route.caller].spiffe_id
    callee = intent.services[route.callee]
    policy = port_policy(intent, callee, callee.ports[route.port])
    call = Call(caller=caller, port=route.port, method=request.method, path=request.path)
    alone = ((rule.name, replace(policy, allow=(rule,))) for rule in policy.allow)
    return tuple(name for name, single in alone if decide(single, call).allowed)


def _running(intent: Intent, running: Iterable[str]) -> tuple[Service, ...]:
    names = set(running)
    return tuple(service for name, service in sorted(intent.services.items()) if name in names)


def _http_ports(service: Service) -> tuple[Port, ...]:
    return tuple(port for port in service.ports.values() if port.protocol in PLAIN_HTTP)


def _examples(engine: Engine, caller: SpiffeId) -> Iterator[Request]:
    policy = engine.policy
    wanted = {request for rule in policy.allow if rule.calls_from(caller) for request in _requests(rule)}
    for request in sorted(wanted, key=_harm):
        call = Call(caller=caller, port=policy.port, method=request.method, path=request.path)
        if engine.decide(call).allowed:
            yield request


def _requests(rule: Rule) -> Iterator[Request]:
    methods = rule.methods or ("GET",)
    paths = [_example_path(pattern) for pattern in rule.paths] or ["/"]
    return (Request(method, path) for method, path in product(methods, paths))


def _harm(request: Request) -> tuple[int, str, str]:
    known = request.method in METHODS_BY_HARM
    rank = METHODS_BY_HARM.index(request.method) if known else len(METHODS_BY_HARM)
    return rank, request.path, request.method


def _example_path(pattern: PathPattern) -> str:
    """``/v1/{id}/lines`` → ``/v1/1/lines``; ``/a/**`` → ``/a``; ``/**`` → ``/``."""
    parts = ("1" if isinstance(segment, Placeholder) else segment for segment in pattern.segments)
    return "".join(f"/{part}" for part in parts) or "/"
