"""Who may call and who may not: rules, each checked against its port."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from vestibule.intent import codes, outside_keys, rule_keys, service_keys
from vestibule.intent.demanding import build_condition, build_mcp, build_token, check_anyone
from vestibule.intent.model import Authorization, Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.ports import Ports, said_port
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.redundancy import refuse_redundant_paths, refuse_redundant_rules
from vestibule.intent.resolving import Names, resolve_callers
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.words import AnyCaller
from vestibule.policy import Effect, Mode, Rule
from vestibule.policy.codes import TOO_MANY_IN_A_ROW
from vestibule.policy.crowding import MOST_IN_A_ROW, crowded

Listed = At[tuple[At[Fields], ...]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of a service; those in error are left out."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()


def build_rules(service: str, fields: Fields, ports: Ports, names: Names, findings: Findings) -> Rules:
    """The rules of a service."""
    allow, deny = fields.get(service_keys.ALLOW), fields.get(service_keys.DENY)
    if allow is None and ports:
        warn_of_nobody(service, fields, service_keys.PORTS, findings)
    refuse_repeats((allow, deny), findings)
    return Rules(
        allow=_built(service, allow, Effect.ALLOW, ports, names, findings),
        deny=_built(service, deny, Effect.DENY, ports, names, findings),
    )


def _built(
    service: str, listed: Listed, effect: Effect, ports: Ports, names: Names, findings: Findings
) -> tuple[Rule, ...]:
    rules: list[tuple[At[Fields], Rule]] = []
    for item in listed.value if listed else ():
        before = findings.count
        port = said_port("rule", item, rule_keys.RULE_PORT, ports, findings)
        known = ports.get(port) if port else None
        if (rule := _rule(service, item, known, effect, names, findings)) and findings.count == before:
            rules.append((item, replace(rule, port=port)))
    refuse_redundant_rules(rules, findings)
    refuse_crowds(rules, findings)
    _refuse_two_audiences(rules, findings)
    return tuple(rule for _, rule in rules)


def refuse_crowds(rules: list[tuple[At[Fields], Rule]], findings: Findings) -> None:
    """Note rules that could only be asked one after the other, once for a port."""
    for port in dict.fromkeys(rule.port for _, rule in rules):
        found = crowded(rule for _, rule in rules if rule.port in (None, port))
        if found is not None:
            at = next(item.at for item, rule in rules if rule is found)
            message = (
                f"the rule {found.name} is one of more than {MOST_IN_A_ROW} that no index can tell apart"
            )
            findings.add(TOO_MANY_IN_A_ROW, message, at)


def _refuse_two_audiences(rules: list[tuple[At[Fields], Rule]], findings: Findings) -> None:
    """A caller's sidecar sends one token to a port, for one audience."""
    first: dict[str | None, str] = {}
    for item, rule in rules:
        if rule.token is None or not rule.token.inject:
            continue
        audience = rule.token.audience
        if first.setdefault(rule.port, audience) != audience:
            message = f"tokens for {first[rule.port]!r} are sent along to this port already, and not for {audience!r}"
            findings.add(codes.EXCLUSIVE_KEYS, message, item.at)


def build_outside_rules(
    name: str, fields: Fields, protocol: Protocol, names: Names, findings: Findings
) -> tuple[Rule, ...]:
    """The rules of an external, which has no ports to choose from."""
    listed = fields.get(outside_keys.OUTSIDE_ALLOW)
    if listed is None:
        warn_of_nobody(name, fields, outside_keys.EXTERNAL, findings)
    port = Port(name=name, protocol=protocol)
    refuse_repeats((listed,), findings)
    built = (
        [(item, _rule(f"egress/{name}", item, port, Effect.ALLOW, names, findings)) for item in listed.value]
        if listed
        else []
    )
    rules = [(item, rule) for item, rule in built if rule]
    refuse_redundant_rules(rules, findings)
    return tuple(rule for _, rule in rules)


def warn_of_nobody(name: str, fields: Fields, callable_by: Key[Any], findings: Findings) -> None:
    """Warn where something can be called and nobody may."""
    place = fields.place(callable_by)
    if place and not fields.place(service_keys.ALLOW):
        message = f"nobody may call {name}: it has no rules"
        findings.add(codes.NOBODY_ALLOWED, message, place, severity=Severity.WARNING)


