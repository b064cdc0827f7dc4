"""Rules in groups, each in a file of its own: what rules for secrets and rules for tokens have in common.

Both speak of verbs (a rule's methods) and of paths, and have no port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.intent import rule_keys
from vestibule.intent.demanding import check_anyone
from vestibule.intent.granting import Listed, refuse_crowds
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.redundancy import refuse_redundant_rules
from vestibule.intent.resolving import Names, resolve_callers
from vestibule.intent.shapes import At, Fields, Record
from vestibule.intent.words import AnyCaller
from vestibule.policy import Condition, Effect, Mode, PathPattern, Rule
from vestibule.policy.vocabulary import NAMES

KNOWN: Final = frozenset({"caller.id", "caller.trust_domain", "caller.labels", "environment", "request.time"})
"""What every condition may speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """What a rule is about, besides who; ``known`` is what its condition may speak of."""

    methods: frozenset[str] = frozenset()
    paths: tuple[PathPattern, ...]
    known: frozenset[str] = KNOWN


Reader = Callable[[Fields, Findings], Meant | None]
"""Reads what a rule is about, and notes what is wrong with it; None if that cannot be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The rules of one effect in one kind of file.  ``alike``: whether two of them give the same."""

    record: Record
    effect: Effect
    read: Reader
    alike: Callable[[Fields, Fields], bool] = lambda one, other: True


def build_rules(
    group: str, listed: Listed, kind: Kind, names: Names, findings: Findings
) -> list[tuple[At[Fields], Rule]]:
    """The rules, each with what it was made of; those in error are left out."""
    rules = list(_rules(group, listed, kind, names, findings))
    refuse_redundant_rules(rules, findings, kind.alike)
    refuse_crowds(rules, findings)
    return rules


def _rules(
    group: str, listed: Listed, kind: Kind, names: Names, findings: Findings
) -> Iterator[tuple[At[Fields], Rule]]:
    for item in listed.value if listed else ():
        if (rule := _rule(group, item, kind, names, findings)) is not None:
            yield item, rule


def _rule(group: str, item: At[Fields], kind: Kind, names: Names, findings: Findings) -> Rule | None:
    """The rule, or None if any part of it is wrong: what is left of it would mean something else."""
    fields, before = item.value, findings.count
    listed, rule_id = fields.get(rule_keys.RULE_FROM), fields.get(rule_keys.RULE_ID)
    callers = resolve_callers(listed.value, names, findings) if listed else ()
    anyone = listed is not None and any(isinstance(each.value, AnyCaller) for each in listed.value)
    if anyone and listed and kind.effect is Effect.ALLOW:
        check_anyone(fields, listed.at, findings)
    meant = kind.read(fields, findings)
    when = _condition(fields, KNOWN if meant is None else meant.known, findings)
    failed = any(each.severity is Severity.ERROR for each in findings.since(before))
    wrong = failed or not _is_whole(fields, kind.record)
    if wrong or not (callers or anyone) or rule_id is None or meant is None:
        return None
    return Rule(
        name=f"{group}/{rule_id.value}",
        callers=callers,
        anyone=anyone,
        methods=meant.methods,
        paths=meant.paths,
        effect=kind.effect,
        mode=fields.value(rule_keys.MODE, Mode.ENFORCE),
        when=when,
        expires=fields.value(rule_keys.EXPIRES, None),
        reason=fields.value(rule_keys.REASON, ""),
        where=findings.where(item.at),
    )


def _is_whole(fields: Fields, record: Record) -> bool:
    read = [(fields.place(key), fields.get(key)) for key in record.keys]
    return all(place is None or (found is not None and found.whole) for place, found in read)


def _condition(fields: Fields, known: frozenset[str], findings: Findings) -> Condition | None:
    said = fields.get(rule_keys.WHEN)
    if said is None:
        return None
    try:
        return Condition.parse(said.value.text, without=NAMES.keys() - known)
    except VestibuleError as error:
        within = error.where
        at = said.value.place(within.line, within.column or 1) if within and within.line else said.at
        findings.add_error(error, at)
        return None
