"""From what the files say to the model: every name is resolved, every rule checked against its port."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from vestibule.errors import VestibuleError
from vestibule.intent import codes, language, template
from vestibule.intent.model import (
    DEFAULT_TEMPLATE,
    DEFAULT_TIMEOUT,
    Defaults,
    DenyDetail,
    Mesh,
    Port,
    Protocol,
    Service,
)
from vestibule.intent.nodes import START, Position
from vestibule.intent.problems import Findings, Severity, nearest
from vestibule.intent.redundancy import refuse_redundant_paths, refuse_redundant_rules
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.words import Caller, RoleCaller, ServiceCaller
from vestibule.policy import IdentityMatch, Rule
from vestibule.spiffe import SpiffeId, TrustDomain

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What names may refer to.  A None stands for something that is declared and itself in error."""

    services: Mapping[str, SpiffeId | None]
    roles: Mapping[str, tuple[IdentityMatch, ...] | None]
    trust_domain: TrustDomain | None
    roles_known: bool = True


def value(fields: Fields, key: Key[T], default: T) -> T:
    """The value of a key, or the default if it is absent or wrong."""
    found = fields.get(key)
    return default if found is None else found.value


# ------------------------------------------------------------------------------------------------ mesh


def identities(mesh: Fields | None, declared: Mapping[str, tuple[Position, Findings]]) -> Names:
    """Give every declared service its identity; roles are not resolved yet."""
    domain = mesh.get(language.TRUST_DOMAIN) if mesh else None
    given = {name: _identity(mesh, name, *place) for name, place in declared.items()}
    return Names(services=given, roles={}, trust_domain=domain.value if domain else None)


def _identity(mesh: Fields | None, name: str, at: Position, findings: Findings) -> SpiffeId | None:
    if mesh is None:
        return None
    domain, environment = mesh.get(language.TRUST_DOMAIN), mesh.get(language.ENVIRONMENT)
    mesh_name, text = mesh.get(language.MESH_NAME), mesh.get(language.IDENTITY)
    if not (domain and environment and mesh_name) or (text is None and mesh.place(language.IDENTITY)):
        return None
    values = {"service": name, "environment": environment.value, "mesh": mesh_name.value}
    try:
        return template.render(text.value if text else DEFAULT_TEMPLATE, domain.value, values)
    except VestibuleError as error:
        findings.add_error(error, at)
        return None


def roles(mesh: Fields | None, names: Names, findings: Findings) -> Names:
    """The names with every role resolved."""
    table = mesh.get(language.ROLES) if mesh else None
    resolved: dict[str, tuple[IdentityMatch, ...] | None] = {}
    for name, (_, members) in (table.value if table else {}).items():
        resolved[name] = _callers(members.value, names, findings) if members else None
    known = mesh is not None and (table is not None or not mesh.place(language.ROLES))
    return replace(names, roles=MappingProxyType(resolved), roles_known=known)


def build_mesh(fields: Fields | None, names: Names) -> Mesh | None:
    """The mesh, if all that it must have is there."""
    if fields is None:
        return None
    name, environment = fields.get(language.MESH_NAME), fields.get(language.ENVIRONMENT)
    if not (name and environment and names.trust_domain):
        return None
    defaults = fields.get(language.DEFAULTS)
    timeout = value(defaults.value, language.TIMEOUT, DEFAULT_TIMEOUT) if defaults else DEFAULT_TIMEOUT
    return Mesh(
        name=name.value,
        trust_domain=names.trust_domain,
        environment=environment.value,
        identity_template=value(fields, language.IDENTITY, DEFAULT_TEMPLATE),
        defaults=Defaults(timeout=timeout),
        roles=MappingProxyType({role: members or () for role, members in names.roles.items()}),
    )


# ------------------------------------------------------------------------------------------- services


