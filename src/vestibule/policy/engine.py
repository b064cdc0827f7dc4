"""Decides about calls to one port, in a time that does not grow with the number of rules.

The first rule that matches decides, in this order: denials, permissions of emergencies, permissions.  A denial also
matches where its condition or token cannot be judged; a permission does not.  What nothing matches is denied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.policy.decisions import Decision, Verdict
from vestibule.policy.demanding import meets_token
from vestibule.policy.demands import McpDemand
from vestibule.policy.facts import Call
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.mcp import is_upkeep, mcp_matches, mcp_refusal, named_methods
from vestibule.policy.mcp_index import Messages
from vestibule.policy.paths import NOT_NORMAL, PathPattern, is_normal
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Mode, Rule
from vestibule.policy.values import values
from vestibule.spiffe import SpiffeId

_KEPT_CALLERS: Final = 4096

_Memberships = dict[int, datetime | None]
"""The groups that a caller belongs to, and when that ends."""


def decide(policy: PortPolicy, call: Call) -> Decision:
    """Decide about one call; for more than one of the same policy, keep an ``Engine``."""
    return Engine(policy).decide(call)


class Engine:
    """Decides about calls to one port by the policy of that port.

    Thread-safe only as far as the GIL makes it: several threads may decide at once.
    """

    def __init__(self, policy: PortPolicy) -> None:
        self.policy = policy
        self._groups = _Groups()
        self._enforced = self._index(Mode.ENFORCE)
        rules = (*policy.deny, *policy.emergencies, *policy.allow)
        shadowed = any(rule.mode is Mode.SHADOW for rule in rules)
        self._shadow = self._index(*Mode) if shadowed else None
        self.svids = frozenset(
            rule.token.issuer for rule in rules if rule.token is not None and rule.token.svid
        )
        """The issuers whose tokens are JWT-SVIDs."""
        self._methods = named_methods(rules)
        self._is_mcp = policy.is_mcp

    def decide(self, call: Call) -> Decision:
        """The verdict on a call to the port.

        ``call.port`` is not looked at.  Without a time, permissions that end have ended and denials have not.
        """
        path = call.path
        if path is not None:
            path = path.partition("?")[0]
            if not is_normal(path):
                return self._refused(NOT_NORMAL)
        if self._is_mcp and (name := mcp_refusal(call.mcp, self._methods)) is not None:
            return self._refused(name)
        memberships = self._groups.of(call.caller)
        found = self._first(self._enforced, memberships, call, path)
        if self._shadow is None:
            return _DENIED if found is None else found.decision
        shadow = self._first(self._shadow, memberships, call, path)
        verdict = Verdict(allowed=False) if shadow is None else shadow.verdict
        if found is None:
            return Decision(allowed=False, shadow=verdict)
        return Decision(allowed=not found.denies, rule=found.rule.name, shadow=verdict)

    def _refused(self, name: str) -> Decision:
        shadow = Verdict(allowed=False, rule=name) if self._shadow is not None else None
        return Decision(allowed=False, rule=name, shadow=shadow)

    def _index(self, *modes: Mode) -> _Node:
        top = _Node()
        policy = self.policy
        parts = ((policy.deny, True), (policy.emergencies, False), (policy.allow, False))
        entries = (
            (rule, denies)
            for rules, denies in parts
            for rule in rules
            if rule.mode in modes and rule.port in (None, policy.port)
        )
        for rank, (rule, denies) in enumerate(entries):
            group, temporary = self._groups.add(rule)
            entry = _Entry(rank, rule, denies, group, temporary)
            for node, below in _nodes(top, rule.paths):
                node.add(entry, below=below)
        return top

    def _first(self, index: _Node, memberships: _Memberships, call: Call, path: str | None) -> _Entry | None:
        candidates: list[_Entry] = []
        _collect(index, path, memberships, call, candidates)
        if len(candidates) > 1:
            candidates.sort(key=_rank)
        for entry in candidates:
            if entry.plain or self._holds(entry, memberships, call):
                return entry
        return None

    def _holds(self, entry: _Entry, memberships: _Memberships, call: Call) -> bool:
        """Whether everything but path, method and caller matches too."""
        rule = entry.rule
        if not (_lasts(rule.expires, call, entry) and _lasts(memberships[entry.group], call, entry)):
            return False
        if rule.mcp is not None and not mcp_matches(rule.mcp, call.mcp):
            upkeep = self._is_mcp and not entry.denies and is_upkeep(call)
            if not upkeep:
                return False
        try:
            if rule.token is not None and not meets_token(rule.token, call):
                return False
            return rule.when is None or rule.when.evaluate(values(self.policy, rule, call))
        except VestibuleError:
            return entry.denies


_DENIED: Final = Decision(allowed=False)
_ANY_MESSAGE: Final = McpDemand()


@dataclass(slots=True, eq=False)
class _Entry:
    """One rule at its place in the order.  ``plain``: path, method and caller decide alone."""

    rank: int
    rule: Rule
    denies: bool
    group: int
    temporary: bool
    plain: bool = field(init=False)
    free: bool = field(init=False)
    """Whether nothing is asked but path, method, caller and what is said in MCP."""
    verdict: Verdict = field(init=False)
    decision: Decision = field(init=False)

    def __post_init__(self) -> None:
        rule = self.rule
        asks = (rule.when, rule.token, rule.expires)
        self.free = not self.temporary and all(each is None for each in asks)
        self.plain = self.free and rule.mcp is None
        self.verdict = Verdict(allowed=not self.denies, rule=rule.name)
        self.decision = Decision(allowed=not self.denies, rule=rule.name)


def _rank(entry: _Entry) -> int:
    return entry.rank


def _lasts(until: datetime | None, call: Call, entry: _Entry) -> bool:
    if until is None:
        return True
    return entry.denies if call.time is None else call.time < until


class _Speaking:
    """The rules that speak of one place among the paths, by group of callers and then by method."""

    __slots__ = ("groups", "messages")

    def __init__(self) -> None:
        self.groups: dict[int, dict[str | None, list[_Entry]]] = {}
        self.messages: dict[int, Messages[_Entry]] = {}

    def add(self, entry: _Entry) -> None:
        demand = entry.rule.mcp
        if demand is not None and demand != _ANY_MESSAGE:
            messages = self.messages.setdefault(entry.group, Messages())
            messages.add(entry, demand, entry.rule.methods, keeps=not entry.denies, certain=entry.free)
            return
        methods = self.groups.setdefault(entry.group, {None: []})
        named = entry.rule.methods
        for method in named:
            if method not in methods:
                methods[method] = list(methods[None])
        for entries in [methods[method] for method in named] or methods.values():
            # Behind a rule that needs nothing else, others of the same group are never reached.
            if not (entries and entries[-1].plain):
                entries.append(entry)

    def collect(self, memberships: _Memberships, call: Call, found: list[_Entry]) -> None:
        """Those of a caller's groups that ask for this method or for none."""
        method = call.method
        for group, messages in self.messages.items():
            if group in memberships:
                found += messages.about(call)
        groups = self.groups
        fewer, others = (groups, memberships) if len(groups) < len(memberships) else (memberships, groups)
        for group in fewer:
            if group in others:
                methods = groups[group]
                found += methods.get(method) or methods[None]


