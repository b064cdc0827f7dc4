"""Rules, and the decision they lead to.  Denials go before permissions; whatever no rule allows is denied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from vestibule.errors import Where
from vestibule.policy.conditions import Condition
from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import PathPattern
from vestibule.spiffe import SpiffeId


class Effect(Enum):
    """What a rule does with the calls that it matches."""

    ALLOW = "allow"
    DENY = "deny"


class Mode(Enum):
    """Whether a rule decides, or only says what it would have decided."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One reason to allow or to deny a call; each part that is given must match.

    ``name`` is ``service/rule-id``, as logs and metrics show it.  ``callers`` without members matches nobody, unless
    ``anyone`` is set, which is every identity that is let in at all.  ``port`` is a port's name, or None for every
    port.  ``methods`` and ``paths`` without members match any; on TCP ports they are always empty.  From ``expires`` on
    the rule is as if it were not there.  ``reason`` is for readers.  ``where`` is the rule's place in the intent, no
    part of its value.
    """

    name: str
    callers: tuple[IdentityMatch, ...]
    port: str | None = None
    methods: frozenset[str] = frozenset()
    paths: tuple[PathPattern, ...] = ()
    effect: Effect = Effect.ALLOW
    mode: Mode = Mode.ENFORCE
    anyone: bool = False
    when: Condition | None = None
    token: TokenDemand | None = None
    mcp: McpDemand | None = None
    expires: datetime | None = None
    reason: str = ""
    where: Where | None = field(default=None, compare=False, repr=False)

    def calls_from(self, caller: SpiffeId) -> bool:
        """Whether the rule speaks of this caller at all."""
        return self.anyone or any(match.matches(caller) for match in self.callers)

    def covers(self, other: Rule) -> bool:
        """Whether every call that ``other`` matches is matched here too (sufficient, not necessary)."""
        return (
            self.port in (None, other.port)
            and self._asks_no_more(other)
            and self._covers_callers(other)
            and (not self.methods or (bool(other.methods) and other.methods <= self.methods))
            and (not self.paths or (bool(other.paths) and all(self._covers_path(p) for p in other.paths)))
        )

    def _asks_no_more(self, other: Rule) -> bool:
        """Of what cannot be compared part by part, both ask the same, or this one nothing."""
        pairs = ((self.when, other.when), (self.token, other.token), (self.mcp, other.mcp))
        lasts = self.expires is None or (other.expires is not None and other.expires <= self.expires)
        return lasts and all(mine is None or mine == theirs for mine, theirs in pairs)

    def _covers_callers(self, other: Rule) -> bool:
        if self.anyone or other.anyone:
            return self.anyone
        return all(
            any(mine.covers(theirs) and mine.outlasts(theirs) for mine in self.callers)
            for theirs in other.callers
        )

    def _covers_path(self, pattern: PathPattern) -> bool:
        return any(mine.covers(pattern) for mine in self.paths)


def may_call(rules: Iterable[Rule], caller: SpiffeId, port: str | None = None) -> bool:
    """Whether any rule that is in force lets ``caller`` make any call at all, on ``port`` if one is given."""
    return any(
        rule.mode is Mode.ENFORCE
        and rule.calls_from(caller)
        and (port is None or rule.port is None or rule.port == port)
        for rule in rules
    )