def build_service(name: str, fields: Fields, names: Names, findings: Findings) -> Service | None:
    """A service; None if it has no identity, for which a problem has been noted elsewhere."""
    ports = _ports(fields, findings)
    allow = _allow(name, fields, ports, names, findings)
    spiffe_id = names.services.get(name)
    if spiffe_id is None:
        return None
    owner, labels = fields.get(language.OWNER), fields.get(language.LABELS)
    written = {key: label.value for key, (_, label) in labels.value.items() if label} if labels else {}
    return Service(
        name=name,
        spiffe_id=spiffe_id,
        owner=owner.value if owner else None,
        labels=MappingProxyType(written),
        ports=MappingProxyType({port: found for port, found in ports.items() if found}),
        allow=allow,
        deny_detail=value(fields, language.DENY_DETAIL, DenyDetail.CODE),
        where=findings.where(START),
    )


def _ports(fields: Fields, findings: Findings) -> dict[str, Port | None]:
    table = fields.get(language.PORTS)
    ports: dict[str, Port | None] = {}
    taken: dict[int, str] = {}
    for name, (_, record) in (table.value if table else {}).items():
        ports[name] = _port(name, record.value) if record else None
        app = record.value.get(language.APP_PORT) if record else None
        if app and app.value in taken:
            message = f"the ports {taken[app.value]!r} and {name!r} have the same app port {app.value}"
            findings.add(codes.DUPLICATE_ITEM, message, app.at, advice="Give each port its own.")
        elif app:
            taken[app.value] = name
    return ports


def _port(name: str, fields: Fields) -> Port | None:
    protocol, app = fields.get(language.PROTOCOL), fields.get(language.APP_PORT)
    if protocol is None:
        return None
    return Port(name=name, protocol=protocol.value, app_port=app.value if app else None)


# ---------------------------------------------------------------------------------------------- rules


def _allow(
    service: str, fields: Fields, ports: Mapping[str, Port | None], names: Names, findings: Findings
) -> tuple[Rule, ...]:
    listed = fields.get(language.ALLOW)
    if listed is None:
        place = fields.place(language.PORTS)
        if ports and place and not fields.place(language.ALLOW):
            message = f"nobody may call {service}: it has ports and no rules"
            findings.add(codes.NOBODY_ALLOWED, message, place, severity=Severity.WARNING)
        return ()
    rules: list[tuple[At[Fields], Rule]] = []
    ids: dict[str, Position] = {}
    for item in listed.value:
        rule_id = item.value.get(language.RULE_ID)
        if rule_id and ids.setdefault(rule_id.value, rule_id.at) != rule_id.at:
            message = f"the rule id {rule_id.value!r} is taken, by line {ids[rule_id.value].line}"
            findings.add(codes.DUPLICATE_ITEM, message, rule_id.at, advice="Give each rule its own id.")
        if rule := _rule(service, item, ports, names, findings):
            rules.append((item, rule))
    refuse_redundant_rules(rules, findings)
    return tuple(rule for _, rule in rules)


def _rule(
    service: str, item: At[Fields], ports: Mapping[str, Port | None], names: Names, findings: Findings
) -> Rule | None:
    """The rule, or None if any part of it is wrong: what is left of it would mean something else."""
    fields, before = item.value, findings.count
    port = _rule_port(item, ports, findings)
    _check_protocol(fields, ports.get(port) if port else None, findings)
    listed, rule_id = fields.get(language.FROM), fields.get(language.RULE_ID)
    callers = _callers(listed.value, names, findings) if listed else None
    methods, paths = fields.get(language.METHODS), fields.get(language.PATHS)
    if paths:
        refuse_redundant_paths(paths.value, findings)
    wrong = findings.count > before or not _are_whole(fields, language.FROM, language.METHODS, language.PATHS)
    if wrong or not (callers and rule_id and port):
        return None
    return Rule(
        name=f"{service}/{rule_id.value}",
        callers=callers,
        port=port,
        methods=frozenset(found.value for found in methods.value) if methods else frozenset(),
        paths=tuple(found.value for found in paths.value) if paths else (),
        where=findings.where(item.at),
    )


