"""Why a call is allowed or denied: the rule that decides, and of the others the nearest, with what they miss.

What is told of a call's values is what a condition asked for.  Credentials are never among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.policy.decisions import Decision
from vestibule.policy.demanding import meets_token, presenter
from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.engine import Engine
from vestibule.policy.facts import Call
from vestibule.policy.mcp import is_upkeep, mcp_matches
from vestibule.policy.paths import PathPattern
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Mode, Rule
from vestibule.policy.values import audiences, scopes, values

NEAREST: Final = 3
"""Rules that would have allowed a call but for something, and that are told."""

HIDDEN: Final = "(hidden)"
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
_LONGEST: Final = 80


class Part(Enum):
    """What of a rule a call can miss."""

    CALLER = "caller"
    METHOD = "method"
    PATH = "path"
    TOKEN = "token"  # noqa: S105 - a part of a rule
    MCP = "mcp"
    CONDITION = "condition"
    TIME = "time"
    MODE = "mode"


_WEIGHT: Final = {Part.CALLER: 4, Part.PATH: 3, Part.METHOD: 2, Part.MCP: 2}
"""How far a call is from a rule that it misses there; 1 for the other parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """One part of a rule that a call does not meet, in words, and the values that a condition saw."""

    part: Part
    told: str
    saw: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A permission that does not allow the call, and what it misses."""

    rule: Rule
    misses: tuple[Miss, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision; the rule that gave it, if one did; and what else is to be known.

    ``otherwise`` is the permission that would have allowed a call which is denied by a rule.  ``near`` are the
    permissions next to a call that nothing allows.  ``error`` says why a denial counts although it could not be judged.
    """

    decision: Decision
    rule: Rule | None = None
    otherwise: Rule | None = None
    near: tuple[Near, ...] = ()
    error: str = ""


def explain(policy: PortPolicy, call: Call) -> Explanation:
    """Decide about a call, and say why.  Takes a time that grows with the number of rules."""
    decision = Engine(policy).decide(call)
    rules = {rule.name: rule for rule in (*policy.deny, *policy.emergencies, *policy.allow)}
    rule = rules.get(decision.rule or "")
    if decision.allowed:
        return Explanation(decision=decision, rule=rule)
    if rule is not None:
        return Explanation(
            decision=decision,
            rule=rule,
            otherwise=_otherwise(policy, call, rules),
            error=_why_not_judged(policy, rule, call),
        )
    return Explanation(decision=decision, near=() if decision.rule else _nearest(policy, call))


def _otherwise(policy: PortPolicy, call: Call, rules: Mapping[str, Rule]) -> Rule | None:
    without = PortPolicy(
        service=policy.service,
        port=policy.port,
        allow=policy.allow,
        emergencies=policy.emergencies,
        is_http=policy.is_http,
        is_mcp=policy.is_mcp,
        environment=policy.environment,
        labels=policy.labels,
        callers=policy.callers,
    )
    found = Engine(without).decide(call)
    return rules.get(found.rule or "") if found.allowed else None


def _why_not_judged(policy: PortPolicy, rule: Rule, call: Call) -> str:
    try:
        if rule.token is not None:
            meets_token(rule.token, call)
        if rule.when is not None:
            rule.when.evaluate(values(policy, rule, call))
    except VestibuleError as error:
        return error.message
    return ""


def _nearest(policy: PortPolicy, call: Call) -> tuple[Near, ...]:
    found = [
        Near(rule=rule, misses=tuple(misses(policy, rule, call)))
        for rule in policy.allow
        if rule.port in (None, policy.port)
    ]
    return tuple(sorted(found, key=lambda each: _distance(each, call))[:NEAREST])


def _distance(near: Near, call: Call) -> tuple[int, int]:
    far = sum(_WEIGHT.get(each.part, 1) for each in near.misses)
    path = (call.path or "").partition("?")[0]
    alike = max((_alike(pattern, path) for pattern in near.rule.paths), default=0)
    return far, -alike


def _alike(pattern: PathPattern, path: str) -> int:
    """How many segments from the beginning fit."""
    number = 0
    for segment, part in zip(pattern.segments, path[1:].split("/"), strict=False):
        if isinstance(segment, str) and segment != part:
            break
        number += 1
    return number


