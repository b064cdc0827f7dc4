"""Sets of request paths: what one pattern matches and others do not; whether anything is left, and an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vestibule.policy.path_trees import PatternTree, meet
from vestibule.policy.paths import PathPattern, Placeholder

MOST_WAYS: Final = 20_000
"""Of choosing a path's beginning, as far as patterns can tell them apart."""

DEEPEST: Final = 100
"""Segments of a pattern that is still looked into."""

EVERY_PATH: Final = PathPattern(segments=(), below=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSet:
    """What ``pattern`` matches and none of ``but`` does."""

    pattern: PathPattern = EVERY_PATH
    but: tuple[PathPattern, ...] = ()

    def matches(self, path: str) -> bool:
        """Whether a request path, without its query, is meant."""
        return self.pattern.matches(path) and not any(each.matches(path) for each in self.but)

    @property
    def example(self) -> str | None:
        """A path of the set; None if the set is empty."""
        return example((self.pattern,), self.but)

    def __str__(self) -> str:
        but = f" but {' and '.join(map(str, self.but))}" if self.but else ""
        return f"{self.pattern}{but}"


def without(pattern: PathPattern, others: Sequence[PathPattern]) -> PathSet | None:
    """The set that is left of ``pattern``, said with as few exceptions as it takes; None if nothing is left.

    Where patterns are made so that this cannot be told in reasonable time, something is taken to be left.
    """
    if any(each.covers(pattern) for each in others):
        return None
    met = largest([each for each in others if meet(pattern, each) is not None])
    try:
        if met and _found((pattern,), met) is None:
            return None
    except _TooManyWaysError:
        pass
    return PathSet(pattern=pattern, but=tuple(sorted(met, key=str)))


def largest(patterns: Sequence[PathPattern]) -> list[PathPattern]:
    """Those that no other one covers, each once."""
    tree = PatternTree()
    for number, pattern in enumerate(patterns):
        tree.add(pattern, number)
    return [
        pattern
        for number, pattern in enumerate(patterns)
        if not any(
            other < number or not pattern.covers(patterns[other])
            for other in tree.covering(pattern)
            if other != number
        )
    ]


def example(all_of: Sequence[PathPattern], none_of: Sequence[PathPattern]) -> str | None:
    """A normal path that all of the first and none of the second match, a short one; None if none is found."""
    try:
        return _found(all_of, none_of)
    except _TooManyWaysError:
        return None


def _found(all_of: Sequence[PathPattern], none_of: Sequence[PathPattern]) -> str | None:
    """Segment by segment, only what patterns can tell apart is tried: each literal that one of them has there, one
    that none has, and the empty segment, which ends a path."""
    if max(len(each.segments) for each in (*all_of, *none_of)) > DEEPEST:
        raise _TooManyWaysError
    parts = _Search((*all_of, *none_of), len(all_of)).parts(0, (True,) * (len(all_of) + len(none_of)))
    return None if parts is None else "/" + "/".join(parts)


class _TooManyWaysError(Exception):
    """The search has no end that anybody would wait for."""


class _Search:
    """Patterns side by side: the first ``wanted`` must match, the others must not."""

    def __init__(self, patterns: Sequence[PathPattern], wanted: int) -> None:
        self._patterns = patterns
        self._wanted = wanted
        self._deepest = max(len(each.segments) for each in patterns) + 1
        literals = {part for each in patterns for part in each.segments}
        self._fresh = next(
            name for number in range(len(literals) + 1) if (name := f"x{number or ''}") not in literals
        )
        self._known: dict[tuple[int, tuple[bool, ...]], tuple[str, ...] | None] = {}

    def parts(self, depth: int, alive: tuple[bool, ...]) -> tuple[str, ...] | None:
        """The segments that complete a path of which ``depth`` are chosen; ``alive`` matched so far."""
        key = depth, alive
        if key not in self._known:
            if len(self._known) >= MOST_WAYS:
                raise _TooManyWaysError
            self._known[key] = self._complete(depth, alive)
        return self._known[key]

    def _complete(self, depth: int, alive: tuple[bool, ...]) -> tuple[str, ...] | None:
        if not all(alive[: self._wanted]) or self._is_lost(depth, alive):
            return None
        if depth and self._ends_well(depth, alive):
            return ()
        if depth >= self._deepest:
            return None
        for part in self._choices(depth, alive):
            after = tuple(
                known and self._goes_on(each, depth, part)
                for each, known in zip(self._patterns, alive, strict=True)
            )
            if part == "":
                rest: tuple[str, ...] | None = () if self._ends_well(depth + 1, after) else None
            else:
                rest = self.parts(depth + 1, after)
            if rest is not None:
                return (part, *rest)
        return None

    def _choices(self, depth: int, alive: tuple[bool, ...]) -> Iterator[str]:
        wanted = self._literals(depth, alive, 0, self._wanted)
        # What nobody names leaves most of the others behind, so it is tried before what they name.
        others = self._literals(depth, alive, self._wanted, len(alive))
        yield from dict.fromkeys((*wanted, self._fresh, *others, ""))

    def _literals(self, depth: int, alive: tuple[bool, ...], start: int, end: int) -> Iterator[str]:
        for pattern, known in zip(self._patterns[start:end], alive[start:end], strict=True):
            if known and depth < len(pattern.segments):
                part = pattern.segments[depth]
                if isinstance(part, str) and part:
                    yield part

    def _is_lost(self, depth: int, alive: tuple[bool, ...]) -> bool:
        """Whether one of those that must not match will, whatever follows."""
        unwanted = zip(self._patterns[self._wanted :], alive[self._wanted :], strict=True)
        return any(known and each.below and depth >= max(1, len(each.segments)) for each, known in unwanted)

    def _ends_well(self, depth: int, alive: tuple[bool, ...]) -> bool:
        matched = [
            known and (len(each.segments) == depth or (each.below and len(each.segments) < depth))
            for each, known in zip(self._patterns, alive, strict=True)
        ]
        return all(matched[: self._wanted]) and not any(matched[self._wanted :])

    @staticmethod
    def _goes_on(pattern: PathPattern, depth: int, part: str) -> bool:
        if depth >= len(pattern.segments):
            return pattern.below
        segment = pattern.segments[depth]
        return part != "" if isinstance(segment, Placeholder) else segment == part
