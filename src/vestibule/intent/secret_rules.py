"""Rules for secrets, from ``secrets/NAME.yaml`` to the model."""

from __future__ import annotations

from typing import Final

from vestibule.errors import VestibuleError
from vestibule.intent import codes, rule_keys, secret_keys, service_keys
from vestibule.intent.demanding import check_anyone
from vestibule.intent.granting import Listed, refuse_crowds, refuse_repeats
from vestibule.intent.nodes import START
from vestibule.intent.problems import Findings, Severity, nearest
from vestibule.intent.redundancy import refuse_redundant_paths, refuse_redundant_rules
from vestibule.intent.resolving import Names, resolve_callers
from vestibule.intent.secret_groups import USED_IN, SecretGroup
from vestibule.intent.secret_paths import MOUNTS, SecretPath, unknown_below
from vestibule.intent.shapes import At, Fields, Record
from vestibule.intent.words import AnyCaller
from vestibule.policy import Condition, Effect, Mode, Rule
from vestibule.policy.vocabulary import NAMES

KNOWN: Final = frozenset({"caller.id", "caller.trust_domain", "caller.labels", "environment", "request.time"})
"""What conditions on secrets may speak of."""


def build_secrets(name: str, fields: Fields, names: Names, findings: Findings) -> SecretGroup:
    """The group; rules in error are left out."""
    allow, deny = fields.get(secret_keys.SECRET_ALLOW), fields.get(secret_keys.SECRET_DENY)
    refuse_repeats((allow, deny), findings)
    return SecretGroup(
        name=name,
        allow=_built(name, allow, Effect.ALLOW, names, findings),
        deny=_built(name, deny, Effect.DENY, names, findings),
        owner=fields.value(service_keys.OWNER, None),
        where=findings.where(START),
    )


def _built(group: str, listed: Listed, effect: Effect, names: Names, findings: Findings) -> tuple[Rule, ...]:
    rules: list[tuple[At[Fields], Rule]] = []
    for item in listed.value if listed else ():
        if (rule := _rule(group, item, effect, names, findings)) is not None:
            rules.append((item, rule))
    refuse_redundant_rules(rules, findings)
    refuse_crowds(rules, findings)
    return tuple(rule for _, rule in rules)


def _rule(group: str, item: At[Fields], effect: Effect, names: Names, findings: Findings) -> Rule | None:
    """The rule, or None if any part of it is wrong: what is left of it would mean something else."""
    fields, before = item.value, findings.count
    record = secret_keys.SECRET_RULE if effect is Effect.ALLOW else secret_keys.SECRET_DENIAL
    listed, rule_id = fields.get(secret_keys.SECRET_FROM), fields.get(rule_keys.RULE_ID)
    callers = resolve_callers(listed.value, names, findings) if listed else ()
    anyone = listed is not None and any(isinstance(each.value, AnyCaller) for each in listed.value)
    if anyone and listed and effect is Effect.ALLOW:
        check_anyone(fields, listed.at, findings)
    may, paths = fields.get(secret_keys.MAY), fields.get(secret_keys.SECRET_PATHS)
    if paths:
        refuse_redundant_paths(paths.value, findings)
    if paths and may:
        _check_use(may.value, paths.value, findings)
    when = _condition(fields, findings)
    wrong = findings.count > before or not _is_whole(fields, record)
    if paths:
        _warn_of_unasked(paths.value, findings)
    if wrong or not (callers or anyone) or rule_id is None or paths is None:
        return None
    return Rule(
        name=f"{group}/{rule_id.value}",
        callers=callers,
        anyone=anyone,
        methods=frozenset(each.value for each in may.value) if may else frozenset(),
        paths=tuple(each.value for each in paths.value),
        effect=effect,
        mode=fields.value(rule_keys.MODE, Mode.ENFORCE),
        when=when,
        expires=fields.value(rule_keys.EXPIRES, None),
        reason=fields.value(rule_keys.REASON, ""),
        where=findings.where(item.at),
    )


def _is_whole(fields: Fields, record: Record) -> bool:
    read = [(fields.place(key), fields.get(key)) for key in record.keys]
    return all(place is None or (found is not None and found.whole) for place, found in read)


def _condition(fields: Fields, findings: Findings) -> Condition | None:
    said = fields.get(secret_keys.SECRET_WHEN)
    if said is None:
        return None
    try:
        return Condition.parse(said.value.text, without=NAMES.keys() - KNOWN)
    except VestibuleError as error:
        within = error.where
        at = said.value.place(within.line, within.column or 1) if within and within.line else said.at
        findings.add_error(error, at)
        return None


def _check_use(may: tuple[At[str], ...], paths: tuple[At[SecretPath], ...], findings: Findings) -> None:
    """Only keys are used; what is said of others means nothing."""
    use = next((each for each in may if each.value == "use"), None)
    if use is not None and not any(each.value.mount == USED_IN for each in paths):
        message = f"only keys in {USED_IN}/ are used, and none of the paths is there"
        findings.add(codes.NO_EFFECT, message, use.at, advice="Remove `use`, or write `read`.")


def _warn_of_unasked(paths: tuple[At[SecretPath], ...], findings: Findings) -> None:
    for each in paths:
        if (unknown := unknown_below(each.value)) is not None:
            close = nearest(unknown, MOUNTS[each.value.mount])
            advice = f"Did you mean {each.value.mount}/{close}?" if close else None
            message = f"{each.value.mount}/ has nothing that is called {unknown!r}"
            findings.add(
                codes.SECRET_PATH_UNASKED, message, each.at, advice=advice, severity=Severity.WARNING
            )
