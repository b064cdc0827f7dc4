"""The ports of a service, and which one is meant where only one can be."""

from __future__ import annotations

from collections.abc import Mapping

from vestibule.intent import codes, service_keys
from vestibule.intent.model import Authorization, Port
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names, advice
from vestibule.intent.shapes import At, Fields, Key

Ports = Mapping[str, Port | None]


def build_ports(fields: Fields, findings: Findings) -> dict[str, Port | None]:
    """The ports of a service; None for one that is itself in error."""
    table = fields.get(service_keys.PORTS)
    ports: dict[str, Port | None] = {}
    taken: dict[int, str] = {}
    for name, (_, record) in (table.value if table else {}).items():
        ports[name] = _port(name, record.value, findings) if record else None
        app = record.value.get(service_keys.APP_PORT) if record else None
        if app and app.value in taken:
            message = f"the ports {taken[app.value]!r} and {name!r} have the same app port {app.value}"
            findings.add(codes.DUPLICATE_ITEM, message, app.at, advice="Give each port its own.")
        elif app:
            taken[app.value] = name
    return ports


def _port(name: str, fields: Fields, findings: Findings) -> Port | None:
    protocol, app = fields.get(service_keys.PROTOCOL), fields.get(service_keys.APP_PORT)
    if protocol is None:
        return None
    said = fields.get(service_keys.AUTHORIZATION)
    if said and not protocol.value.is_http:
        message = f"the port {name!r} speaks TCP, which has no headers"
        findings.add(codes.HTTP_ON_TCP, message, said.at, advice="Remove authorization.")
    return Port(
        name=name,
        protocol=protocol.value,
        app_port=app.value if app else None,
        authorization=said.value if said else Authorization.FORWARD,
    )


def said_port(what: str, item: At[Fields], key: Key[str], ports: Ports, findings: Findings) -> str | None:
    """The port that a rule, route or the like is for; if it does not say so, the only one there is."""
    named = item.value.get(key)
    if named is not None:
        return known_port(named, ports, findings)
    if item.value.place(key) is None and len(ports) != 1:
        count = f"{len(ports)} ports" if ports else "no ports"
        message = f"the {what} does not say which port it is for, and the service has {count}"
        findings.add(codes.UNSAID_PORT, message, item.at)
        return None
    return next(iter(ports)) if len(ports) == 1 else None


def known_port(named: At[str], ports: Ports, findings: Findings) -> str | None:
    """The port of this name, if there is one."""
    if named.value in ports:
        return named.value
    message = f"the service has no port {named.value!r}"
    findings.add(codes.UNKNOWN_NAME, message, named.at, advice=advice(named.value, ports, "ports"))
    return None


def called_ports(service: At[str], names: Names, findings: Findings) -> Ports | None:
    """The ports of another service; None if there is no such service, or it is in error itself."""
    if service.value in names.services:
        return names.ports.get(service.value)
    message = f"there is no service {service.value!r}"
    fix = advice(service.value, names.services, "services")
    findings.add(codes.UNKNOWN_NAME, message, service.at, advice=fix)
    return None


def called_port(service: At[str], named: At[str] | None, ports: Ports, findings: Findings) -> Port | None:
    """The port of another service where requests can be sent; the only one it has, if none is named."""
    if named is None and len(ports) != 1:
        message = f"the service {service.value!r} has {len(ports) or 'no'} ports, and none is named"
        findings.add(codes.UNSAID_PORT, message, service.at, advice="Name the port.")
        return None
    name = known_port(named, ports, findings) if named else next(iter(ports))
    port = ports[name] if name else None
    if port and not port.protocol.is_http:
        message = f"the port {port.name!r} of {service.value!r} speaks TCP, which has no requests"
        findings.add(
            codes.HTTP_ON_TCP, message, (named or service).at, advice="Name a port that speaks HTTP."
        )
        return None
    return port
