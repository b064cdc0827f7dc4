"""Which calls one set of rules allows and another does not, exactly, and in as few words as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vestibule.policy.path_sets import EVERY_PATH, PathSet, largest, without
from vestibule.policy.paths import PathPattern
from vestibule.policy.rules import Rule
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
    """A set of calls that one caller may make at one port, and the rules that speak of them."""

    methods: Methods
    paths: PathSet
    rules: tuple[str, ...] = ()

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
            return "every call" if everything else f"every method of {self.paths}"
        return f"{self.methods} of every path" if everything else f"{self.methods} {self.paths}"


def gained(
    old: Sequence[Rule], new: Sequence[Rule], before: SpiffeId | None, after: SpiffeId | None
) -> tuple[Calls, ...]:
    """What ``new`` allows and ``old`` does not, to a caller that had the ID ``before`` and has ``after``.

    All rules are of one port.  The parts may overlap in what they say twice; together they are exact.
    """
    had = [rule for rule in old if before is not None and rule.calls_from(before)]
    has = [rule for rule in new if after is not None and rule.calls_from(after)]
    if not has or had == has:
        return ()
    named = sorted({method for rule in (*had, *has) for method in rule.methods})
    found: dict[PathSet, tuple[list[str | None], dict[str, None]]] = {}
    for method in (*named, None):
        rules = [rule for rule in has if _speaks_of(rule, method)]
        before_it = [pattern for rule in had if _speaks_of(rule, method) for pattern in _paths(rule)]
        for pattern in largest([pattern for rule in rules for pattern in _paths(rule)]):
            if (left := without(pattern, before_it)) is None:
                continue
            methods, names = found.setdefault(left, ([], {}))
            methods.append(method)
            names.update(dict.fromkeys(rule.name for rule in rules if pattern in _paths(rule)))
    return tuple(
        Calls(methods=_methods(methods, named), paths=paths, rules=tuple(rules))
        for paths, (methods, rules) in found.items()
    )


def _speaks_of(rule: Rule, method: str | None) -> bool:
    """``None`` is any method that no rule names."""
    return not rule.methods or method in rule.methods


def _paths(rule: Rule) -> tuple[PathPattern, ...]:
    return rule.paths or (EVERY_PATH,)


def _methods(methods: Sequence[str | None], named: Iterable[str]) -> Methods:
    known = frozenset(each for each in methods if each is not None)
    return (
        Methods(names=frozenset(named) - known, but=True)
        if None in methods
        else Methods(names=known, but=False)
    )
