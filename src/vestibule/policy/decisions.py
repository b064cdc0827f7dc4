"""The decision that rules lead to.  Denials go before permissions; whatever nothing allows is denied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vestibule.policy.facts import Call
from vestibule.policy.paths import is_normal
from vestibule.policy.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A yes or no, and the name of the rule that gave it; a denial by default has none."""

    allowed: bool
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, and the name of the rule that gave it; a denial by default has none.

    ``shadow``: the answer if the rules that are in shadow mode counted; None if there are none.
    """

    allowed: bool
    rule: str | None = None
    shadow: Verdict | None = None


def decide(rules: Iterable[Rule], call: Call) -> Decision:
    """Allow the call by the first rule that matches it, else deny it.

    A path that is not normal is denied whatever the rules say: the proxy refuses it before looking at them.
    """
    path = None if call.path is None else call.path.partition("?")[0]
    if path is not None and not is_normal(path):
        return Decision(allowed=False)
    for rule in rules:
        if _allows(rule, call, path):
            return Decision(allowed=True, rule=rule.name)
    return Decision(allowed=False)


def _allows(rule: Rule, call: Call, path: str | None) -> bool:
    if rule.port is not None and rule.port != call.port:
        return False
    if rule.methods and call.method not in rule.methods:
        return False
    if rule.paths and not (path is not None and any(pattern.matches(path) for pattern in rule.paths)):
        return False
    return rule.calls_from(call.caller)
