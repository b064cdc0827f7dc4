"""Rules by what they match, so that those which cover a given one are found without trying all."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import product

from vestibule.policy import IdentityMatch, Rule
from vestibule.policy.path_sets import EVERY_PATH
from vestibule.policy.path_trees import PatternTree

_MOST_PATHS_TRIED = 8


class _Rules:
    """The rules of one caller: those for every path, and those for some."""

    def __init__(self) -> None:
        self.size = 0
        self._everywhere: list[int] = []
        self._somewhere = PatternTree()

    def add(self, rule: Rule, number: int) -> None:
        self.size += 1
        if not rule.paths:
            self._everywhere.append(number)
        for pattern in rule.paths:
            self._somewhere.add(pattern, number)

    def candidates(self, rule: Rule) -> list[int]:
        """The rules for every path, and those for one of the rule's paths: the one with the fewest."""
        tried = [list(self._somewhere.covering(path)) for path in rule.paths[:_MOST_PATHS_TRIED]]
        return self._everywhere + (min(tried, key=len) if tried else [])

    def meeting(self, rule: Rule) -> Iterator[int]:
        """The rules about a path that the rule is about."""
        yield from self._everywhere
        for path in rule.paths or (EVERY_PATH,):
            yield from self._somewhere.meeting(path)


class _Callers:
    """Rules by those whom they name, segment by segment of their IDs."""

    def __init__(self) -> None:
        self._here = _Rules()
        self._below = _Rules()
        self._children: dict[str, _Callers] = {}

    def add(self, match: IdentityMatch, rule: Rule, number: int) -> None:
        node = self
        for part in _parts(match):
            node = node._children.setdefault(part, _Callers())
        (node._below if match.below else node._here).add(rule, number)

    def covering(self, match: IdentityMatch) -> list[_Rules]:
        """The rules of each pattern that covers this one."""
        node = self
        found: list[_Rules] = []
        for part in _parts(match):
            if part not in node._children:
                return found
            node = node._children[part]
            found.append(node._below)
        return found if match.below else [*found, node._here]

    def meeting(self, match: IdentityMatch) -> Iterator[_Rules]:
        """The rules of each pattern that means anybody whom this one means."""
        node = self
        for part in _parts(match):
            if part not in node._children:
                return
            node = node._children[part]
            yield node._below
        yield from node._all() if match.below else (node._here,)

    def _all(self) -> Iterator[_Rules]:
        yield self._here
        waiting = list(self._children.values())
        while waiting:
            node = waiting.pop()
            yield node._here
            yield node._below
            waiting.extend(node._children.values())


class RuleIndex:
    """Rules of one effect, by caller, path, port, and what else they ask for."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._named: dict[Hashable, _Callers] = {}
        self._anyone: dict[Hashable, _Rules] = {}
        for number, rule in enumerate(rules):
            key = rule.port, rule.when, rule.token, rule.mcp
            if rule.anyone:
                self._anyone.setdefault(key, _Rules()).add(rule, number)
            for match in rule.callers:
                self._named.setdefault(key, _Callers()).add(match, rule, number)

    def candidates(self, rule: Rule) -> list[int]:
        """The numbers of rules that may cover this one, in order: every one that does is among them."""
        found: set[int] = set()
        for key in _asking_no_more(rule):
            anyone, named = self._anyone.get(key), self._named.get(key)
            if anyone is not None:
                found.update(anyone.candidates(rule))
            if named is not None and not rule.anyone and rule.callers:
                # Whoever covers the rule covers each of its callers: the one that the fewest rules cover says most.
                fewest = min((named.covering(each) for each in rule.callers), key=_size)
                found.update(number for rules in fewest for number in rules.candidates(rule))
        return sorted(found)


class MeetingIndex:
    """Rules of one effect, by caller, path and port: those that are about a call that another rule is about."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._named = _Callers()
        self._anyone = _Rules()
        for number, rule in enumerate(rules):
            if rule.anyone:
                self._anyone.add(rule, number)
            for match in rule.callers:
                self._named.add(match, rule, number)

    def meeting(self, rule: Rule) -> Iterator[Rule]:
        """Perhaps more than once, whatever the rules ask for besides."""
        groups = [self._anyone]
        if rule.anyone:
            groups += self._named._all()
        for match in rule.callers:
            groups += self._named.meeting(match)
        for number in (number for group in groups for number in group.meeting(rule)):
            other = self._rules[number]
            ports = None in (rule.port, other.port) or rule.port == other.port
            if ports and (not rule.methods or not other.methods or rule.methods & other.methods):
                yield other


def _asking_no_more(rule: Rule) -> Iterator[Hashable]:
    """What a rule asks for besides callers and paths, and what rules ask for that ask for a part of it."""
    asked = (dict.fromkeys((None, each)) for each in (rule.port, rule.when, rule.token, rule.mcp))
    return product(*asked)


def _size(found: list[_Rules]) -> int:
    return sum(each.size for each in found)


def _parts(match: IdentityMatch) -> list[str]:
    return [match.id.trust_domain.name, *match.id.path.split("/")[1:]]
