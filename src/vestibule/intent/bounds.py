"""Health checks, rate limits and plain text of a service, each against the service's ports."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, codes
from vestibule.intent.model import Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.ports import Ports, known_port
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Fields
from vestibule.intent.traffic import CheckKind, HealthCheck, LimitPer, Permissive, RateLimit

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


def build_permissive(fields: Fields) -> Permissive | None:
    """Until when plain text is accepted, unless it never is."""
    said = fields.value(bounds_keys.MTLS, None)
    return said if isinstance(said, Permissive) else None


def _speaks_tcp(port: Port | None) -> bool:
    return port is not None and not port.protocol.is_http
