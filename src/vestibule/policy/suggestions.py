"""The rules that recorded calls would have needed, and no more than them.

What stands for an identifier becomes ``{id}``: numbers, UUIDs, long hexadecimal texts.  So does a segment of which so
many are known, each followed by the same, that nobody would write them out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vestibule.policy.paths import PathPattern, Placeholder, Segment, is_normal

MOST_LITERALS: Final = 8
"""Segments in one place that are still written out one by one."""

_IDENTIFIER: Final = re.compile(
    r"[0-9]+"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{8,}"
    r"|[A-Za-z]{1,8}[-_][0-9][0-9A-Za-z]*"  # such as ord_12f9
)
_ANY: Final = Placeholder("id")
_Called = tuple[tuple[str, ...], tuple[PathPattern, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A call that was recorded so many times; ``method`` and ``path`` (without its query) are None on TCP ports."""

    caller: str
    method: str | None
    path: str | None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A rule as it could be written: who, and what they called; ``count`` is how many recorded calls it allows."""

    callers: tuple[str, ...]
    methods: tuple[str, ...]
    paths: tuple[PathPattern, ...]
    count: int


def suggest(calls: Iterable[Seen]) -> tuple[Suggestion, ...]:
    """The least that allows all of these calls to one port; callers who need the same share a rule.

    Paths that are not normal are left out: no rule allows them.
    """
    needs: defaultdict[str, Counter[tuple[str | None, str | None]]] = defaultdict(Counter)
    for each in calls:
        if each.path is None or is_normal(each.path):
            needs[each.caller][each.method, each.path] += each.count
    patterns = _patterns({path for seen in needs.values() for _, path in seen if path is not None})
    rules: defaultdict[_Called, Counter[str]] = defaultdict(Counter)
    for caller, seen in needs.items():
        for rule, count in _of_caller(seen, patterns).items():
            rules[rule][caller] += count
    return tuple(
        Suggestion(callers=tuple(sorted(callers)), methods=methods, paths=paths, count=callers.total())
        for (methods, paths), callers in sorted(rules.items(), key=lambda each: _order(each[0], each[1]))
    )


def _order(rule: _Called, callers: Counter[str]) -> tuple[list[str], list[str], list[str]]:
    methods, paths = rule
    return sorted(callers), list(map(str, paths)), list(methods)


def _of_caller(
    seen: Counter[tuple[str | None, str | None]], patterns: dict[str, PathPattern]
) -> dict[_Called, int]:
    """One rule for all paths that are called by the same methods."""
    methods: defaultdict[PathPattern | None, set[str]] = defaultdict(set)
    counts: Counter[PathPattern | None] = Counter()
    for (method, path), count in seen.items():
        pattern = None if path is None else patterns[path]
        methods[pattern].update(() if method is None else (method,))
        counts[pattern] += count
    together: defaultdict[tuple[str, ...], list[PathPattern | None]] = defaultdict(list)
    for pattern, names in methods.items():
        together[tuple(sorted(names))].append(pattern)
    return {
        (names, tuple(sorted((each for each in found if each is not None), key=str))): sum(
            counts[each] for each in found
        )
        for names, found in together.items()
    }


def _patterns(paths: Iterable[str]) -> dict[str, PathPattern]:
    """What each path is an example of."""
    shapes = {path: _without_identifiers(path) for path in paths}
    for depth in range(max((len(each) for each in shapes.values()), default=0)):
        shapes = _without_crowds(shapes, depth)
    return {path: PathPattern(segments=segments) for path, segments in shapes.items()}


def _without_identifiers(path: str) -> tuple[Segment, ...]:
    """A segment that a pattern cannot hold as it is (percent-encoding, for one) becomes ``{id}``, too."""
    return tuple(
        _ANY if _IDENTIFIER.fullmatch(part) or not _is_plain(part) else part for part in path[1:].split("/")
    )


def _is_plain(part: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._~!$&'()+,=:@-]*", part) is not None


def _without_crowds(shapes: dict[str, tuple[Segment, ...]], depth: int) -> dict[str, tuple[Segment, ...]]:
    """Where many segments differ in one place only, that place is ``{id}``."""
    variants: defaultdict[tuple[tuple[Segment, ...], tuple[Segment, ...]], set[Segment]] = defaultdict(set)
    for segments in shapes.values():
        if depth < len(segments):
            variants[segments[:depth], segments[depth + 1 :]].add(segments[depth])
    return {path: _merged(segments, depth, variants) for path, segments in shapes.items()}


def _merged(
    segments: tuple[Segment, ...],
    depth: int,
    variants: dict[tuple[tuple[Segment, ...], tuple[Segment, ...]], set[Segment]],
) -> tuple[Segment, ...]:
    if depth >= len(segments) or segments[depth] == "":
        return segments
    around = segments[:depth], segments[depth + 1 :]
    found = variants[around]
    crowd = len(found) > MOST_LITERALS or (_ANY in found and len(found) > 1 and depth > 0)
    return (*around[0], _ANY, *around[1]) if crowd and depth > 0 else segments
