"""Rules by the messages of MCP that they name, so that a call is looked up and not asked for rule by rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Generic, TypeAlias, TypeVar

from vestibule.policy.demands import McpDemand
from vestibule.policy.facts import Call
from vestibule.policy.mcp import is_upkeep, kind_of, things

Key = TypeVar("Key")
Entry = TypeVar("Entry")

_Lists: TypeAlias = defaultdict[Key, list[tuple[Collection[str], Entry]]]


class Messages(Generic[Entry]):
    """Of one group of callers in one place.  What is found may match; what is not found does not."""

    __slots__ = ("_beginnings", "_ended", "_keeping", "_lengths", "_methods", "_whole")

    def __init__(self) -> None:
        self._methods: _Lists[str, Entry] = defaultdict(list)
        self._whole: _Lists[tuple[str, str], Entry] = defaultdict(list)
        self._beginnings: _Lists[tuple[str, str], Entry] = defaultdict(list)
        self._lengths: defaultdict[str, set[int]] = defaultdict(set)
        self._keeping: list[tuple[Collection[str], Entry]] = []
        self._ended = False

    def add(
        self, entry: Entry, demand: McpDemand, by: Collection[str], *, keeps: bool, certain: bool
    ) -> None:
        """Take a rule in, after those that decide before it.

        ``by`` are its HTTP methods; ``keeps``: it lets its callers keep a session, and is ``certain`` of that.
        """
        known = by, entry
        for method in demand.methods:
            self._methods[method].append(known)
        for kind, pattern in things(demand):
            if pattern.endswith("*"):
                self._beginnings[kind, pattern[:-1]].append(known)
                self._lengths[kind].add(len(pattern) - 1)
            else:
                self._whole[kind, pattern].append(known)
        # Behind a rule that is certain of it, others are never asked whether a session is kept.
        if keeps and not self._ended:
            self._keeping.append(known)
            self._ended = certain and not by

    def about(self, call: Call) -> Iterable[Entry]:
        """The rules that may be about a call, each once."""
        found = list(self._keeping) if is_upkeep(call) else []
        if call.mcp is not None and call.mcp.method is not None:
            found += self._said(call.mcp.method, call.mcp.target)
        return {id(each): each for by, each in found if not by or call.method in by}.values()

    def _said(self, method: str, target: str | None) -> Iterator[tuple[Collection[str], Entry]]:
        yield from self._methods.get(method, ())
        if target is None:
            return
        kind = kind_of(method)
        yield from self._whole.get((kind, target), ())
        for length in self._lengths.get(kind, ()):
            if length <= len(target):
                yield from self._beginnings.get((kind, target[:length]), ())
