"""Everything asked of everybody, and where answers differ."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from tests.differential.bodies import BODIES
from tests.differential.envoys import Envoys, Told
from tests.differential.naive import NOT_NORMAL, TOKEN_REFUSED, Answer, Naive
from tests.differential.policies import Sample, samples
from tests.differential.requests import Ask, asks
from tests.differential.tokens import NAME, Token

from vestibule.envoy import rbac
from vestibule.policy import Call, Engine, Mode, PortPolicy, Rule
from vestibule.policy.central import unjudged

_NOT_HTTP: Final = re.compile(r"[^!-~]|#")
"""What no request target has, its query included (RFC 9112, section 3.2): refused before there is a path."""


@dataclass
class Result:
    """``decided`` counts which operators were in rules that decided, ``asked`` what was asked for."""

    seed: int
    requests: int = 0
    near: int = 0
    """Within one edit of what a rule speaks of."""
    not_http: int = 0
    """Refused by Envoy before any filter."""
    decided: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"seed {self.seed}: {self.requests} requests, {self.near} within one edit of a rule's boundary,"
        yield f"{self.not_http} that Envoy did not take for HTTP; {len(self.differences)} differences"
        for operator, count in sorted(self.written.items()):
            yield f"  {operator:32} in {count:5} rules, decided {self.decided[operator]:6} requests"
        yield from self.differences[:20]

    @property
    def uncovered(self) -> list[str]:
        """Operators that were written and never decided anything, though they could."""
        return [each for each in self.written if not self.decided[each] and not each.endswith("that ended")]


def compare(requests: int, seed: int, directory: Path, *, each: int = 500, central: bool = False) -> Result:
    """``requests`` in all, ``each`` of them to one policy; ``central``: the Envoys ask a decision service."""
    random = Random(seed)
    result = Result(seed)
    made = samples(max(1, requests // each), random, datetime.now(UTC), central=central)
    asked = [asks(sample, each, random) for sample in made]
    envoys = Envoys([sample.policy for sample in made], directory, central=central)
    with envoys:
        statuses = asyncio.run(envoys.ask(asked))
    told = envoys.told()
    for policy, (sample, questions) in enumerate(zip(made, asked, strict=True)):
        for operators in sample.operators.values():
            result.written.update(operators)
        for number, ask in enumerate(questions):
            place = policy, number
            _check(sample, ask, told.get(place) or Told(statuses[place], None, None), result)
    return result


def _check(sample: Sample, ask: Ask, told: Told, result: Result) -> None:
    result.requests += 1
    result.near += ask.edits is not None and ask.edits <= 1
    now = datetime.now(UTC)
    refused = ask.token is not None and _is_refused(ask.token, sample.policy)
    if refused and told.answer is not None:
        result.decided["token refused"] += 1
        if told.answer != Answer(False, TOKEN_REFUSED):
            result.differences.append(f"Envoy says {told.answer} of {ask}, whose token nobody may rely on")
        return
    call = call_of(ask, now)
    naive = Naive(sample.policy, sample.readings, now)
    expected = naive.answer(call)
    shadow = naive.answer(call, shadow=True) if rbac.has_shadows(sample.policy) else None
    result.decided.update(sample.operators.get(expected.rule, (expected.rule or "no rule",)))
    if shadow is not None and shadow != expected:
        result.decided.update(sample.operators.get(shadow.rule, ()))
    found: list[tuple[str, object, object]] = []
    if told.answer is None:
        result.not_http += 1
        if told.status != 400 or not (expected.rule == NOT_NORMAL or _NOT_HTTP.search(ask.path)):
            found.append(("Envoy", told.status, expected))
    else:
        found += [("Envoy", told.answer, expected)] if told.answer != expected else []
        excused = told.unsaid and any(unjudged((*sample.policy.deny, *sample.policy.allow)))
        found += [("Envoy's shadow", told.shadow, shadow)] if told.shadow != shadow and not excused else []
    decision = Engine(sample.policy).decide(call)
    said = Answer(decision.allowed, decision.rule or "")
    found += [("the engine", said, expected)] if said != expected else []
    if decision.shadow is not None or shadow is not None:
        other = decision.shadow
        said_so = None if other is None else Answer(other.allowed, other.rule or "")
        found += [("the engine's shadow", said_so, shadow)] if said_so != shadow else []
    for who, got, wanted in found:
        rules = "\n   ".join(
            map(shown, (*sample.policy.deny, *sample.policy.emergencies, *sample.policy.allow))
        )
        result.differences.append(f"{who} says {got}, not {wanted}, of {ask}\n   {rules}")


def _is_refused(token: Token, policy: PortPolicy) -> bool:
    """Before any rule: it is not valid, or for nobody here; shadow rules alone refuse none."""
    rules = [rule for rule in (*policy.deny, *policy.allow) if rule.token is not None]
    if not any(rule.mode is Mode.ENFORCE for rule in rules):
        return False
    if token.claims is None:
        return True
    audience = token.claims["aud"]
    meant = {audience} if isinstance(audience, str) else set(audience)
    return meant.isdisjoint(rule.token.audience for rule in rules if rule.token is not None)


def shown(rule: Rule) -> str:
    """A rule in a line."""
    who = (
        ["anyone"]
        if rule.anyone
        else [f"{each}{f' until {each.until}' if each.until else ''}" for each in rule.callers]
    )
    parts = [rule.mode.value, rule.effect.value, rule.name, "from", *who, *sorted(rule.methods)]
    parts += [*map(str, rule.paths), f"when {rule.when.source}" if rule.when else ""]
    parts += [f"token {rule.token}" if rule.token else "", f"expires {rule.expires}" if rule.expires else ""]
    return " ".join(part for part in parts if part)


def call_of(ask: Ask, now: datetime) -> Call:
    """The facts of a request."""
    return Call(
        caller=ask.caller,
        port="http",
        method=ask.method,
        path=ask.path,
        host="app",
        headers={"host": "app", **ask.headers},
        time=now,
        body=BODIES[ask.body],
        tokens={NAME: ask.token.claims} if ask.token and ask.token.claims and ask.token.typed else {},
    )
