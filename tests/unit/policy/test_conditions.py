"""Conditions: what is let through, what is refused and how that is told, and what they come to."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.policy import Condition, ConditionError
from vestibule.policy.checking import MAX_LENGTH
from vestibule.policy.vocabulary import MCP, NAMES, TOKEN

FACTS: dict[str, Any] = {
    "caller.id": "spiffe://example.org/ns/prod/sa/web",
    "caller.trust_domain": "example.org",
    "caller.labels": {"team": "pay"},
    "request.method": "GET",
    "request.path": "/v1/charges",
    "request.headers": {"x-tenant": "t1"},
    "request.time": datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
}


def refused(text: str, **options: Any) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        Condition.parse(text, **options)
    return caught.value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("request.method == 'GET' && caller.labels.team == 'pay'", True),
        ("request.headers['x-tenant'] in ['t1', 't2']", True),
        ("has(request.headers.x_other) || request.path.startsWith('/v2')", False),
        ("request.time.getDayOfWeek('Europe/Paris') in [1, 2, 3, 4, 5]", True),
        ("request.time.getDayOfWeek('UTC') in [1, 2, 3, 4, 5]", False),
        ("caller.trust_domain in ['example.org'] && caller.id.endsWith('/web')", True),
        ("request.path.matches('^/v[0-9]+/[a-z]+$')", True),
        ("caller.labels.zone == 'a' || request.method == 'GET'", True),
        ("caller.labels.zone == 'a' && request.method == 'POST'", False),
    ],
)
def test_a_condition_is_true_or_false(text: str, holds: bool) -> None:
    assert Condition.parse(text).evaluate(FACTS) is holds


@pytest.mark.parametrize(
    "text",
    [
        "caller.labels.zone == 'a'",
        "request.headers['x-other'] == 'a'",
        "int(request.method) > 3",
        "request.host == 'a'",
        "token.claims.admin",
    ],
)
def test_what_asks_for_what_is_not_there_is_an_error_that_tells_no_value(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        Condition.parse(text).evaluate(FACTS)
    assert caught.value.code.code == "VST4044"
    assert "GET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "column", "told"),
    [
        ("caller.lables.team == 'a'", "VST4041", 1, "did you mean caller.labels?"),
        ("enviroment == 'a'", "VST4041", 1, "did you mean environment?"),
        ("caller.id ==", "VST4040", 13, ""),
        ("request.method == 5", "VST4042", 16, "'==' applied to '(string, int)'"),
        ("request.method", "VST4042", 1, "must be true or false"),
        ("caller.labels.exists(k, k == 'a')", "VST4043", 21, "exists"),
        ("request.time.getHours() < 8", "VST4043", 22, "without a time zone"),
        ("request.time.getHours('Europe/Pariss') < 8", "VST4043", 22, "did you mean Europe/Paris?"),
        ("request.headers['X-Tenant'] == 'a'", "VST4043", 1, "lower case"),
        ("request.headers['x-forwarded-for'] == 'a'", "VST4043", 1, "proxies set"),
        ("request.headers['host'] == 'a'", "VST4043", 1, "host"),
        ("request.headers[request.method] == 'a'", "VST4043", 1, "not written out"),
        ("size(request.headers) > 1 && request.headers.a == 'b'", "VST4043", 6, "as a whole"),
        ("token.scopes[0] == 'a'", "VST4043", 1, "by its number"),
        ("'a b' in token.scopes", "VST4043", 10, "no token can have"),
        ("caller.trust_domain.startsWith('a')", "VST4043", 1, "caller.trust_domain"),
        ("request.path.matches('(')", "VST4043", 21, "without its )"),
        ("request.path.matches('(a+)+')", "VST4043", 21, "repetitions in it"),
        ("request.path.matches('a{1000}')", "VST4043", 21, "larger than proxies take"),
        ("request.path.matches(request.method)", "VST4043", 21, "not written out"),
        ("request.path + 'a' == '/a'", "VST4043", 14, "together"),
        (
            "string(1) == '1' && request.method == 'GET' && string(size(request.path)) == '1'",
            "VST4043",
            54,
            "string",
        ),
        ("request.path.lower() == '/a'", "VST4043", 19, "no function"),
        ("request.path.startWith('/a')", "VST4043", 23, "did you mean startsWith?"),
        ("request.path == 'a\\u0000'", "VST4043", 17, "no request has"),
        ("", "VST4040", None, "empty"),
        ("true\u200b", "VST4040", None, "cannot be seen"),
        ("a" * (MAX_LENGTH + 1), "VST4040", None, str(MAX_LENGTH)),
        ("(" * 500 + "true" + ")" * 500, "VST4040", None, "deep"),
        ("request.path == '/a' ? true : " * 40 + "true", "VST4040", None, "deep"),
        ("[" * 100 + "1" + "]" * 100 + " == [1]", "VST4040", None, "deep"),
        ("token.claims" + ".a" * 200 + " == 1", "VST4040", None, "deep"),
    ],
)
def test_what_cannot_be_a_condition_is_refused_where_it_stands(
    text: str, code: str, column: int | None, told: str
) -> None:
    error = refused(text)
    assert error.code.code == code, error
    assert told in error.message
    assert len(error.message) < 500
    if column is not None:
        assert error.where is not None
        assert (error.where.line, error.where.column) == (1, column), error


def test_the_line_within_the_text_is_told() -> None:
    error = refused("request.method == 'GET' &&\n  request.path == 5")
    assert error.where is not None
    assert (error.where.line, error.where.column) == (2, 16)
    error = refused("true ||\n  request.time.getHours() > 3")
    assert error.where is not None
    assert (error.where.line, error.where.column) == (2, 24)


def test_names_that_the_rule_cannot_know_are_refused_with_the_reason() -> None:
    assert "demands no token" in refused("'a' in token.scopes", without=TOKEN).message
    assert "does not speak MCP" in refused("mcp.method == 'ping'", without=MCP).message
    assert Condition.parse("'a' in token.scopes", without=MCP).uses == {"token.scopes"}


def test_what_no_proxy_knows_makes_a_condition_central_and_lets_it_use_all_of_cel() -> None:
    condition = Condition.parse("request.body.items.all(each, each.price < 3)")
    assert condition.central
    assert condition.evaluate({"request.body": {"items": [{"price": 1}, {"price": 2.5}]}})
    assert not condition.evaluate({"request.body": {"items": [{"price": 4}]}})
    assert Condition.parse("attributes.risk > 3 && string(attributes.risk) == '4'").evaluate(
        {"attributes": {"risk": 4}}
    )


def test_an_explosion_is_cut_short() -> None:
    nested = "".join(f"[1,2,3,4,5,6,7,8,9,10].all(x{n}, " for n in range(8)) + "true" + ")" * 8
    condition = Condition.parse(f"request.body == 1 || {nested}")
    began = time.process_time()
    with pytest.raises(ConditionError):
        condition.evaluate({"request.body": 2})
    assert time.process_time() - began < 5


def test_every_name_can_be_used() -> None:
    for name, each in NAMES.items():
        text = {
            "string": f"{name} == 'a'",
            "timestamp": f"{name} > timestamp('2026-01-01T00:00:00Z')",
            "dyn": f"{name}.a == 1",
            "list(string)": f"'a' in {name}",
        }.get(each.type, f"{name}.a == 'b'")
        assert Condition.parse(text).uses == {name}


def test_texts_with_nul_and_headers_that_are_no_utf8_are_seen_as_they_are() -> None:
    same = Condition.parse("request.method == 'GET'")
    assert not same.evaluate({"request.method": "GET\0"})
    assert Condition.parse("size(request.method) == 4").evaluate({"request.method": "GET\0"})
    odd = {"request.headers": {"x-a": "t\udcff", "x-b": "t"}}
    assert Condition.parse("'x-a' in request.headers && request.headers['x-b'] == 't'").evaluate(odd)
    assert Condition.parse("has(request.headers.x_a) || request.headers['x-b'] == 't'").evaluate(odd)
    with pytest.raises(ConditionError):
        Condition.parse("request.headers['x-a'] != 't'").evaluate(odd)


def test_the_checker_is_not_imported_before_there_is_a_condition() -> None:
    code = "import sys, vestibule.policy; print([m for m in sys.modules if m.startswith(('cel', 'google'))])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
