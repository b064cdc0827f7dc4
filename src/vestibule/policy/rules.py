"""Allow rules and the decision they lead to.  Whatever no rule allows is denied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vestibule.errors import Where
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import PathPattern, is_normal
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One reason to allow a call; each part that is given must match.

    ``name`` is ``service/rule-id``, as logs and metrics show it.  ``callers`` without members matches nobody.
    ``port`` is a port's name, or None for every port.  ``methods`` and ``paths`` without members match any;
    on TCP ports they are always empty.  ``where`` is the rule's place in the intent, no part of its value.
    """

    name: str
    callers: tuple[IdentityMatch, ...]
    port: str | None = None
    methods: frozenset[str] = frozenset()
    paths: tuple[PathPattern, ...] = ()
    where: Where | None = field(default=None, compare=False, repr=False)

    def calls_from(self, caller: SpiffeId) -> bool:
        """Whether the rule speaks of this caller at all."""
        return any(match.matches(caller) for match in self.callers)

    def covers(self, other: Rule) -> bool:
        """Whether every call that ``other`` allows is allowed here too (sufficient, not necessary)."""
        return (
            self.port in (None, other.port)
            and all(any(mine.covers(theirs) for mine in self.callers) for theirs in other.callers)
            and (not self.methods or (bool(other.methods) and other.methods <= self.methods))
            and (not self.paths or (bool(other.paths) and all(self._covers_path(p) for p in other.paths)))
        )

    def _covers_path(self, pattern: PathPattern) -> bool:
        return any(mine.covers(pattern) for mine in self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The facts of one call.  ``path`` may carry a query, which is not looked at; TCP has neither."""

    caller: SpiffeId
    port: str
    method: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, and the name of the rule that gave it; a denial by default has none."""

    allowed: bool
    rule: str | None = None


def decide(rules: Iterable[Rule], call: Call) -> Decision:
    """Allow the call by the first rule that matches it, else deny it.

    A path that is not normal is denied whatever the rules say: the proxy refuses it before looking at them.
    """
    path = None if call.path is None else call.path.partition("?")[0]
    if path is not None and not is_normal(path):
        return Decision(allowed=False)
    for rule in rules:
        if _allows(rule, call, path):
            return Decision(allowed=True, rule=rule.name)
    return Decision(allowed=False)


def may_call(rules: Iterable[Rule], caller: SpiffeId, port: str | None = None) -> bool:
    """Whether any rule lets ``caller`` make any call at all, on ``port`` if one is given."""
    return any(
        rule.calls_from(caller) and (port is None or rule.port is None or rule.port == port) for rule in rules
    )


def _allows(rule: Rule, call: Call, path: str | None) -> bool:
    if rule.port is not None and rule.port != call.port:
        return False
    if rule.methods and call.method not in rule.methods:
        return False
    if rule.paths and not (path is not None and any(pattern.matches(path) for pattern in rule.paths)):
        return False
    return rule.calls_from(call.caller)
