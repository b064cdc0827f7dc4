"""Which calls one set of rules allows and another does not, in as few words as it takes.

By caller, method and path that is exact.  What else rules ask for (conditions, tokens, tools, an end) is compared as it
is written: the same words mean the same, and of different ones it is said under which condition a call is gained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vestibule.policy.path_sets import EVERY_PATH, PathSet, largest, without
from vestibule.policy.path_trees import PatternTree, meet
from vestibule.policy.paths import PathPattern
from vestibule.policy.rules import Effect, Mode, Rule
from vestibule.policy.terms import Terms, instant
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The methods of ``names``; with ``but``, all except those."""

    names: frozenset[str] = frozenset()
    but: bool = True

    def matches(self, method: str | None) -> bool:
        """Whether a method is one of them; TCP has none, and needs all."""
        return (method in self.names) is not self.but

    @property
    def example(self) -> str:
        """One of them, a common one if it can be."""
        if not self.but:
            return min(self.names)
        return next(each for each in ("GET", "POST", "PUT", "DELETE", "PATCH", "x") if each not in self.names)

    def __str__(self) -> str:
        if not self.but:
            return ", ".join(sorted(self.names))
        return f"every method but {', '.join(sorted(self.names))}" if self.names else "every method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """A set of calls that one caller may make at one port, and the rules that speak of them.

    ``condition`` says in words what else must hold; calls with one are not made by everybody whom it is told of.
    """

    methods: Methods
    paths: PathSet
    rules: tuple[str, ...] = ()
    condition: str = ""

    def matches(self, method: str | None, path: str | None) -> bool:
        """Whether a call is one of them; ``path`` without its query."""
        if path is None:
            return self.methods.matches(method) and self.paths == PathSet()
        return self.methods.matches(method) and self.paths.matches(path)

    @property
    def example(self) -> tuple[str, str]:
        """The method and path of one of them."""
        return self.methods.example, self.paths.example or "/"

    def __str__(self) -> str:
        everything = self.paths == PathSet()
        if self.methods == Methods():
            said = "every call" if everything else f"every method of {self.paths}"
        else:
            said = f"{self.methods} of every path" if everything else f"{self.methods} {self.paths}"
        return f"{said} {self.condition}" if self.condition else said


class Permissions:
    """What the rules of one port allow, by those whom they speak of.  Rules that are only tried out are left out."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._named: defaultdict[SpiffeId, list[int]] = defaultdict(list)
        self._wide: list[int] = []
        self._rules = [rule for rule in rules if rule.mode is Mode.ENFORCE]
        for number, rule in enumerate(self._rules):
            if rule.anyone or any(match.below for match in rule.callers):
                self._wide.append(number)
            else:
                for match in rule.callers:
                    self._named[match.id].append(number)

    def of(self, caller: SpiffeId) -> list[Rule]:
        """The rules that speak of a caller, in their order."""
        wide = (number for number in self._wide if self._rules[number].calls_from(caller))
        return [self._rules[number] for number in sorted({*wide, *self._named.get(caller, ())})]

    def beyond(
        self, other: Permissions, before: SpiffeId | None, after: SpiffeId | None
    ) -> tuple[Calls, ...]:
        """What is allowed here and not by ``other``, to a caller that had the ID ``before`` and has ``after``."""
        had = [] if before is None else [_Grant.of(rule, before) for rule in other.of(before)]
        has = [] if after is None else [_Grant.of(rule, after) for rule in self.of(after)]
        if had == has or not any(each.allows for each in has):
            return ()
        named = sorted({method for each in (*had, *has) for method in each.rule.methods})
        found: dict[tuple[PathSet, str], tuple[list[str | None], dict[str, None]]] = {}
        for method in (*named, None):
            for left, condition, names in _gained_by(_Method.of(method, had), _Method.of(method, has)):
                methods, rules = found.setdefault((left, condition), ([], {}))
                methods.append(method)
                rules.update(dict.fromkeys(names))
        return tuple(
            Calls(methods=_methods(methods, named), paths=paths, rules=tuple(rules), condition=condition)
            for (paths, condition), (methods, rules) in found.items()
        )


def gained(
    old: Sequence[Rule], new: Sequence[Rule], before: SpiffeId | None, after: SpiffeId | None
) -> tuple[Calls, ...]:
    """What ``new`` allows and ``old`` does not, to a caller that had the ID ``before`` and has ``after``.

    All rules are of one port, those that deny among them.  The parts may overlap in what they say twice; together they
    are exact.
    """
    return Permissions(new).beyond(Permissions(old), before, after)


@dataclass(frozen=True, slots=True)
class _Grant:
    """A rule as it is for one caller."""

    rule: Rule = field(compare=False)
    allows: bool
    terms: Terms
    methods: frozenset[str]
    paths: tuple[PathPattern, ...]

    @classmethod
    def of(cls, rule: Rule, caller: SpiffeId) -> _Grant:
        allows = rule.effect is Effect.ALLOW
        return cls(rule, allows, Terms.of(rule, caller), rule.methods, rule.paths or (EVERY_PATH,))


