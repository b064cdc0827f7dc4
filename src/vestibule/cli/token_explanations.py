"""Why an identity may, or may not, come by a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.group_explanations import Words, headline, lines, why
from vestibule.cli.intent_places import Found
from vestibule.cli.output import console
from vestibule.intent.policy_cases import caller_of
from vestibule.intent.token_cases import asked_method, check_scopes, group_of
from vestibule.intent.token_changes import NO_SCOPE, how
from vestibule.intent.token_groups import EXCHANGE, TokenGroup, TokenTerms
from vestibule.intent.token_policies import token_policy
from vestibule.intent.token_questions import calls_of, deciding, paths_of, together
from vestibule.intent.token_targets import read_pattern
from vestibule.policy import Call, Engine, Rule
from vestibule.policy.explaining import Explanation, Miss, Part, explain

_MOST: Final = 5
"""Audiences of a rule that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The answer about one identity, one way to come by a token, one audience.

    ``scope`` is the one that decides, empty where it is none of them; ``terms`` what the token would be like.
    """

    found: Found
    caller: str
    call: Call
    group: TokenGroup
    audience: str
    scopes: tuple[str, ...]
    scope: str
    explanation: Explanation
    terms: TokenTerms | None

    @property
    def allowed(self) -> bool:
        """Whether it can be had."""
        return self.explanation.decision.allowed


def explained(
    found: Found,
    caller: str,
    audience: str,
    verb: str,
    *,
    scopes: Sequence[str],
    given: Mapping[str, Mapping[str, Any]],
    at: datetime,
) -> Told:
    """Decide, and say why.  ``given`` are the claims of the given token by its issuer's name.

    Raises: VST0025, VST0040, VST1400.
    """
    intent, wanted = found.held, tuple(dict.fromkeys(scopes))
    group = group_of(audience, intent)
    check_scopes(wanted, group)
    method = asked_method(verb.lower(), given, intent)
    claims = next(iter(given.values()), {})
    calls = calls_of(caller_of(caller, intent), method, paths_of(audience, wanted), claims, at)
    policy = token_policy(intent)
    engine = Engine(policy)
    decisions = [engine.decide(each) for each in calls]
    number, decision = deciding([each.allowed for each in decisions]), together(decisions)
    rules = [each.rule for each in decisions[1:] or decisions]
    return Told(
        found=found,
        caller=caller,
        call=calls[number],
        group=group,
        audience=audience,
        scopes=wanted,
        scope=wanted[number - 1] if number else "",
        explanation=replace(explain(policy, calls[number]), decision=decision),
        # Whoever only gives a token in exchange gets none by that.
        terms=group.narrowest(rules) if decision.allowed and method != EXCHANGE else None,
    )


# ------------------------------------------------------------------------------------------ an explanation


def document(told: Told) -> dict[str, Any]:
    """The answer as the envelope carries it."""
    return {
        "caller": {"name": told.caller, "spiffe_id": str(told.call.caller)},
        "audience": told.audience,
        "scopes": list(told.scopes),
        "verb": told.call.method,
        "time": told.call.time.isoformat() if told.call.time else None,
        "intent": told.found.version,
        "allowed": told.allowed,
        "scope": None if told.allowed else told.scope or None,
        "token": None if told.terms is None else _described(told.terms, told.group.depth),
        **why(told.found, told.explanation, _words(told)),
    }


def _described(terms: TokenTerms, depth: int) -> dict[str, Any]:
    return {
        "lasts_seconds": int(terms.lasts.total_seconds()),
        "binding": "certificate" if terms.certificate else "identity",
        "may_act": str(terms.may_act) if terms.may_act else None,
        "depth": depth,
    }


def show(told: Told) -> None:
    """For people at a terminal."""
    scopes = f" with {', '.join(told.scopes)}" if told.scopes else ""
    said = f"{told.caller} → token for {told.audience}{scopes}, {how((told.call.method or '',))}"
    headline(said, told.found, allowed=told.allowed)
    for line in (*lines(told.found, told.explanation, _words(told)), *_token(told.terms)):
        console.print(f"  {line}")


def _token(terms: TokenTerms | None) -> Iterator[str]:
    if terms is None:
        return
    bound = "identity and certificate" if terms.certificate else "identity"
    yield f"[dim]token:[/] lasts {terms.lasts.total_seconds() / 60:g} min, bound to the client's {bound}"
    if terms.may_act:
        yield f"[dim]may act:[/] {escape(str(terms.may_act))}"


def _words(told: Told) -> Words:
    code = f"(VST6011) for the scope {told.scope}" if told.scope else "(VST6010)"
    return Words(
        service="token service",
        unmatched=f"denies it {code}: no rule allows it",
        parts={Part.METHOD: "may", Part.PATH: "token"},
        missed=lambda miss, rule: _missed(miss, rule, told),
    )


def _missed(miss: Miss, rule: Rule, told: Told) -> str:
    """What calls name methods and paths are ways to come by a token, audiences and scopes here."""
    if miss.part is Part.METHOD:
        return f"{how((told.call.method or '',))} is not {how(sorted(rule.methods))}"
    if miss.part is not Part.PATH:
        return miss.told
    return f"{told.audience} with {told.scope or NO_SCOPE} is not {_targets(rule)}"


def _targets(rule: Rule) -> str:
    """``reports with report:read, report:write``."""
    scopes: dict[str, list[str]] = {}
    for audience, scope in map(read_pattern, rule.paths):
        scopes.setdefault(audience or "", []).extend([scope] if scope else [])
    shown = list(scopes.items())[:_MOST]
    return " or ".join(f"{audience} with {', '.join(listed) or NO_SCOPE}" for audience, listed in shown)
