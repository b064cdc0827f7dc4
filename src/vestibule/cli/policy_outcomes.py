"""What becomes of a case of a policy, and whether that was expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vestibule.intent import Intent
from vestibule.intent.policy_cases import Case, Kind
from vestibule.intent.port_policies import port_policy
from vestibule.intent.secret_policies import secret_policy
from vestibule.intent.token_policies import token_policy
from vestibule.intent.token_questions import together
from vestibule.policy import Decision, PortPolicy, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case, what was decided, and what is wrong with it, in words; empty if it is as expected.

    ``envoy`` says what Envoy made of it, if it was asked: ``allow``, ``deny``, or why it could not be.
    """

    case: Case
    decision: Decision
    wrong: str
    envoy: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.case.name,
            "where": str(self.case.where) if self.case.where else None,
            "holds": not self.wrong,
            "allowed": self.decision.allowed,
            "rule": self.decision.rule,
            "wrong": self.wrong or None,
            "envoy": self.envoy,
        }


def outcome(intent: Intent, case: Case) -> Outcome:
    """What becomes of a case by an intent."""
    decision = together([decide(_policy(intent, case), each) for each in case.calls])
    return Outcome(case=case, decision=decision, wrong=_wrong(case, decision))


def _policy(intent: Intent, case: Case) -> PortPolicy:
    match case.kind:
        case Kind.SECRET:
            return secret_policy(intent)
        case Kind.TOKEN:
            return token_policy(intent)
        case Kind.CALL:
            return port_policy(intent, case.service, case.port)


def _wrong(case: Case, decision: Decision) -> str:
    if decision.allowed is not case.allowed:
        by = f" by {decision.rule}" if decision.rule else ", since no rule allows it"
        return f"expected {word(case.allowed)}, got {word(decision.allowed)}{by}"
    if case.rule is not None and (decision.rule or "") != case.rule:
        return f"decided by {decision.rule or 'no rule'}, not by {case.rule or 'no rule'}"
    if case.shadow is not None:
        shadow = decision.allowed if decision.shadow is None else decision.shadow.allowed
        if shadow is not case.shadow:
            return f"expected {word(case.shadow)} in shadow, got {word(shadow)}"
    return ""


def word(allowed: bool) -> str:
    """As cases say it."""
    return "allow" if allowed else "deny"