def refuse_repeats(lists: Iterable[Listed], findings: Findings) -> None:
    """A rule's name says which rule it is, so what allows and what denies do not share any."""
    ids: dict[str, Position] = {}
    for item in (each for listed in lists if listed for each in listed.value):
        rule_id = item.value.get(rule_keys.RULE_ID)
        if rule_id and ids.setdefault(rule_id.value, rule_id.at) != rule_id.at:
            message = f"the rule id {rule_id.value!r} is taken, by line {ids[rule_id.value].line}"
            findings.add(codes.DUPLICATE_ITEM, message, rule_id.at, advice="Give each rule its own id.")


def _rule(
    owner: str, item: At[Fields], port: Port | None, effect: Effect, names: Names, findings: Findings
) -> Rule | None:
    """The rule, or None if any part of it is wrong: what is left of it would mean something else."""
    fields, before = item.value, findings.count
    _check_protocol(fields, port, findings)
    _check_token(fields, port, effect, findings)
    listed, rule_id = fields.get(rule_keys.RULE_FROM), fields.get(rule_keys.RULE_ID)
    callers = resolve_callers(listed.value, names, findings) if listed else ()
    anyone = listed is not None and any(isinstance(each.value, AnyCaller) for each in listed.value)
    if anyone and listed and effect is Effect.ALLOW:
        check_anyone(fields, listed.at, findings)
    methods, paths = fields.get(rule_keys.METHODS), fields.get(rule_keys.PATHS)
    if paths:
        refuse_redundant_paths(paths.value, findings)
    token, mcp = build_token(fields, names, findings), build_mcp(fields, port, findings)
    when = build_condition(fields, port, findings)
    wrong = (
        findings.count > before or not _is_whole(fields) or (token is None and fields.place(rule_keys.TOKEN))
    )
    if wrong or not (callers or anyone) or rule_id is None:
        return None
    return Rule(
        name=f"{owner}/{rule_id.value}",
        callers=callers,
        anyone=anyone,
        methods=frozenset(found.value for found in methods.value) if methods else frozenset(),
        paths=tuple(found.value for found in paths.value) if paths else (),
        effect=effect,
        mode=fields.value(rule_keys.MODE, Mode.ENFORCE),
        when=when,
        token=token,
        mcp=mcp,
        expires=fields.value(rule_keys.EXPIRES, None),
        reason=fields.value(rule_keys.REASON, ""),
        where=findings.where(item.at),
    )


def _is_whole(fields: Fields) -> bool:
    """Whether every key that is written could be read in full."""
    read = [(fields.place(key), fields.get(key)) for key in rule_keys.RULE_RECORD.keys]
    return all(place is None or (found is not None and found.whole) for place, found in read)


def _check_token(fields: Fields, port: Port | None, effect: Effect, findings: Findings) -> None:
    said = fields.get(rule_keys.TOKEN)
    if said is None:
        return
    if port is not None and port.authorization is Authorization.REFUSE:
        message = f"the port {port.name!r} takes no Authorization header, and the rule asks for a token"
        findings.add(codes.EXCLUSIVE_KEYS, message, said.at)
    place = said.value.place(rule_keys.INJECT)
    if place and effect is Effect.DENY:
        findings.add(codes.NO_EFFECT, "no token is sent along to be denied by a rule", place)


def _check_protocol(fields: Fields, port: Port | None, findings: Findings) -> None:
    if port is None:
        return
    if not port.protocol.is_http:
        for key in rule_keys.HTTP_KEYS:
            if place := fields.place(key):
                message = f"{port.name!r} speaks TCP, where a rule cannot have {key.name}"
                findings.add(codes.HTTP_ON_TCP, message, place)
    methods = fields.get(rule_keys.METHODS)
    if port.protocol is Protocol.GRPC and methods:
        for method in methods.value:
            if method.value != "POST":
                message = f"{port.name!r} speaks gRPC, where {method.value} never occurs"
                findings.add(codes.GRPC_METHOD, message, method.at)
