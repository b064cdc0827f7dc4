"""Which rules may decide about a caller in a place, in which order, and what is left to ask when a call comes.

A *place* is a path, or all paths with one beginning.  There, an entry for a caller holds all rules that speak of the
caller, those of wider places too, in the order in which they decide.  So what an entry leaves open is open
everywhere: falling through to a wider place finds nothing that was not asked.  A place has entries only for callers
whose answer differs from that of the wider place, which keeps ten thousand places small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol

from vestibule.envoy.mcp import Said
from vestibule.envoy.trees import Predicate
from vestibule.policy import Effect, IdentityMatch, PathPattern, Rule
from vestibule.policy.codes import TOO_MANY_IN_A_ROW
from vestibule.policy.crowding import MOST_IN_A_ROW
from vestibule.records import BREAK_GLASS

ANYONE: Final = ""
"""Who is let in at all."""

_SCHEME: Final = len("spiffe://")

Ranked = tuple[int, Rule]
"""A rule and its place in the order in which rules decide."""

Key = str
"""A caller's SPIFFE ID; or with a slash at its end those below it; or ``ANYONE``."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A rule that speaks of a caller: its place in the order, how long it does, and on which paths, if some only."""

    rank: int
    rule: Rule
    until: datetime | None
    pattern: PathPattern | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule that decides about a caller's calls if they have one of its methods, and all of ``asked`` holds.

    Of calls by MCP, only about those that are ``said``, if any are.
    """

    rank: int
    rule: Rule = field(compare=False)
    asked: tuple[Predicate, ...]
    said: Said | None = None

    @property
    def is_certain(self) -> bool:
        """Whether nothing is left to ask but the method."""
        return not self.asked and self.said is None


class Layer:
    """The rules of one place by whom they speak of."""

    __slots__ = ("terms",)

    def __init__(self) -> None:
        self.terms: defaultdict[Key, list[Term]] = defaultdict(list)

    def add(self, ranked: Ranked, ask: Asking, pattern: PathPattern | None = None) -> None:
        """Take a rule in, under every key by which it names somebody."""
        rank, rule = ranked
        for key in ask.known_callers(rule):
            self.terms.setdefault(key, [])
        if rule.anyone:
            self.terms[ANYONE].append(Term(rank, rule, None, pattern))
        for match in rule.callers:
            for key in keys_of(match):
                self.terms[key].append(Term(rank, rule, match.until, pattern))


class Asking(Protocol):
    """What is left to ask when a call comes."""

    def of_rule(self, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """For a rule about the callers of a key, besides path, method and caller; None if it never matches."""

    def of_message(self, rule: Rule) -> Said | None:
        """The messages of MCP that a rule names; None if it names all."""

    def known_callers(self, rule: Rule) -> Iterable[Key]:
        """Callers who need entries of their own though the rule does not name them one by one."""

    def of_path(self, patterns: Iterable[PathPattern]) -> Predicate:
        """For a path that has to fit one of some patterns."""

    def of_time(self, end: datetime) -> Predicate:
        """For what is over at some instant."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """``own`` are the rules of this place, ``wider`` those of wider ones; ``path`` if it is a single path."""

    own: Sequence[Layer]
    wider: Sequence[Layer] = ()
    path: str | None = None

    @classmethod
    def everywhere(cls, rules: Iterable[Ranked], ask: Asking) -> Place:
        """The only place there is for connections, which have no paths."""
        layer = Layer()
        for each in rules:
            layer.add(each, ask)
        return cls((layer,))

    def entries(self, ask: Asking) -> dict[Key, tuple[Choice, ...]]:
        """Who is decided about here, and how; those with wider keys are meant where no other entry fits.

        Raises: VST4050.
        """
        keys = self._keys()
        if not any(map(is_wide, keys)):
            # As almost everywhere: nobody's entry can stand for another's.
            return {key: choices for key in keys if (choices := self._choices(key, ask))}
        found: dict[Key, tuple[Choice, ...]] = {}
        for key in sorted(keys, key=lambda each: (not is_wide(each), len(each), each)):
            choices = self._choices(key, ask)
            covering = next((each for each in wider_keys(key) if each in found), None)
            if choices and (covering is None or found[covering] != choices):
                found[key] = choices
        return found

    def _keys(self) -> set[Key]:
        keys = {key for layer in self.own for key in layer.terms}
        wide = {key for key in keys if is_wide(key)}
        if wide:
            # Others may name, in an earlier rule, some of those whom a rule of this place speaks of.
            for layer in self.wider:
                keys.update(key for key in layer.terms if not wide.isdisjoint(wider_keys(key)))
        return keys

    def _choices(self, key: Key, ask: Asking) -> tuple[Choice, ...]:
        terms: dict[int, list[Term]] = {}
        meant = (key, *wider_keys(key))
        for layers in (self.own, self.wider):
            for layer in layers:
                for each in meant:
                    for term in layer.terms.get(each, ()):
                        if term.pattern is None or self.path is None or term.pattern.matches(self.path):
                            terms.setdefault(term.rank, []).append(term)
        choices: list[Choice] = []
        for rank in sorted(terms):
            choice = self._choice(rank, key, terms[rank], ask)
            if choice is None:
                continue
            choices.append(choice)
            if choice.is_certain and not choice.rule.methods:
                break
        check_length(choices)
        return tuple(choices)

    def _choice(self, rank: int, key: Key, terms: Sequence[Term], ask: Asking) -> Choice | None:
        rule = terms[0].rule
        asked = ask.of_rule(rule, key)
        if asked is None:
            return None
        first: list[Predicate] = []
        if self.path is None and all(term.pattern is not None for term in terms):
            first.append(ask.of_path(dict.fromkeys(term.pattern for term in terms if term.pattern)))
        ends = [term.until for term in terms if term.until is not None]
        if len(ends) == len(terms):
            first.append(ask.of_time(max(ends)))
        if rule.expires is not None:
            first.append(ask.of_time(rule.expires))
        return Choice(rank, rule, (*first, *asked), ask.of_message(rule))


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Rules by the paths they speak of; ``rank`` is the order in which they decide."""

    anywhere: Layer = field(default_factory=Layer)
    exact: dict[str, Layer] = field(default_factory=dict)
    below: dict[str, Layer] = field(default_factory=dict)
    """By literal beginnings: what is said of all below, and patterns that begin so."""
    whole: set[str] = field(default_factory=set)
    """Beginnings that are paths of their own, as ``/a`` is in ``/a/**``."""

    @classmethod
    def of(cls, rules: Iterable[Ranked], ask: Asking) -> Places:
        places = cls()
        for each in rules:
            if not each[1].paths:
                places.anywhere.add(each, ask)
            for pattern in each[1].paths:
                places._add(each, ask, pattern)
        return places

    def _add(self, ranked: Ranked, ask: Asking, pattern: PathPattern) -> None:
        start = pattern.literal
        if not pattern.is_literal:
            self.below.setdefault(start, Layer()).add(ranked, ask, pattern)
        elif pattern.below:
            self.below.setdefault(start, Layer()).add(ranked, ask)
            if start:
                self.whole.add(start)
        else:
            self.exact.setdefault(start, Layer()).add(ranked, ask)

    def paths(self) -> Iterator[tuple[str, Place]]:
        """Every path that is written out in some rule."""
        for path in sorted({*self.exact, *self.whole}):
            own = [layers[path] for layers in (self.exact, self.below) if path in layers]
            yield path, Place(own, self._wider(path), path)

    def beginnings(self) -> Iterator[tuple[str, Place]]:
        """Every literal beginning."""
        for start in sorted(self.below):
            yield start, Place((self.below[start],), self._wider(start))

    def _wider(self, path: str) -> list[Layer]:
        return [*(self.below[each] for each in above(path) if each in self.below), self.anywhere]