def _are_whole(fields: Fields, *keys: Key[T]) -> bool:
    """Whether every one of these keys that is written could be read in full."""
    read = [(fields.place(key), fields.get(key)) for key in keys]
    return all(place is None or (found is not None and found.whole) for place, found in read)


def _rule_port(item: At[Fields], ports: Mapping[str, Port | None], findings: Findings) -> str | None:
    named = item.value.get(language.RULE_PORT)
    if named is None:
        if item.value.place(language.RULE_PORT) is None and len(ports) != 1:
            count = f"{len(ports)} ports" if ports else "no ports"
            message = f"the rule does not say which port it is for, and the service has {count}"
            findings.add(codes.UNSAID_PORT, message, item.at)
            return None
        return next(iter(ports)) if len(ports) == 1 else None
    if named.value in ports:
        return named.value
    message = f"the service has no port {named.value!r}"
    findings.add(codes.UNKNOWN_NAME, message, named.at, advice=_advice(named.value, ports, "ports"))
    return None


def _check_protocol(fields: Fields, port: Port | None, findings: Findings) -> None:
    if port is None:
        return
    if not port.protocol.is_http:
        for key in (language.METHODS, language.PATHS):
            if place := fields.place(key):
                message = f"the port {port.name!r} speaks TCP, where a rule cannot have {key.name}"
                findings.add(codes.HTTP_ON_TCP, message, place)
    methods = fields.get(language.METHODS)
    if port.protocol is Protocol.GRPC and methods:
        for method in methods.value:
            if method.value != "POST":
                message = f"the port {port.name!r} speaks gRPC, where {method.value} never occurs"
                findings.add(codes.GRPC_METHOD, message, method.at)


# -------------------------------------------------------------------------------------------- callers


def _callers(listed: Iterable[At[Caller]], names: Names, findings: Findings) -> tuple[IdentityMatch, ...]:
    matches: dict[IdentityMatch, None] = {}
    for caller in listed:
        matches.update(dict.fromkeys(_matches(caller, names, findings)))
    return tuple(matches)


def _matches(caller: At[Caller], names: Names, findings: Findings) -> tuple[IdentityMatch, ...]:
    found = caller.value
    if isinstance(found, ServiceCaller):
        if found.name in names.services:
            spiffe_id = names.services[found.name]
            return (IdentityMatch(id=spiffe_id),) if spiffe_id else ()
        message = f"there is no service {found.name!r}"
        advice = _advice(found.name, names.services, "services")
        findings.add(codes.UNKNOWN_NAME, message, caller.at, advice=advice)
        return ()
    if isinstance(found, RoleCaller):
        if found.name in names.roles or not names.roles_known:
            return names.roles.get(found.name) or ()
        message = f"there is no role {found.name!r} in mesh.yaml"
        advice = _advice(found.name, names.roles, "roles")
        findings.add(codes.UNKNOWN_NAME, message, caller.at, advice=advice)
        return ()
    if why := _out_of_reach(found, names.trust_domain):
        findings.add(codes.CALLER_OUT_OF_REACH, f"{found} {why}", caller.at)
        return ()
    return (found,)


def _out_of_reach(match: IdentityMatch, trust_domain: TrustDomain | None) -> str | None:
    if trust_domain and match.id.trust_domain != trust_domain:
        return f"is not in the trust domain {trust_domain}, and others are not supported by this version"
    if not match.id.path:
        return "is a whole trust domain" if match.below else "is no workload, only a trust domain"
    if match.id.is_reserved:
        return "belongs to servers and agents, which call no services"
    return None


def _advice(name: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    if close := nearest(name, known):
        return f"Did you mean {close!r}?"
    if not known:
        return f"There are no {what}; declare it first."
    shown = ", ".join(sorted(known)[:10])
    return f"Known {what}: {shown}{', …' if len(known) > 10 else ''}."
