"""Rules and paths that change nothing, because another one matches all that they match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vestibule.intent import codes
from vestibule.intent.problems import Findings
from vestibule.intent.rule_index import RuleIndex
from vestibule.intent.shapes import At, Fields
from vestibule.policy import Effect, Mode, PathPattern, Rule
from vestibule.policy.path_trees import PatternTree

MOST_COMPARISONS: Final = 200_000
"""In one file.  Rules are found by what they match; only rules that are made for it need more."""


def refuse_redundant_paths(paths: tuple[At[PathPattern], ...], findings: Findings) -> None:
    """Note every path of a rule that another of its paths covers; equal ones are refused as they are read."""
    tree = PatternTree()
    for number, path in enumerate(paths):
        tree.add(path.value, number)
    for path in paths:
        wider = (paths[number].value for number in tree.covering(path.value))
        if other := next((found for found in wider if found != path.value), None):
            message = f"the path {path.value} is matched by {other} already"
            findings.add(codes.REDUNDANT, message, path.at)


def refuse_redundant_rules(
    rules: list[tuple[At[Fields], Rule]],
    findings: Findings,
    alike: Callable[[Fields, Fields], bool] = lambda one, other: True,
) -> None:
    """Note every rule that another one makes superfluous; of two that are equal, the later one.

    ``alike``: whether two rules give the same, where they give more than permission.  A rule that gives something else
    than a later one, which covers it, is not superfluous: it decides.
    """
    values = [rule for _, rule in rules]
    index, compared = RuleIndex(values), 0
    for number, (item, rule) in enumerate(rules):
        candidates = index.candidates(rule)
        compared += len(candidates)
        if compared > MOST_COMPARISONS or findings.full:
            return
        for other in candidates:
            earlier = other < number
            if other != number and _makes_superfluous(values[other], rule, earlier=earlier):
                if not (earlier or alike(rules[other][0].value, item.value)):
                    continue
                verb = "denies" if rule.effect is Effect.DENY else "allows"
                message = f"the rule {rule.name} changes nothing: {values[other].name} {verb} all of it"
                findings.add(codes.REDUNDANT, message, item.at)
                break


def _makes_superfluous(other: Rule, rule: Rule, *, earlier: bool) -> bool:
    if other.mode is not rule.mode and other.mode is not Mode.ENFORCE:
        return False
    same = other.mode is rule.mode and rule.covers(other)
    return other.covers(rule) and (earlier or not same)
