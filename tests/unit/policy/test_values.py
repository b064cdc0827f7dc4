"""The values that conditions see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from vestibule.policy import Call, Condition, ConditionError, McpCall, PortPolicy
from vestibule.policy.values import constants, values_of
from vestibule.policy.vocabulary import CENTRAL, CONSTANT, NAMES
from vestibule.spiffe import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
POLICY = PortPolicy(
    service="app", port="http", environment="prod", labels={"tier": "gold"}, callers={WEB: {"team": "pay"}}
)
CALL = Call(
    caller=WEB,
    port="http",
    method="GET",
    path="/a?b",
    host="app:80",
    headers={"x-a": "b"},
    time=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    mcp=McpCall(method=None),
    body={"a": 1},
    attributes={"b": 2},
)
TOKEN: dict[str, Any] = {
    "iss": "i",
    "sub": "s",
    "client_id": "c",
    "aud": "app",
    "scope": "a  b",
    "n": 3,
    "yes": True,
}


def test_every_name_of_the_vocabulary_has_its_value() -> None:
    found = values_of(NAMES, POLICY, CALL, TOKEN)
    assert found == {
        "caller.id": "spiffe://example.org/ns/prod/sa/web",
        "caller.trust_domain": "example.org",
        "caller.labels": {"team": "pay"},
        "service.name": "app",
        "service.labels": {"tier": "gold"},
        "environment": "prod",
        "request.method": "GET",
        "request.path": "/a",
        "request.host": "app:80",
        "request.headers": {"x-a": "b"},
        "request.time": datetime(2026, 1, 1, tzinfo=UTC),
        "token.issuer": "i",
        "token.subject": "s",
        "token.client_id": "c",
        "token.audiences": ["app"],
        "token.scopes": ["a", "b"],
        "token.claims": {**TOKEN, "n": 3.0},
        "mcp.method": "",
        "request.body": {"a": 1},
        "attributes": {"b": 2},
    }
    assert set(constants(POLICY)) == CONSTANT
    assert set(NAMES) - set(found) == {"mcp.target"}


def test_what_is_not_known_is_left_out() -> None:
    bare = Call(caller=SpiffeId.parse("spiffe://other.org"), port="raw")
    found = values_of(NAMES, POLICY, bare, None)
    assert found["caller.labels"] == {}
    missing = {"request.method", "request.path", "request.time", "request.body", "mcp.method", "mcp.target"}
    assert set(NAMES) - set(found) == missing | {name for name in NAMES if name.startswith("token.")}
    assert "request.body" in CENTRAL


@pytest.mark.parametrize(
    "odd", [{"sub": 5, "scope": ["a"], "aud": {}}, {"sub": None, "scope": 1, "aud": [1]}]
)
def test_claims_of_other_shapes_than_they_must_have_are_not_known(odd: dict[str, Any]) -> None:
    assert values_of(("token.subject", "token.scopes", "token.audiences"), POLICY, CALL, odd) == {}


def test_claims_that_no_double_holds_or_that_never_end_do_no_harm() -> None:
    found = values_of(("token.claims",), POLICY, CALL, {"n": 10**400, "m": -(10**400)})
    assert Condition.parse("token.claims.n > 1e308 && token.claims.m < -1e308").evaluate(found)
    deep: Any = 1
    for _ in range(20_000):
        deep = [deep]
    assert values_of(("token.claims",), POLICY, CALL, {"deep": deep}) == {}
    with pytest.raises(ConditionError):
        Condition.parse("request.body == 1").evaluate({"request.body": deep})


def test_a_deep_body_is_looked_at() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"a": deep}
    same = Condition.parse("request.body == request.body && !has(request.body.b)")
    assert same.evaluate({"request.body": {"a": [deep]}})
