"""Cases of a policy on a real Envoy, which has to answer as the engine does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vestibule.cli.policy_outcomes import Outcome, word
from vestibule.intent import Intent
from vestibule.intent.policy_cases import Kind
from vestibule.proxy.trial import Answer, Trial


async def tried(intent: Intent, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, with what Envoy makes of each case that it can be asked.  Raises: VST7100, VST7107."""
    hindered = {number: _hindered(each) for number, each in enumerate(outcomes)}
    asked = [number for number, why in hindered.items() if not why]
    trial = Trial(intent, [outcomes[number].case.service.name for number in asked])
    async with trial:
        for number in asked:
            case = outcomes[number].case
            await trial.ask(number, case.service.name, case.call)
    return [
        replace(each, envoy=f"not asked, {hindered[number]}")
        if hindered[number]
        else _judged(each, trial.answers[number])
        for number, each in enumerate(outcomes)
    ]


def _hindered(outcome: Outcome) -> str:
    """Why a case cannot be tried."""
    case = outcome.case
    if case.kind is Kind.SECRET:
        return "which keeps no secrets"
    if case.kind is Kind.TOKEN:
        return "which gives no tokens"
    if case.dated:
        return "whose clock cannot be set"
    if case.call.body is not None:
        return "which does not read bodies"
    rules = (*case.service.rules_for(case.port.name), *case.service.denials_for(case.port.name))
    if any(rule.when is not None and rule.when.central for rule in rules):
        return "since a decision service decides"
    return ""


def _judged(outcome: Outcome, answer: Answer) -> Outcome:
    said = word(answer.allowed)
    decided = outcome.decision
    wrong = outcome.wrong
    if answer.allowed is not decided.allowed:
        status = f" ({answer.status})" if answer.status else ""
        wrong = f"Envoy: {said}{status}, engine: {word(decided.allowed)}; please report this"
    elif answer.rule is not None and answer.rule != (decided.rule or ""):
        wrong = (
            f"decided by {answer.rule or 'no rule'} on Envoy, by {decided.rule or 'no rule'} in the engine"
        )
    return replace(outcome, wrong=wrong, envoy=said)
