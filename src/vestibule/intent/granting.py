"""Who may call: rules, each checked against its port."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from vestibule.intent import codes, outside_keys, service_keys
from vestibule.intent.model import Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.ports import Ports, said_port
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.redundancy import refuse_redundant_paths, refuse_redundant_rules
from vestibule.intent.resolving import Names, resolve_callers
from vestibule.intent.shapes import At, Fields, Key
from vestibule.policy import Rule

T = TypeVar("T")


def build_rules(
    service: str, fields: Fields, ports: Ports, names: Names, findings: Findings
) -> tuple[Rule, ...]:
    """The rules of a service; those in error are left out."""
    listed = fields.get(service_keys.ALLOW)
    if listed is None and ports:
        warn_of_nobody(service, fields, service_keys.PORTS, findings)
    rules: list[tuple[At[Fields], Rule]] = []
    for item in listed.value if listed else ():
        before = findings.count
        port = said_port("rule", item, service_keys.RULE_PORT, ports, findings)
        known = ports.get(port) if port else None
        if (rule := _rule(service, item, known, names, findings)) and findings.count == before:
            rules.append((item, replace(rule, port=port)))
    _refuse_repeats(listed, rules, findings)
    return tuple(rule for _, rule in rules)


def build_outside_rules(
    name: str, fields: Fields, protocol: Protocol, names: Names, findings: Findings
) -> tuple[Rule, ...]:
    """The rules of an external, which has no ports to choose from."""
    listed = fields.get(outside_keys.OUTSIDE_ALLOW)
    if listed is None:
        warn_of_nobody(name, fields, outside_keys.EXTERNAL, findings)
    port = Port(name=name, protocol=protocol)
    built = (
        [(item, _rule(f"egress/{name}", item, port, names, findings)) for item in listed.value]
        if listed
        else []
    )
    rules = [(item, rule) for item, rule in built if rule]
    _refuse_repeats(listed, rules, findings)
    return tuple(rule for _, rule in rules)


def warn_of_nobody(name: str, fields: Fields, callable_by: Key[Any], findings: Findings) -> None:
    """Warn where something can be called and nobody may."""
    place = fields.place(callable_by)
    if place and not fields.place(service_keys.ALLOW):
        message = f"nobody may call {name}: it has no rules"
        findings.add(codes.NOBODY_ALLOWED, message, place, severity=Severity.WARNING)


def _refuse_repeats(
    listed: At[tuple[At[Fields], ...]] | None, rules: list[tuple[At[Fields], Rule]], findings: Findings
) -> None:
    ids: dict[str, Position] = {}
    for item in listed.value if listed else ():
        rule_id = item.value.get(service_keys.RULE_ID)
        if rule_id and ids.setdefault(rule_id.value, rule_id.at) != rule_id.at:
            message = f"the rule id {rule_id.value!r} is taken, by line {ids[rule_id.value].line}"
            findings.add(codes.DUPLICATE_ITEM, message, rule_id.at, advice="Give each rule its own id.")
    refuse_redundant_rules(rules, findings)


def _rule(owner: str, item: At[Fields], port: Port | None, names: Names, findings: Findings) -> Rule | None:
    """The rule, or None if any part of it is wrong: what is left of it would mean something else."""
    fields, before = item.value, findings.count
    _check_protocol(fields, port, findings)
    listed, rule_id = fields.get(service_keys.FROM), fields.get(service_keys.RULE_ID)
    callers = resolve_callers(listed.value, names, findings) if listed else None
    methods, paths = fields.get(service_keys.METHODS), fields.get(service_keys.PATHS)
    if paths:
        refuse_redundant_paths(paths.value, findings)
    wrong = findings.count > before or not _are_whole(
        fields, service_keys.FROM, service_keys.METHODS, service_keys.PATHS
    )
    if wrong or not (callers and rule_id):
        return None
    return Rule(
        name=f"{owner}/{rule_id.value}",
        callers=callers,
        methods=frozenset(found.value for found in methods.value) if methods else frozenset(),
        paths=tuple(found.value for found in paths.value) if paths else (),
        where=findings.where(item.at),
    )


def _are_whole(fields: Fields, *keys: Key[T]) -> bool:
    """Whether every one of these keys that is written could be read in full."""
    read = [(fields.place(key), fields.get(key)) for key in keys]
    return all(place is None or (found is not None and found.whole) for place, found in read)


def _check_protocol(fields: Fields, port: Port | None, findings: Findings) -> None:
    if port is None:
        return
    if not port.protocol.is_http:
        for key in (service_keys.METHODS, service_keys.PATHS):
            if place := fields.place(key):
                message = f"{port.name!r} speaks TCP, where a rule cannot have {key.name}"
                findings.add(codes.HTTP_ON_TCP, message, place)
    methods = fields.get(service_keys.METHODS)
    if port.protocol is Protocol.GRPC and methods:
        for method in methods.value:
            if method.value != "POST":
                message = f"{port.name!r} speaks gRPC, where {method.value} never occurs"
                findings.add(codes.GRPC_METHOD, message, method.at)