def misses(policy: PortPolicy, rule: Rule, call: Call) -> Iterator[Miss]:
    """Every part of a permission that a call does not meet; none if it is allowed by it."""
    yield from _caller(rule, call)
    if rule.methods and call.method not in rule.methods:
        yield Miss(part=Part.METHOD, told=f"{call.method} is not {_any_of(sorted(rule.methods))}")
    path = (call.path or "").partition("?")[0]
    if rule.paths and not any(pattern.matches(path) for pattern in rule.paths):
        yield Miss(part=Part.PATH, told=f"{_short(path)} is not {_any_of([*map(str, rule.paths)])}")
    if rule.expires is not None and (call.time is None or call.time >= rule.expires):
        yield Miss(part=Part.TIME, told=f"the rule ended at {rule.expires:%Y-%m-%dT%H:%M:%SZ}")
    if rule.mcp is not None and not (mcp_matches(rule.mcp, call.mcp) or (policy.is_mcp and is_upkeep(call))):
        yield Miss(part=Part.MCP, told=_mcp(rule.mcp, call))
    token = None if rule.token is None else _token(rule.token, call)
    if token is not None:
        yield token
    if rule.when is not None and (token is None or not rule.when.uses & _OF_TOKENS):
        yield from _condition(policy, rule, call)
    if rule.mode is Mode.SHADOW:
        yield Miss(part=Part.MODE, told="the rule is in shadow mode, and allows nothing yet")


_OF_TOKENS: Final = frozenset(
    {"token.issuer", "token.subject", "token.client_id", "token.audiences", "token.scopes", "token.claims"}
)


def _caller(rule: Rule, call: Call) -> Iterator[Miss]:
    named = [match for match in rule.callers if match.matches(call.caller)]
    if rule.anyone or any(match.until is None for match in named):
        return
    if not named:
        yield Miss(
            part=Part.CALLER, told=f"{call.caller} is not {_any_of([*map(str, rule.callers)]) or 'anybody'}"
        )
        return
    ends = max(match.until for match in named if match.until is not None)
    if call.time is None or call.time >= ends:
        yield Miss(part=Part.TIME, told=f"the caller's membership ended at {ends:%Y-%m-%dT%H:%M:%SZ}")


def _mcp(demand: McpDemand, call: Call) -> str:
    if call.mcp is None or call.mcp.method is None:
        return "the request is no MCP message that rules speak of"
    asked = f"{call.mcp.method} {_short(call.mcp.target)}" if call.mcp.target else call.mcp.method
    parts = {"tools": demand.tools, "resources": demand.resources, "prompts": demand.prompts}
    named = [f"{name}: {', '.join(found)}" for name, found in parts.items() if found]
    named += [", ".join(demand.methods)] if demand.methods else []
    return f"{asked} is not among {'; '.join(named)}"


def _token(demand: TokenDemand, call: Call) -> Miss | None:
    try:
        told = None if meets_token(demand, call) else _unmet(demand, call)
    except VestibuleError as error:
        told = error.message
    return None if told is None else Miss(part=Part.TOKEN, told=told)


def _unmet(demand: TokenDemand, call: Call) -> str:
    token = call.tokens.get(demand.issuer)
    if token is None:
        return f"the call carries no valid token of {demand.issuer}"
    if demand.audience not in (audiences(token) or ()):
        return (
            f"the token is for {_any_of(list(audiences(token) or ())) or 'nobody'}, not for {demand.audience}"
        )
    if lacking := [each for each in demand.scopes if each not in (scopes(token) or ())]:
        return f"the token lacks the scope {', '.join(lacking)}"
    if other := [name for name, value in demand.claims if token.get(name) != value]:
        return f"the token's claim {', '.join(other)} is another"
    return f"the token was given to {_short(presenter(token))}, not to the caller"


def _condition(policy: PortPolicy, rule: Rule, call: Call) -> Iterator[Miss]:
    assert rule.when is not None
    known = values(policy, rule, call)
    saw = tuple((name, _shown(name, known.get(name))) for name in sorted(rule.when.uses))
    try:
        if not rule.when.evaluate(known):
            yield Miss(part=Part.CONDITION, told=f"the condition is false: {rule.when.source}", saw=saw)
    except VestibuleError as error:
        yield Miss(part=Part.CONDITION, told=f"{error.message}: {rule.when.source}", saw=saw)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "not known"
    if name in ("request.headers", "token.claims", "request.body", "attributes"):
        return _names(value, secret=_SECRET_HEADERS if name == "request.headers" else None)
    return _short(value.isoformat() if hasattr(value, "isoformat") else str(value))


def _names(value: Any, *, secret: frozenset[str] | None) -> str:
    """Of headers the values too; of a token's claims, of bodies and attributes only what there is."""
    if not isinstance(value, Mapping):
        return type(value).__name__
    if secret is None:
        return _short(", ".join(sorted(map(str, value))) or "nothing")
    told = (f"{name}: {HIDDEN if name in secret else text}" for name, text in sorted(value.items()))
    return _short(", ".join(told) or "nothing")


def _any_of(names: Sequence[str]) -> str:
    shown = [_short(each) for each in names[:5]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return " or ".join((", ".join(shown[:-1]), shown[-1])) if len(shown) > 1 else "".join(shown)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
