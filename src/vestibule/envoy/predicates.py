"""What a rule asks that no map can hold, as predicates of the proxy."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import cached_property, lru_cache
from math import ceil
from typing import Any, Final

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2

from vestibule.envoy import cel, conditions, mcp, tokens, trees
from vestibule.envoy.candidates import Key, is_denial, is_wide, wider_keys
from vestibule.envoy.protos import serialized
from vestibule.envoy.token_text import FEW_CALLERS
from vestibule.envoy.tokens import NO_ISSUERS, Issuers
from vestibule.envoy.trees import Predicate
from vestibule.policy import ERROR, Condition, PathPattern, Placeholder, PortPolicy, Rule, fold
from vestibule.policy.folding import Folded
from vestibule.policy.identities import above
from vestibule.policy.values import constants
from vestibule.spiffe import SpiffeId

_QUERY: Final = r"(?:\?.*)?"

BEGAN: Final = "vestibule.began"
"""The filter state in which a TCP connection's beginning stands, in milliseconds since 1970."""

_BEGAN: Final = trees.source(network_inputs_pb2.FilterStateInput(key=BEGAN))
_DIGITS: Final = 13  # until the year 2286


_LABELS: Final = "caller.labels"
_FOLDED: Final = frozenset(
    {_LABELS, "caller.id", "caller.trust_domain", "service.name", "service.labels", "environment"}
)


