"""What is asked of the rules for tokens when somebody asks for one: a question for each scope, and one for none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from vestibule.intent.token_groups import ADMIT, MINT
from vestibule.intent.token_targets import path_of
from vestibule.policy import Call, Decision, Verdict
from vestibule.policy.facts import GIVEN
from vestibule.spiffe import SpiffeId


def method_of(verb: str, issuer: str = "") -> str:
    """A verb as rules have it; ``issuer`` is what the intent calls whose token is given."""
    return f"{ADMIT}:{issuer}" if verb == ADMIT else verb


def paths_of(audience: str, scopes: Sequence[str]) -> tuple[str, ...]:
    """What is asked: of a token for the audience without any scope, and of one with each of these."""
    return tuple(path_of(audience, scope) for scope in ("", *scopes))


def calls_of(
    client: SpiffeId, method: str, paths: Sequence[str], given: Mapping[str, Any], time: datetime
) -> tuple[Call, ...]:
    """The same, as the engine is asked.  ``given`` are the claims of the token that is given, if one is."""
    tokens = {} if method == MINT else {GIVEN: given}
    return tuple(
        Call(caller=client, port="", method=method, path=path, time=time, tokens=tokens) for path in paths
    )


def deciding(allowed: Sequence[bool]) -> int:
    """Which of the answers decides, the first being that about no scope.

    What is denied for one scope is denied for all.  Where not even a token without scopes can be had, it is not for a
    scope that there is none.
    """
    if not allowed[0] and not all(allowed[1:] or allowed):
        return 0
    refused = next((number for number, each in enumerate(allowed) if number and not each), None)
    return min(1, len(allowed) - 1) if refused is None else refused


def together(decisions: Sequence[Decision]) -> Decision:
    """One decision of the answers to all questions."""
    counting = decisions[1:] or decisions
    why = decisions[deciding([each.allowed for each in decisions])]
    shadows = [each.shadow or Verdict(allowed=each.allowed, rule=each.rule) for each in decisions]
    shadow = shadows[deciding([each.allowed for each in shadows])]
    shadowed = any(each.shadow is not None for each in counting)
    return Decision(allowed=why.allowed, rule=why.rule, shadow=shadow if shadowed else None)
