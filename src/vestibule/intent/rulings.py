"""What the rules of groups say about one question after another, by the intent in force.

Denials beat permissions; default deny.  A question is answered by the engine that decides about calls, asked with the
verb as method.  What it answered is kept until the intent changes or the next instant at which a rule or membership of
it ends; not so where a rule with a condition speaks of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import Where
from vestibule.intent.model import Intent
from vestibule.policy import Call, Decision, Engine, PortPolicy, Rule
from vestibule.policy.facts import GIVEN
from vestibule.spiffe import SpiffeId

MOST_KEPT: Final = 16_384
"""Answers that are kept."""

_LONGEST_KEPT: Final = 512
"""Characters of a path whose answer is kept."""

_FIRST: Final = datetime.fromisoformat("0001-01-01T00:00:00+00:00")
_LAST: Final = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
_NOTHING: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
_Question = tuple[SpiffeId, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """May it be done, and why.

    ``rule`` is the rule that decided (``group/rule-id``), None where no rule matches; ``commit`` that of the intent it
    stands in; ``shadow`` the verdict as it would be with shadow rules, where that differs.
    """

    allowed: bool
    rule: str | None = None
    commit: str = ""
    where: Where | None = None
    shadow: bool | None = None


_NOBODY: Final = Ruling(allowed=False)


class Rulings:
    """Follows the intent that ``intent`` returns, from the next question on; ``policy`` says which rules are asked.

    While that is None, the last one holds; before there was any, everything is denied.  An intent that does not hold
    never gets so far: ``intent`` is what the mesh has in force.
    """

    def __init__(
        self, intent: Callable[[], Intent | None], clock: Clock, policy: Callable[[Intent], PortPolicy]
    ) -> None:
        self._intent = intent
        self._clock = clock
        self._policy = policy
        self._seen: Intent | None = None
        self._rules: _Rules | None = None

    def ask(self, caller: SpiffeId, verb: str, path: str, given: Mapping[str, Any] | None = None) -> Ruling:
        """``path`` begins with a slash; ``given`` are the claims of a verified token that comes with the question."""
        intent = self._intent()
        if intent is not self._seen and intent is not None:
            self._follow(intent)
        if self._rules is None:
            return _NOBODY
        return self._rules.ask((caller, verb, path), given, self._clock.now())

    @property
    def intent(self) -> Intent | None:
        """The intent that decides."""
        intent = self._intent()
        return self._seen if intent is None else intent

    def _follow(self, intent: Intent) -> None:
        policy, known = self._policy(intent), self._rules
        # Most commits say nothing new of groups; then only the commit's name is new.
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
        self._told: dict[Decision, Ruling] = {}
        self._kept: dict[_Question, Ruling] = {}
        self._ends = sorted(set(_ends(policy)))
        self._conditional = [rule for rule in (*policy.deny, *policy.allow) if rule.when is not None]
        self._anew: set[_Question] = set()  # what has to be asked every time
        self._since = self._until = _FIRST  # nothing is kept yet

    def ask(self, question: _Question, given: Mapping[str, Any] | None, now: datetime) -> Ruling:
        if not self._since <= now < self._until:
            self._bound(now)
        kept = self._kept.get(question)
        if kept is not None:
            return kept
        caller, verb, path = question
        tokens = _NOTHING if given is None else {GIVEN: given}
        call = Call(caller=caller, port="", method=verb, path=path, time=now, tokens=tokens)
        told = self._tell(self.engine.decide(call))
        if len(path) <= _LONGEST_KEPT and question not in self._anew:
            self._keep(question, told)
        return told

    def _keep(self, question: _Question, told: Ruling) -> None:
        if len(self._kept) + len(self._anew) >= MOST_KEPT:
            self._kept.clear()
            self._anew.clear()
        if any(_speaks_of(rule, question) for rule in self._conditional):
            self._anew.add(question)
        else:
            self._kept[question] = told

    def _bound(self, now: datetime) -> None:
        """Answers hold from the last end before now to the next one after it; the clock may also be set back."""
        self._kept.clear()
        self._since = max((each for each in self._ends if each <= now), default=_FIRST)
        self._until = min((each for each in self._ends if each > now), default=_LAST)

    def _tell(self, decision: Decision) -> Ruling:
        told = self._told.get(decision)
        if told is None:
            told = self._told[decision] = Ruling(
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


def _speaks_of(rule: Rule, question: _Question) -> bool:
    """Whether the rule matches, if what it says under ``when`` is true."""
    caller, verb, path = question
    return (
        (not rule.methods or verb in rule.methods)
        and rule.calls_from(caller)
        and (not rule.paths or any(each.matches(path) for each in rule.paths))
    )


def _ends(policy: PortPolicy) -> Iterator[datetime]:
    """The instants at which something ends."""
    for rule in (*policy.deny, *policy.allow):
        if rule.expires is not None:
            yield rule.expires
        yield from (match.until for match in rule.callers if match.until is not None)
