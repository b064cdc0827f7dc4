"""Why a call is allowed or denied, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vestibule.policy import (
    Call,
    Condition,
    Effect,
    IdentityMatch,
    McpCall,
    McpDemand,
    Mode,
    PathPattern,
    PortPolicy,
    Rule,
    TokenDemand,
)
from vestibule.policy.explaining import HIDDEN, Explanation, Part, explain
from vestibule.spiffe import SpiffeId

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ORDERS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/orders")
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


def rule(name: str = "charge", methods: str = "POST", paths: str = "/v1/charges", **more: Any) -> Rule:
    plain: dict[str, Any] = {
        "name": f"payments/{name}",
        "callers": (IdentityMatch(id=ORDERS),),
        "methods": frozenset(methods.split()),
        "paths": tuple(map(PathPattern.parse, paths.split())),
    }
    return Rule(**{**plain, **more})


def call(method: str = "POST", path: str = "/v1/charges", caller: SpiffeId = ORDERS, **more: Any) -> Call:
    return Call(caller=caller, port="http", method=method, path=path, time=NOW, **more)


def told(*rules: Rule, of: Call | None = None, **more: Any) -> Explanation:
    return explain(PortPolicy(service="payments", port="http", allow=rules, **more), of or call())


def missing(found: Explanation) -> list[tuple[Part, str]]:
    return [(miss.part, miss.told) for miss in found.near[0].misses]


def test_the_rule_that_allows_is_named() -> None:
    found = told(rule("other", paths="/v2"), rule())
    assert (found.decision.allowed, found.rule, found.near) == (True, rule(), ())


@pytest.mark.parametrize(
    ("of", "part", "words"),
    [
        (call("GET"), Part.METHOD, "GET is not POST"),
        (call(path="/v1/refunds?x=1"), Part.PATH, "/v1/refunds is not /v1/charges"),
        (call(caller=WEB), Part.CALLER, f"{WEB} is not {ORDERS}"),
    ],
)
def test_what_the_nearest_rule_misses_is_told(of: Call, part: Part, words: str) -> None:
    assert missing(told(rule(), of=of)) == [(part, words)]


def test_the_nearest_rule_comes_first() -> None:
    rules = (
        rule("far", "GET", "/x", callers=(IdentityMatch(id=WEB),)),
        rule("path", paths="/v1/other /v2"),
        rule("close", "GET DELETE"),
    )
    found = told(*rules)
    assert [each.rule.name for each in found.near] == ["payments/close", "payments/path", "payments/far"]


def test_of_rules_that_miss_the_path_the_one_most_alike_comes_first() -> None:
    found = told(rule("a", paths="/v2/x"), rule("b", paths="/v1/charges/{id}/lines"))
    assert found.near[0].rule.name == "payments/b"


def test_a_denial_names_the_rule_and_the_permission_that_it_goes_before() -> None:
    deny = rule("stop", effect=Effect.DENY)
    found = told(rule(), deny=(deny,))
    assert (found.decision.rule, found.rule, found.otherwise) == ("payments/stop", deny, rule())


def test_a_denial_of_what_nothing_allows_goes_before_nothing() -> None:
    assert told(deny=(rule("stop", effect=Effect.DENY),)).otherwise is None


def test_a_denial_that_could_not_be_judged_says_so() -> None:
    deny = rule("stop", effect=Effect.DENY, when=Condition.parse('request.headers["x-tenant"] == "a"'))
    assert "not there" in told(rule(), deny=(deny,)).error


def test_a_condition_that_is_false_is_told_with_what_it_saw() -> None:
    when = Condition.parse('request.headers["x-tenant"] == "a" && environment == "prod"')
    of = call(headers={"x-tenant": "b", "authorization": "Bearer abc", "cookie": "s=1"})
    found = told(rule(when=when), of=of, environment="prod")
    ((miss,),) = [each.misses for each in found.near]
    assert miss.part is Part.CONDITION
    assert miss.told == f"the condition is false: {when.source}"
    assert dict(miss.saw) == {
        "environment": "prod",
        "request.headers": f"authorization: {HIDDEN}, cookie: {HIDDEN}, x-tenant: b",
    }


def test_a_condition_that_asks_for_what_is_not_there_says_so() -> None:
    found = told(rule(when=Condition.parse('request.headers["x-tenant"] == "a"')))
    assert missing(found)[0][1].startswith(
        "a condition could not be evaluated: something that it asks for is not there"
    )


DEMAND = TokenDemand(issuer="sts", audience="payments", scopes=("charge:write",), claims=(("dept", "fin"),))
CLAIMS = {"aud": "payments", "scope": "charge:write x", "dept": "fin", "client_id": str(ORDERS)}


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        (None, "the call carries no valid token of sts"),
        ({**CLAIMS, "aud": ["orders", "web"]}, "the token is for orders or web, not for payments"),
        ({**CLAIMS, "scope": "x"}, "the token lacks the scope charge:write"),
        ({**CLAIMS, "dept": "secret"}, "the token's claim dept is another"),
        ({**CLAIMS, "client_id": str(WEB)}, f"the token was given to {WEB}, not to the caller"),
        ({**CLAIMS, "act": "x"}, "the claim 'act' of a token is missing or of an unknown shape"),
    ],
)
def test_what_a_token_lacks_is_told_without_its_values(claims: dict[str, Any] | None, words: str) -> None:
    found = told(rule(token=DEMAND), of=call(tokens={} if claims is None else {"sts": claims}))
    assert missing(found) == [(Part.TOKEN, words)]


def test_a_token_that_serves_is_no_miss() -> None:
    assert told(rule(token=DEMAND), of=call(tokens={"sts": CLAIMS})).decision.allowed


def test_a_condition_about_a_token_that_is_not_there_is_one_miss_not_two() -> None:
    found = told(rule(token=DEMAND, when=Condition.parse('token.subject == "joe"')))
    assert [each.part for each in found.near[0].misses] == [Part.TOKEN]


def test_what_has_ended_says_when() -> None:
    past = NOW - timedelta(hours=1)
    assert missing(told(rule(expires=past))) == [(Part.TIME, "the rule ended at 2026-11-22T11:00:00Z")]
    member = (IdentityMatch(id=ORDERS, until=past),)
    assert missing(told(rule(callers=member))) == [
        (Part.TIME, "the caller's membership ended at 2026-11-22T11:00:00Z")
    ]


def test_a_tool_that_is_not_named_is_told() -> None:
    demand = McpDemand(tools=("read_file", "list_*"), methods=("logging/setLevel",))
    of = replace(call(), mcp=McpCall(method="tools/call", target="delete_file"))
    found = told(rule(mcp=demand), of=of, is_mcp=True)
    assert missing(found) == [
        (Part.MCP, "tools/call delete_file is not among tools: read_file, list_*; logging/setLevel")
    ]


def test_a_rule_in_shadow_mode_is_told_as_the_nearest() -> None:
    found = told(rule(mode=Mode.SHADOW))
    assert missing(found) == [(Part.MODE, "the rule is in shadow mode, and allows nothing yet")]
    assert found.decision.shadow is not None
    assert found.decision.shadow.allowed


def test_a_path_that_is_not_normal_is_refused_by_no_rule_of_the_intent() -> None:
    found = told(rule(), of=call(path="/v1//charges"))
    assert (found.decision.rule, found.rule, found.near) == ("vestibule/path-not-normal", None, ())
