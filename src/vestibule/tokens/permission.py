"""Asking who may have what, for all that a request asks for at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from vestibule.spiffe import SpiffeId
from vestibule.tokens.codes import SCOPE_DENIED, TARGET_DENIED, TokenRefusedError
from vestibule.tokens.ports import Asked, TokenAccess, TokenDecision

USUAL_LIFE: Final = timedelta(minutes=10)
LONGEST_LIFE: Final = timedelta(minutes=15)
USUAL_DEPTH: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What may be had, and why: of several audiences, the narrowest of what each allows."""

    lasts: timedelta
    depth: int
    certificate: bool
    may_act: SpiffeId | None
    rule: str | None
    commit: str
    shadow: bool | None


def permitted(access: TokenAccess, asked: Asked, targets: Sequence[str]) -> Permission:
    """What the rules give for each of these audiences.  Raises: VST6010, VST6011."""
    decisions = []
    for each in targets:
        question = replace(asked, audience=each)
        decision = access.decide(question)
        if not decision.allowed:
            raise refused(question, decision)
        decisions.append(decision)
    return permission_of(decisions)


def permission_of(decisions: Sequence[TokenDecision]) -> Permission:
    """What several decisions, all of which allow, give together."""
    first = decisions[0]
    return Permission(
        lasts=min(min(each.lasts or USUAL_LIFE, LONGEST_LIFE) for each in decisions),
        depth=min(USUAL_DEPTH if each.depth is None else each.depth for each in decisions),
        certificate=any(each.certificate for each in decisions),
        # Who may act with a token for several is who may for each of them.
        may_act=first.may_act if all(each.may_act == first.may_act for each in decisions) else None,
        rule=first.rule,
        commit=first.commit,
        shadow=next((each.shadow for each in decisions if each.shadow is not None), None),
    )


def refused(asked: Asked, decision: TokenDecision) -> TokenRefusedError:
    """The refusal, with the rule for the record."""
    what = f"{asked.client} may not {asked.verb.value} a token for {asked.audience!r}"
    if decision.scope is None:
        refusal = TokenRefusedError(TARGET_DENIED, what)
    else:
        refusal = TokenRefusedError(SCOPE_DENIED, f"{what} with the scope {decision.scope!r}")
    refusal.rule, refusal.commit = decision.rule, decision.commit
    return refusal
