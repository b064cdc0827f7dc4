"""Health checks, rate limits and plain text of a service, each against the service's ports."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, codes
from vestibule.intent.model import Port, Protocol, Service
from vestibule.intent.nodes import Position
from vestibule.intent.ports import Ports, known_port, said_port
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Fields
from vestibule.intent.traffic import CheckKind, HealthCheck, LimitPer, Permissive, RateLimit
from vestibule.policy import Rule

_FITTING: Final = {
    CheckKind.HTTP: (Protocol.HTTP, Protocol.HTTP2, Protocol.MCP),
    CheckKind.GRPC: (Protocol.GRPC,),
    CheckKind.TCP: tuple(Protocol),
}


def build_health(fields: Fields, ports: Ports, findings: Findings) -> HealthCheck | None:
    """How instances are checked, on a port that speaks what is asked."""
    check = fields.get(bounds_keys.HEALTH)
    if check is None or not ports:
        return None
    kind, named = check.value.kind, check.value.port
    if named is not None and known_port(At(named, check.at), ports, findings) is None:
        return None
    candidates = [ports[named]] if named is not None else list(ports.values())
    if not any(port is None or port.protocol in _FITTING[kind] for port in candidates):
        who = f"the port {named!r} does not speak" if named is not None else "no port speaks"
        message = f"{who} what health asks for, {kind.value}"
        findings.add(codes.CHECK_ON_OTHER_PORT, message, check.at)
    return check.value


def check_port(service: Service) -> str | None:
    """The port that a service's check goes to: the one it names, else the first that speaks what is asked."""
    check = service.traffic.health
    if check is None or check.port is not None:
        return check.port if check is not None else None
    fitting = _FITTING[check.kind]
    return next((each.name for each in service.ports.values() if each.protocol in fitting), None)


def build_limits(fields: Fields, ports: Ports, findings: Findings) -> tuple[RateLimit, ...]:
    """The limits of a service; those in error are left out."""
    listed = fields.get(bounds_keys.LIMITS)
    limits: list[RateLimit] = []
    seen: dict[tuple[object, ...], Position] = {}
    for item in listed.value if listed else ():
        limit = build_limit(item, ports, findings)
        if limit is None:
            continue
        said = (limit.per, limit.port, limit.path)
        if seen.setdefault(said, item.at) != item.at:
            message = f"line {seen[said].line} limits the same requests"
            findings.add(codes.DUPLICATE_ITEM, message, item.at, advice="Keep the one that is meant.")
        limits.append(limit)
    return tuple(limits)


def build_limit(item: At[Fields], ports: Ports, findings: Findings) -> RateLimit | None:
    """One limit; its port, if it names one, must have requests to limit."""
    fields, rate = item.value, item.value.get(bounds_keys.RATE)
    named = fields.get(bounds_keys.LIMIT_PORT)
    port = known_port(named, ports, findings) if named else None
    if named and _speaks_tcp(ports.get(port) if port else None):
        message = f"the port {named.value!r} speaks TCP, which has no requests to limit"
        findings.add(codes.HTTP_ON_TCP, message, named.at, advice="Remove the limit.")
    if rate is None:
        return None
    requests, window = rate.value
    return RateLimit(
        requests=requests,
        window=window,
        per=fields.value(bounds_keys.PER, LimitPer.ALL),
        burst=fields.value(bounds_keys.BURST, None),
        port=port,
        path=fields.value(bounds_keys.LIMIT_PATH, None),
        where=findings.where(item.at),
    )


def build_permissive(service: str, fields: Fields, ports: Ports, findings: Findings) -> Permissive | None:
    """Until when plain text is accepted and what for, unless it never is."""
    said = fields.get(bounds_keys.MTLS)
    if said is None or not isinstance(said.value, Fields):
        return None
    found = said.value
    until, reason = found.get(bounds_keys.PERMISSIVE_UNTIL), found.get(bounds_keys.REASON)
    listed = found.get(bounds_keys.PLAIN_ALLOW)
    ids: dict[str, Position] = {}
    rules: list[Rule] = []
    for item in listed.value if listed else ():
        rule_id = item.value.get(bounds_keys.PLAIN_ID)
        if rule_id and ids.setdefault(rule_id.value, rule_id.at) != rule_id.at:
            message = f"the rule id {rule_id.value!r} is taken, by line {ids[rule_id.value].line}"
            findings.add(codes.DUPLICATE_ITEM, message, rule_id.at, advice="Give each rule its own id.")
        if rule := _plain_rule(service, item, ports, findings):
            rules.append(rule)
    if until is None or reason is None:
        return None
    return Permissive(until=until.value, reason=reason.value, allow=tuple(rules))


def _plain_rule(service: str, item: At[Fields], ports: Ports, findings: Findings) -> Rule | None:
    """What anybody may do; None if any part of it is wrong, which without it would allow more."""
    fields, before = item.value, findings.count
    port = said_port("rule", item, bounds_keys.PLAIN_PORT, ports, findings)
    rule_id = fields.get(bounds_keys.PLAIN_ID)
    methods, paths = fields.get(bounds_keys.PLAIN_METHODS), fields.get(bounds_keys.PLAIN_PATHS)
    for name, place in (
        ("methods", fields.place(bounds_keys.PLAIN_METHODS)),
        ("paths", fields.place(bounds_keys.PLAIN_PATHS)),
    ):
        if place and _speaks_tcp(ports.get(port) if port else None):
            message = f"the port {port!r} speaks TCP, where a rule cannot have {name}"
            findings.add(codes.HTTP_ON_TCP, message, place)
    if findings.count > before or port is None or rule_id is None:
        return None
    if any(each is not None and not each.whole for each in (methods, paths)):
        return None
    return Rule(
        name=f"{service}/plaintext/{rule_id.value}",
        callers=(),
        port=port,
        methods=frozenset(each.value for each in methods.value) if methods else frozenset(),
        paths=tuple(each.value for each in paths.value) if paths else (),
        where=findings.where(item.at),
    )


def _speaks_tcp(port: Port | None) -> bool:
    return port is not None and not port.protocol.is_http