class _Node:
    """A place among the paths: rules about it and about what is below it, and the places one segment further."""

    __slots__ = ("any", "below", "here", "parts")

    def __init__(self) -> None:
        self.parts: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.here: _Speaking | None = None
        self.below: _Speaking | None = None

    def add(self, entry: _Entry, *, below: bool) -> None:
        if below:
            self.below = self.below or _Speaking()
            self.below.add(entry)
        else:
            self.here = self.here or _Speaking()
            self.here.add(entry)


def _nodes(top: _Node, paths: Sequence[PathPattern]) -> Iterator[tuple[_Node, bool]]:
    """The places that a rule speaks of, and whether also of what is below."""
    if not paths:
        yield top, False  # no pattern ends there: what speaks of every call, also of one without a path
    for pattern in paths if len(paths) < 2 else dict.fromkeys(paths):
        node = top
        for segment in pattern.segments:
            if isinstance(segment, str):
                following = node.parts.get(segment)
                if following is None:
                    following = node.parts[segment] = _Node()
                node = following
            else:
                node.any = node = node.any or _Node()
        yield node, pattern.below


def _collect(
    top: _Node, path: str | None, memberships: _Memberships, call: Call, found: list[_Entry]
) -> None:
    """What may decide about a call with a normal path, in no order; without a path, what speaks of every call."""
    if top.here is not None:
        top.here.collect(memberships, call, found)
    if path is None:
        return
    if top.below is not None:
        top.below.collect(memberships, call, found)
    level = [top]
    for part in path[1:].split("/", _MOST_SEGMENTS):
        following: list[_Node] = []
        for node in level:
            if (named := node.parts.get(part)) is not None:
                following.append(named)
                if named.below is not None:
                    named.below.collect(memberships, call, found)
            if (other := node.any) is not None and part:
                following.append(other)
                if other.below is not None:
                    other.below.collect(memberships, call, found)
        if not following:
            return
        level = following
    for node in level:
        if node.here is not None:
            node.here.collect(memberships, call, found)


_MOST_SEGMENTS: Final = 1024
"""More than any pattern has, so that the last part of a longer path, slashes and all, fits none."""


class _Groups:
    """Sets of callers that rules name, each once, and to which of them a caller belongs."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[tuple[IdentityMatch, ...], bool], int] = {}
        self._anyone: list[int] = []
        self._exact: dict[SpiffeId, list[tuple[int, datetime | None]]] = {}
        self._below: dict[SpiffeId, list[tuple[int, datetime | None]]] = {}
        self._kept: dict[SpiffeId, _Memberships] = {}

    def add(self, rule: Rule) -> tuple[int, bool]:
        """The number of a rule's callers, and whether a membership among them ends."""
        matches = () if rule.anyone else rule.callers
        temporary = any(match.until is not None for match in matches)
        key = (matches, rule.anyone)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            if rule.anyone:
                self._anyone.append(number)
            for match in matches:
                self._exact.setdefault(match.id, []).append((number, match.until))
                if match.below:
                    self._below.setdefault(match.id, []).append((number, match.until))
        return number, temporary

    def of(self, caller: SpiffeId) -> _Memberships:
        """The groups of a caller; of a few thousand callers they are kept."""
        known = self._kept.get(caller)
        if known is not None:
            return known
        found: _Memberships = dict.fromkeys(self._anyone)
        for named in self._naming(caller):
            for number, until in named:
                if number not in found:
                    found[number] = until
                elif (other := found[number]) is not None:
                    found[number] = None if until is None else max(other, until)
        if len(self._kept) >= _KEPT_CALLERS:
            self._kept.clear()
        self._kept[caller] = found
        return found

    def _naming(self, caller: SpiffeId) -> Iterator[list[tuple[int, datetime | None]]]:
        if caller in self._exact:
            yield self._exact[caller]
        path = caller.path
        while path and self._below:
            path = path.rpartition("/")[0]
            above = SpiffeId(caller.trust_domain, path)
            if above in self._below:
                yield self._below[above]
