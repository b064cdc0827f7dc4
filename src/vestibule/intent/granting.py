"""Who may call: rules, each checked against its port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vestibule.intent import codes, language
from vestibule.intent.model import Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.ports import said_port
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.redundancy import refuse_redundant_paths, refuse_redundant_rules
from vestibule.intent.resolving import Names, resolve_callers
from vestibule.intent.shapes import At, Fields, Key
from vestibule.policy import Rule

T = TypeVar("T")


def build_rules(
    service: str, fields: Fields, ports: Mapping[str, Port | None], names: Names, findings: Findings
) -> tuple[Rule, ...]:
    """The rules of a service; those in error are left out."""
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
    port = said_port("rule", item, language.RULE_PORT, ports, findings)
    _check_protocol(fields, ports.get(port) if port else None, findings)
    listed, rule_id = fields.get(language.FROM), fields.get(language.RULE_ID)
    callers = resolve_callers(listed.value, names, findings) if listed else None
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