def above(path: str) -> Iterator[str]:
    """``/a/b`` → ``/a``, ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def keys_of(match: IdentityMatch) -> tuple[Key, ...]:
    """Who is meant: an ID, and what is below it."""
    text = str(match.id)
    return (text, f"{text}/") if match.below else (text,)


def is_wide(key: Key) -> bool:
    """Whether many callers may be meant."""
    return not key or key.endswith("/")


@lru_cache(maxsize=65_536)
def wider_keys(key: Key) -> tuple[Key, ...]:
    """The keys that mean whoever ``key`` means, and others: the narrowest first."""
    found: list[Key] = []
    if key:
        end = len(key) - 1 if key.endswith("/") else len(key)
        while (end := key.rfind("/", _SCHEME, end)) > 0:
            found.append(key[: end + 1])
        found.append(ANYONE)
    return tuple(found)


def check_length(choices: Sequence[Choice]) -> None:
    """Whether one call may have to ask so many.  Raises: VST4050."""
    # Break-glass is bounded where it is opened.  If it counted here, opening it could keep from a proxy whatever else
    # changes, its own end included.
    uncertain = [each for each in choices if each.asked and not each.rule.name.startswith(BREAK_GLASS)]
    if len(uncertain) > MOST_IN_A_ROW:
        raise TOO_MANY_IN_A_ROW.error(
            f"{len(uncertain)} rules, {uncertain[0].rule.name} the first, have to be asked one after the other about "
            f"one call; {MOST_IN_A_ROW} are the most"
        )


def is_denial(rule: Rule) -> bool:
    """Whether what the rule matches is refused."""
    return rule.effect is Effect.DENY
