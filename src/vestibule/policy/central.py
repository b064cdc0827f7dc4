"""Which rules no proxy can judge, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from vestibule.policy.conditions import Condition
from vestibule.policy.rules import Mode, Rule

MANY_CALLERS: Final = 2000
"""More callers than these in one rule are no longer sent to every proxy."""


def why_central(rule: Rule) -> str:
    """Why a decision service has to judge a rule, in words for people; empty if a proxy can."""
    if rule.when is not None and rule.when.central:
        used = " and ".join(sorted(_central_names(rule.when)))
        return f"{rule.name} asks for {used}, which no proxy knows"
    exact = sum(not each.below for each in rule.callers)
    if exact > MANY_CALLERS:
        return f"{rule.name} names {exact} callers, which are not sent to every proxy"
    return ""


def enforced_centrally(rules: Iterable[Rule]) -> Iterator[str]:
    """Why a port with these rules is decided centrally.  Rules in shadow mode never are a reason."""
    return (why for rule in rules if rule.mode is Mode.ENFORCE and (why := why_central(rule)))


def unjudged(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules in shadow mode that are judged only where a decision service is asked anyway."""
    return (rule for rule in rules if rule.mode is Mode.SHADOW and why_central(rule))


def _central_names(when: Condition) -> Iterator[str]:
    return (each for each in when.uses if each in ("request.body", "attributes"))
