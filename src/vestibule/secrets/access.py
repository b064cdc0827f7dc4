"""Who may do what with which secret, by the intent in force.  Denials beat permissions; default deny.

A question is answered by the engine that decides about calls, asked with the verb as method and the path below a slash.
What it answered is kept until the intent changes or the next instant at which a rule or membership of it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import Where
from vestibule.intent import Intent
from vestibule.intent.secret_policies import secret_policy
from vestibule.policy import Call, Decision, Engine, PortPolicy
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId

MOST_KEPT: Final = 16_384
"""Answers that are kept."""

_LONGEST_KEPT: Final = 512
"""Characters of a path whose answer is kept."""

_FIRST: Final = datetime.fromisoformat("0001-01-01T00:00:00+00:00")
_LAST: Final = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
_NOBODY: Final = AccessDecision(allowed=False)
_Key = tuple[SpiffeId, Verb, str]


class IntentAccess:
    """``secrets.ports.Access``: follows the intent that ``intent`` returns, from the next question on.

    While that is None, the last one holds; before there was any, everything is denied.  An intent that does not hold
    never gets so far: ``intent`` is what the mesh has in force.
    """

    def __init__(self, intent: Callable[[], Intent | None], clock: Clock) -> None:
        self._intent = intent
        self._clock = clock
        self._seen: Intent | None = None
        self._rules: _Rules | None = None

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        intent = self._intent()
        if intent is not self._seen and intent is not None:
            self._follow(intent)
        if self._rules is None:
            return _NOBODY
        return self._rules.decide((caller, verb, path), self._clock.now())

    @property
    def intent(self) -> Intent | None:
        """The intent that decides."""
        intent = self._intent()
        return self._seen if intent is None else intent

    def _follow(self, intent: Intent) -> None:
        policy, known = secret_policy(intent), self._rules
        # Most commits say nothing new of secrets; then only the commit's name is new.
        engine = known.engine if known is not None and known.engine.policy == policy else Engine(policy)
        self._rules = _Rules(engine, policy, intent.version)
        self._seen = intent


class _Rules:
    """All that decides by one intent, and the answers that hold for now."""

    def __init__(self, engine: Engine, policy: PortPolicy, commit: str) -> None:
        self.engine = engine
        self._commit = commit
        # Of the policy as it is written now: where rules stand is no part of what they mean.
        self._places = {rule.name: rule.where for rule in (*policy.deny, *policy.allow)}
        self._told: dict[Decision, AccessDecision] = {}
        self._kept: dict[_Key, AccessDecision] = {}
        self._ends = sorted(set(_ends(policy)))
        self._always = not any(rule.when is not None for rule in (*policy.deny, *policy.allow))
        self._since = self._until = _FIRST  # nothing is kept yet

    def decide(self, key: _Key, now: datetime) -> AccessDecision:
        if not self._since <= now < self._until:
            self._bound(now)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        caller, verb, path = key
        call = Call(caller=caller, port="", method=verb.value, path=f"/{path}", time=now)
        told = self._tell(self.engine.decide(call))
        if self._always and len(path) <= _LONGEST_KEPT:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = told
        return told

    def _bound(self, now: datetime) -> None:
        """Answers hold from the last end before now to the next one after it; the clock may also be set back."""
        self._kept.clear()
        self._since = max((each for each in self._ends if each <= now), default=_FIRST)
        self._until = min((each for each in self._ends if each > now), default=_LAST)

    def _tell(self, decision: Decision) -> AccessDecision:
        told = self._told.get(decision)
        if told is None:
            told = self._told[decision] = AccessDecision(
                allowed=decision.allowed,
                rule=decision.rule,
                commit=self._commit,
                where=self._where(decision.rule),
                shadow=_otherwise(decision),
            )
        return told

    def _where(self, rule: str | None) -> Where | None:
        return None if rule is None else self._places.get(rule)


def _otherwise(decision: Decision) -> bool | None:
    """The verdict with rules in shadow mode, where that is another."""
    shadow = decision.shadow
    return None if shadow is None or shadow.allowed == decision.allowed else shadow.allowed


def _ends(policy: PortPolicy) -> Iterator[datetime]:
    """The instants at which something ends."""
    for rule in (*policy.deny, *policy.allow):
        if rule.expires is not None:
            yield rule.expires
        yield from (match.until for match in rule.callers if match.until is not None)
