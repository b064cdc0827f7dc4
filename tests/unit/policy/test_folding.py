"""Folding: what is known is put in, and no condition ever comes to anything else by it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.conditions import some_conditions

from vestibule.policy import ERROR, Condition, ConditionError, fold

CONSTANTS: dict[str, Any] = {
    "service.name": "payments",
    "service.labels": {"tier": "gold"},
    "environment": "prod",
    "caller.labels": {"team": "pay"},
}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("environment == 'prod'", True),
        ("environment == 'test' && request.method == 'GET'", False),
        ("environment == 'prod' && request.method == 'GET'", 'request.method == "GET"'),
        ("request.method == 'GET' || caller.labels.team == 'pay'", True),
        ("caller.labels.zone == 'a'", ERROR),
        ("caller.labels.zone == 'a' || environment == 'prod'", True),
        ("has(caller.labels.zone) && caller.labels.zone == 'a'", False),
        ("'team' in caller.labels ? request.method == 'GET' : 1 / 0 == 1", 'request.method == "GET"'),
        ("request.path.startsWith('/' + service.name)", 'request.path.startsWith("/payments")'),
        ("request.path in [environment, 'x']", 'request.path in ["prod", "x"]'),
        ("environment == 'prod' && token.claims.admin", "true && token.claims.admin"),
        ("size(caller.labels) == 1", True),
        ("request.method == 'GET'", "request.method == 'GET'"),
    ],
)
def test_what_is_known_is_put_in(text: str, left: object) -> None:
    folded = fold(Condition.parse(text), CONSTANTS)
    assert (folded.source if isinstance(folded, Condition) else folded) == left


def test_what_cannot_be_judged_stays_where_something_else_may_decide() -> None:
    folded = fold(Condition.parse("request.method == 'GET' || caller.labels.zone == 'a'"), CONSTANTS)
    assert isinstance(folded, Condition)
    assert folded.evaluate({"request.method": "GET"})
    with pytest.raises(ConditionError):
        folded.evaluate({"request.method": "PUT"})


def test_a_macro_is_left_alone() -> None:
    condition = Condition.parse("request.body.all(k, k == environment)")
    assert fold(condition, CONSTANTS) is condition


def _outcome(condition: Condition, facts: dict[str, Any]) -> bool | None:
    try:
        return condition.evaluate(facts)
    except ConditionError:
        return None


def _folded_outcome(condition: Condition, constants: dict[str, Any], facts: dict[str, Any]) -> bool | None:
    folded = fold(condition, constants)
    if isinstance(folded, Condition):
        assert folded.uses <= condition.uses
        assert not (folded.uses & constants.keys()) - {"token.claims"}
        return _outcome(folded, facts)
    return None if folded is ERROR else folded is True


def some_facts(chance: random.Random) -> dict[str, Any]:
    """Facts of a call, of which any may be missing."""
    levels: list[Any] = ["3", 3.0, None, True]
    facts: dict[str, Any] = {
        "caller.labels": chance.choice([{}, {"team": "pay"}, {"team": "t1", "zone": "GET"}]),
        "caller.trust_domain": chance.choice(["example.org", "other.org"]),
        "service.name": chance.choice(["payments", "GET"]),
        "service.labels": chance.choice([{}, {"tier": "t1"}]),
        "environment": chance.choice(["prod", "", "fin"]),
        "request.method": chance.choice(["GET", "POST"]),
        "request.path": chance.choice(["/", "/v1/charges"]),
        "request.headers": chance.choice([{}, {"x-tenant": "t1", "x-level": "5"}, {"x-tenant": ""}]),
        "token.claims": chance.choice(
            [{}, {"dept": "fin", "admin": True, "level": chance.choice(levels)}, {"admin": "true"}]
        ),
        "token.scopes": chance.choice([[], ["charge:write"]]),
        "token.subject": chance.choice(["joe", "fin"]),
    }
    return {name: value for name, value in facts.items() if chance.random() < 0.85}


@pytest.mark.parametrize("seed", range(4))
def test_folding_never_changes_what_a_condition_comes_to(seed: int) -> None:
    chance = random.Random(seed)
    for condition in some_conditions(250, chance):
        for _ in range(3):
            facts = some_facts(chance)
            known = {name: value for name, value in facts.items() if chance.random() < 0.5}
            assert _folded_outcome(condition, known, facts) == _outcome(condition, facts), (
                condition,
                known,
                facts,
            )
            assert _folded_outcome(condition, facts, facts) == _outcome(condition, facts), (condition, facts)
