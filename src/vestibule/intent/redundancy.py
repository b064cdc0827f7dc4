"""Rules and paths that change nothing, because another one matches all that they match."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vestibule.intent import codes
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Fields
from vestibule.policy import IdentityMatch, PathPattern, Placeholder, Rule
from vestibule.policy.paths import Segment
from vestibule.spiffe import SpiffeId

_ANY_SEGMENT = Placeholder("")


class PatternTree:
    """Patterns by segment, so that those which cover a given one are found without trying all."""

    def __init__(self) -> None:
        self._here: list[int] = []
        self._below: list[int] = []
        self._children: dict[Segment, PatternTree] = {}

    def add(self, pattern: PathPattern, number: int) -> None:
        """Keep a pattern under a number."""
        node = self
        for segment in pattern.segments:
            key = segment if isinstance(segment, str) else _ANY_SEGMENT
            node = node._children.setdefault(key, PatternTree())
        (node._below if pattern.below else node._here).append(number)

    def covering(self, pattern: PathPattern) -> Iterator[int]:
        """The numbers of the patterns that cover ``pattern``, itself among them if it was added."""
        nodes = [self]
        for segment in pattern.segments:
            yield from (number for node in nodes for number in node._below)
            keys = {segment if isinstance(segment, str) else _ANY_SEGMENT}
            keys |= {_ANY_SEGMENT} if segment != "" else set()
            nodes = [node._children[key] for node in nodes for key in keys if key in node._children]
        yield from (number for node in nodes for number in node._below)
        if not pattern.below:
            yield from (number for node in nodes for number in node._here)


class _Callers:
    """The rules of one caller: those for every path, and those for some."""

    def __init__(self) -> None:
        self._everywhere: list[int] = []
        self._somewhere = PatternTree()

    def add(self, rule: Rule, number: int) -> None:
        if not rule.paths:
            self._everywhere.append(number)
        for pattern in rule.paths:
            self._somewhere.add(pattern, number)

    def candidates(self, rule: Rule) -> set[int]:
        """The rules that cover the rule's first path, or all its paths if it has none."""
        found = set(self._everywhere)
        return found | set(self._somewhere.covering(rule.paths[0])) if rule.paths else found


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


def refuse_redundant_rules(rules: list[tuple[At[Fields], Rule]], findings: Findings) -> None:
    """Note every rule that another one makes superfluous; of two that are equal, the later one."""
    exact: defaultdict[SpiffeId, _Callers] = defaultdict(_Callers)
    wide = _Callers()
    for number, (_, rule) in enumerate(rules):
        for caller in rule.callers:
            (wide if caller.below else exact[caller.id]).add(rule, number)
    for number, (item, rule) in enumerate(rules):
        first: IdentityMatch = rule.callers[0]
        candidates = wide.candidates(rule) | exact[first.id].candidates(rule)
        for other in sorted(candidates - {number}):
            if _makes_superfluous(rules[other][1], rule, earlier=other < number):
                message = f"the rule {rule.name} changes nothing: {rules[other][1].name} allows all of it"
                findings.add(codes.REDUNDANT, message, item.at)
                break


def _makes_superfluous(other: Rule, rule: Rule, *, earlier: bool) -> bool:
    return other.covers(rule) and (earlier or not rule.covers(other))
