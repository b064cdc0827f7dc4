"""Path patterns by segment: those that cover another one, or have a path in common with it, without trying all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vestibule.policy.paths import PathPattern, Placeholder, Segment

_ANY_SEGMENT = Placeholder("")


class PatternTree:
    """Patterns, each under a number."""

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

    def meeting(self, pattern: PathPattern) -> Iterator[int]:
        """The numbers of the patterns that have a path in common with ``pattern``."""
        nodes = [self]
        for segment in pattern.segments:
            yield from (number for node in nodes for number in node._below)
            nodes = [child for node in nodes for child in node._meeting(segment)]
        for node in nodes:
            yield from node._all() if pattern.below else (*node._below, *node._here)

    def _meeting(self, segment: Segment) -> Iterator[PatternTree]:
        if isinstance(segment, Placeholder):
            yield from (child for key, child in self._children.items() if key != "")
            return
        for key in (segment, _ANY_SEGMENT) if segment != "" else (segment,):
            if key in self._children:
                yield self._children[key]

    def _all(self) -> Iterator[int]:
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield from node._below
            yield from node._here
            waiting.extend(node._children.values())


def meet(one: PathPattern, other: PathPattern) -> PathPattern | None:
    """What both patterns match, which is a pattern again; None if that is nothing."""
    shorter, longer = sorted((one, other), key=lambda each: len(each.segments))
    beyond = longer.segments[len(shorter.segments) :]
    if beyond and not shorter.below:
        return None
    segments: list[Segment] = []
    for mine, theirs in zip(shorter.segments, longer.segments, strict=False):
        if isinstance(mine, Placeholder) and theirs != "":
            segments.append(theirs)
        elif mine == theirs or (isinstance(theirs, Placeholder) and mine != ""):
            segments.append(mine)
        else:
            return None
    below = longer.below and (bool(beyond) or shorter.below)
    return replace(longer, segments=(*segments, *beyond), below=below)