class _Patterns:
    """Paths on the same terms, and the rules that name them."""

    def __init__(self) -> None:
        self.patterns: list[PathPattern] = []
        self.names: dict[PathPattern, dict[str, None]] = {}
        self._tree = PatternTree()

    def add(self, pattern: PathPattern, name: str) -> None:
        if pattern not in self.names:
            self._tree.add(pattern, len(self.patterns))
            self.patterns.append(pattern)
        self.names.setdefault(pattern, {})[name] = None

    def meeting(self, pattern: PathPattern) -> Iterator[PathPattern]:
        return (self.patterns[number] for number in self._tree.meeting(pattern))


class _Method:
    """What is allowed and denied to one caller by one method; ``None`` is any that no rule names."""

    def __init__(self) -> None:
        self.allow: dict[Terms, _Patterns] = {}
        self.deny: dict[Terms, _Patterns] = {}

    @classmethod
    def of(cls, method: str | None, grants: Iterable[_Grant]) -> _Method:
        one = cls()
        for grant in grants:
            if not grant.methods or method in grant.methods:
                group = (one.allow if grant.allows else one.deny).setdefault(grant.terms, _Patterns())
                for pattern in grant.paths:
                    group.add(pattern, grant.rule.name)
        return one


_Gain = tuple[PathSet, str, list[str]]


def _gained_by(old: _Method, new: _Method) -> Iterator[_Gain]:
    """What is allowed now and was not, and what is no longer denied."""
    told: dict[Terms, _Patterns] = {}
    for terms, group in new.allow.items():
        for pattern in largest([each for each in group.patterns if not _is_told(each, terms, old, new)]):
            allowed = [*_over(old.allow, terms, pattern), *_over(new.allow, terms, pattern, but=terms)]
            denied = _over(new.deny, Terms(), pattern)
            if (left := without(pattern, [*allowed, *denied])) is not None:
                since = _already_until(old, terms, pattern)
                yield left, _condition(terms, new, pattern, since), list(group.names[pattern])
                if not left.but:
                    told.setdefault(terms, _Patterns()).add(pattern, "")
    for past, denials in old.deny.items():
        for terms, group in new.allow.items():
            yield from _no_longer_denied(past, denials, terms, group, new, told)


def _no_longer_denied(
    past: Terms,
    denials: _Patterns,
    terms: Terms,
    group: _Patterns,
    new: _Method,
    told: dict[Terms, _Patterns],
) -> Iterator[_Gain]:
    for denied in denials.patterns:
        if any(each.covers(denied) for each in _over(new.deny, past, denied)):
            continue
        for pattern in group.meeting(denied):
            met = meet(pattern, denied)
            if met is None:
                continue
            still, both = _over(new.deny, past, met), terms.also(past)
            left = without(met, [*still, *_over(told, both, met)])
            if left is not None:
                yield left, _condition(both, new, met), list(group.names[pattern])


def _is_told(pattern: PathPattern, terms: Terms, old: _Method, new: _Method) -> bool:
    """Whether the very same was allowed before, as is most of what does not change."""
    same = old.allow.get(terms)
    return same is not None and pattern in same.names


def _over(
    groups: dict[Terms, _Patterns], terms: Terms, pattern: PathPattern, but: Terms | None = None
) -> list[PathPattern]:
    """What meets a pattern and holds whenever these terms do."""
    return [
        found
        for each, group in groups.items()
        if each != but and each.covers(terms)
        for found in group.meeting(pattern)
    ]


def _already_until(old: _Method, terms: Terms, pattern: PathPattern) -> datetime | None:
    """Until when the same was allowed before, if it was for a time."""
    return max(
        (
            each.until
            for each, group in old.allow.items()
            if each.until is not None
            and each.parts <= terms.parts
            and any(found.covers(pattern) for found in group.meeting(pattern))
        ),
        default=None,
    )


def _condition(terms: Terms, new: _Method, pattern: PathPattern, since: datetime | None = None) -> str:
    """In words, with what is denied of it under conditions of its own."""
    denied = [
        each
        for each, group in new.deny.items()
        if each != Terms() and next(group.meeting(pattern), None) is not None
    ]
    unless = " or ".join(sorted(f"({each.words})" for each in denied))
    said = (f"after {instant(since)}" if since else "", terms.words, f"unless {unless}" if unless else "")
    return " ".join(part for part in said if part)


def _methods(methods: Sequence[str | None], named: Iterable[str]) -> Methods:
    known = frozenset(each for each in methods if each is not None)
    return (
        Methods(names=frozenset(named) - known, but=True)
        if None in methods
        else Methods(names=known, but=False)
    )