class OfRequests:
    """What rules ask of HTTP requests to one port."""

    def __init__(self, policy: PortPolicy, issuers: Issuers = NO_ISSUERS) -> None:
        self._policy = policy
        self._issuers = issuers
        self._constants = constants(policy)
        self._left_over: dict[tuple[Condition, frozenset[tuple[str, Any]]], Folded] = {}

    def known_callers(self, rule: Rule) -> Iterator[Key]:
        """Callers whose labels the rule's condition asks for, and whom it does not name one by one."""
        if rule.when is None or _LABELS not in rule.when.uses:
            return
        if rule.anyone:
            yield from map(str, self._policy.callers)
            return
        found: dict[SpiffeId, None] = {}
        for match in rule.callers:
            if match.id in self._policy.callers:
                found[match.id] = None
            if match.below:
                found.update(dict.fromkeys(self._callers_below.get(match.id, ())))
        yield from map(str, found)

    @cached_property
    def _callers_below(self) -> Mapping[SpiffeId, list[SpiffeId]]:
        found: defaultdict[SpiffeId, list[SpiffeId]] = defaultdict(list)
        for caller in self._policy.callers:
            for wider in above(caller):
                found[wider].append(caller)
        return found

    def of_rule(self, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """Tokens and conditions.  What no proxy can ask is as if its evaluation failed."""
        asked: tuple[Predicate, ...] = ()
        denies = is_denial(rule)
        if rule.token is not None:
            if (issuer := self._issuers.named(rule.token.issuer)) is None:
                return None
            # Of many callers it is asked in words that are the same for all: those are made once.
            alone = len(rule.callers) <= FEW_CALLERS and not is_wide(key)
            own, caller = self._issuers.is_own(issuer), key if alone else ""
            text = self._issuers.text
            asked += tokens.predicates(rule.token, denies=denies, own=own, caller=caller, text=text)
        if rule.when is None:
            return asked
        left = self._left(rule.when, rule, key)
        if denies and rule.token is not None and left != ():
            # With a token that cannot be judged the rule matches, whatever its condition says.
            unless = trees.negated(tokens.held(rule.token))
            return (*asked, unless if left is None else trees.any_of((unless, trees.all_of(left))))
        return None if left is None else asked + left

    def of_message(self, rule: Rule) -> mcp.Said | None:
        """By what the filters for MCP have read."""
        return None if rule.mcp is None else mcp.said(rule.mcp, denies=is_denial(rule))

    def _left(self, when: Condition, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """What is left of a condition for the callers of a key."""
        denies = is_denial(rule)
        folded = self._folded(when, key)
        issuer = rule.token.issuer if rule.token is not None else ""
        if folded is False or (folded is ERROR and not denies):
            return None
        others = self._others(when, rule, key, folded)
        if folded is True or folded is ERROR:
            return others
        assert isinstance(folded, Condition)
        if folded.central or folded.tree is None:
            return others if denies else None
        return (*others, conditions.predicate(folded, denies=denies, issuer=issuer))

    def _folded(self, when: Condition, key: Key) -> Folded:
        if when.uses.isdisjoint(_FOLDED):
            return when
        known: dict[str, Any] = dict(self._constants)
        if is_wide(key):
            known["caller.labels"] = {}
        else:
            caller = _parsed(key)
            known["caller.id"] = key
            known["caller.labels"] = dict(self._policy.callers.get(caller, {}))
        if key:
            known["caller.trust_domain"] = str(_parsed(key.rstrip("/")).trust_domain)
        # Of many callers the same is known, as far as a condition asks for it.
        used = (when, frozenset((name, _hashable(known[name])) for name in when.uses & known.keys()))
        if (found := self._left_over.get(used)) is None:
            found = self._left_over[used] = fold(when, known)
        return found

    def _others(self, when: Condition, rule: Rule, key: Key, folded: Folded) -> tuple[Predicate, ...]:
        """Not those who have entries of their own, since it is something else for them."""
        if not is_wide(key) or _LABELS not in when.uses:
            return ()
        meant = [each for each in self.known_callers(rule) if key in wider_keys(each)]
        not_meant = [each for each in meant if self._folded(when, each) != folded]
        if not not_meant:
            return ()
        return (trees.negated(trees.caller_among(not_meant)),)

    def of_path(self, patterns: Iterable[PathPattern]) -> Predicate:
        """Patterns with ``{segment}``, on a path that may have a query."""
        return _fits(tuple(patterns))

    def of_time(self, end: datetime) -> Predicate:
        """By the proxy's own clock, when the request began."""
        return before(end)


class OfNobody(OfRequests):
    """What rules ask where callers are not told apart."""

    def __init__(self) -> None:
        super().__init__(PortPolicy(service="", port=""))


class OfConnections:
    """What rules ask of TCP connections."""

    def known_callers(self, rule: Rule) -> Iterator[Key]:
        """None: there are no conditions."""
        del rule
        return iter(())

    def of_rule(self, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """Nothing: rules about TCP have no such parts."""
        del key
        if rule.when is None and rule.token is None and rule.mcp is None:
            return ()
        return () if is_denial(rule) else None

    def of_message(self, rule: Rule) -> mcp.Said | None:
        """Connections have none."""
        del rule
        return None

    def of_path(self, patterns: Iterable[PathPattern]) -> Predicate:
        """Never asked."""
        raise AssertionError(f"connections have no paths such as {next(iter(patterns))}")

    def of_time(self, end: datetime) -> Predicate:
        """By the proxy's own clock, when the connection came: CEL is not to be had there, so its time is a text."""
        return trees.single(_BEGAN, trees.regex(less_than(ceil(end.timestamp() * 1000))))


def less_than(number: int) -> str:
    """A regular expression for the smaller numbers of as many digits as milliseconds have today."""
    text = f"{max(number, 0):0{_DIGITS}d}"
    if len(text) > _DIGITS:
        return f"[0-9]{{{_DIGITS}}}"
    smaller = (
        f"{text[:place]}[0-{int(digit) - 1}][0-9]{{{_DIGITS - place - 1}}}"
        for place, digit in enumerate(text)
        if digit != "0"
    )
    return "|".join(smaller) or "-"


@lru_cache(maxsize=16_384)
def _parsed(key: str) -> SpiffeId:
    return SpiffeId.parse(key)


def _hashable(value: Any) -> Any:
    return frozenset(value.items()) if isinstance(value, Mapping) else value


@lru_cache(maxsize=4096)
def before(end: datetime) -> Predicate:
    """Whether a request began before an instant."""
    return Predicate(serialized(cel.before(end)))


@lru_cache(maxsize=16_384)
def _fits(patterns: tuple[PathPattern, ...]) -> Predicate:
    if len(patterns) == 1:
        # What RE2 knows to be the beginning it compares as a whole; its automaton, which is large, begins after it.
        return trees.single(trees.header(":path"), trees.regex(f"^{_regex_of(patterns[0])}"))
    wanted = "|".join(f"(?:{_regex_of(each)})" for each in patterns)
    return trees.single(trees.header(":path"), trees.regex(wanted))


def _regex_of(pattern: PathPattern) -> str:
    """The pattern on a path that may have a query, so that no part of it reaches into the query."""
    segments = ("[^/?]+" if isinstance(each, Placeholder) else re.escape(each) for each in pattern.segments)
    return "".join(f"/{each}" for each in segments) + (r"(?:/[^?]*)?" if pattern.below else "") + _QUERY
