"""What a rule asks that no map can hold, as predicates of the proxy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from math import ceil
from typing import Final

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2

from vestibule.envoy import cel, mcp, trees
from vestibule.envoy.candidates import Key, is_denial
from vestibule.envoy.protos import serialized
from vestibule.envoy.trees import Predicate
from vestibule.policy import PathPattern, Placeholder, PortPolicy, Rule

_QUERY: Final = r"(?:\?.*)?"

BEGAN: Final = "vestibule.began"
"""The filter state in which a TCP connection's beginning stands, in milliseconds since 1970."""

_BEGAN: Final = trees.source(network_inputs_pb2.FilterStateInput(key=BEGAN))
_DIGITS: Final = 13  # until the year 2286


class OfRequests:
    """What rules ask of HTTP requests to one port."""

    def __init__(self, policy: PortPolicy) -> None:
        self._policy = policy

    def of_rule(self, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """Conditions, tokens and MCP.  What cannot be asked yet is as if its evaluation failed."""
        del key
        asked = mcp.asked(rule.mcp, denies=is_denial(rule)) if rule.mcp is not None else None
        if (rule.when is not None or rule.token is not None) and not is_denial(rule):
            return None
        return () if asked is None else (asked,)

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

    def of_rule(self, rule: Rule, key: Key) -> tuple[Predicate, ...] | None:
        """Nothing: rules about TCP have no such parts."""
        del key
        if rule.when is None and rule.token is None and rule.mcp is None:
            return ()
        return () if is_denial(rule) else None

    def of_path(self, patterns: Iterable[PathPattern]) -> Predicate:
        """Never asked."""
        raise AssertionError(f"connections have no paths such as {next(iter(patterns))}")

    def of_time(self, end: datetime) -> Predicate:
        """By the proxy's own clock, when the connection came: CEL is not to be had there, so its time is a text."""
        return trees.single(_BEGAN, trees.regex(less_than(ceil(end.timestamp() * 1000))))


def less_than(number: int) -> str:
    """A regular expression for the smaller numbers of as many digits as milliseconds have today."""
    text = f"{number:0{_DIGITS}d}"
    if len(text) > _DIGITS:
        return f"[0-9]{{{_DIGITS}}}"
    smaller = (
        f"{text[:place]}[0-{int(digit) - 1}][0-9]{{{_DIGITS - place - 1}}}"
        for place, digit in enumerate(text)
        if digit != "0"
    )
    return "|".join(smaller) or "-"


@lru_cache(maxsize=4096)
def before(end: datetime) -> Predicate:
    """Whether a request began before an instant."""
    return Predicate(serialized(cel.before(end)))


@lru_cache(maxsize=16_384)
def _fits(patterns: tuple[PathPattern, ...]) -> Predicate:
    wanted = "|".join(f"(?:{_regex_of(each)})" for each in patterns)
    return trees.single(trees.header(":path"), trees.regex(wanted))


def _regex_of(pattern: PathPattern) -> str:
    """The pattern on a path that may have a query, so that no part of it reaches into the query."""
    segments = ("[^/?]+" if isinstance(each, Placeholder) else re.escape(each) for each in pattern.segments)
    return "".join(f"/{each}" for each in segments) + (r"(?:/[^?]*)?" if pattern.below else "") + _QUERY
