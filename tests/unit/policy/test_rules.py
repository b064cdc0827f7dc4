"""Identities, rules and decisions."""

from __future__ import annotations

import pytest

from vestibule.errors import VestibuleError, Where
from vestibule.policy import Call, IdentityMatch, PathPattern, Rule, may_call
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided

ORDERS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/orders")
REPORTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/reports")
CHARGE = Rule(
    name="payments/orders-charge",
    callers=(IdentityMatch(id=ORDERS),),
    port="http",
    methods=frozenset({"POST"}),
    paths=(PathPattern.parse("/v1/charges"), PathPattern.parse("/v1/refunds/**")),
)
PROD = Rule(
    name="payments/prod", callers=(IdentityMatch.parse("spiffe://example.org/ns/prod/**"),), port="raw"
)


def call(
    caller: SpiffeId = ORDERS,
    method: str | None = "POST",
    path: str | None = "/v1/charges",
    port: str = "http",
) -> Call:
    return Call(caller=caller, port=port, method=method, path=path)


def test_a_call_that_a_rule_matches_is_allowed_by_that_rule() -> None:
    assert decided([PROD, CHARGE], call()).rule == "payments/orders-charge"
    assert decided([PROD, CHARGE], call(path="/v1/refunds/7")).allowed


@pytest.mark.parametrize(
    "refused",
    [
        call(caller=REPORTS),
        call(method="GET"),
        call(method="post"),
        call(method=None),
        call(path="/v1/charges/7"),
        call(path="/v1/refundsEVIL"),
        call(path=None),
        call(port="admin"),
    ],
)
def test_each_part_of_a_rule_must_match(refused: Call) -> None:
    decision = decided([CHARGE], refused)
    assert not decision.allowed
    assert decision.rule is None


def test_without_rules_everything_is_denied() -> None:
    assert not decided([], call()).allowed


def test_a_query_is_not_looked_at() -> None:
    assert decided([CHARGE], call(path="/v1/charges?x=/../admin;%2f")).allowed


def test_a_path_that_is_not_normal_is_denied_even_where_any_path_is_allowed() -> None:
    anything = Rule(name="payments/any", callers=(IdentityMatch(id=ORDERS),))
    assert decided([anything], call(path="/a")).allowed
    assert not decided([anything], call(path="/a/../b")).allowed


def test_tcp_rules_look_at_port_and_caller_only() -> None:
    assert decided([PROD], call(method=None, path=None, port="raw")).rule == "payments/prod"


def test_a_rule_without_callers_matches_nobody() -> None:
    nobody = Rule(name="payments/nobody", callers=())
    assert not decided([nobody], call()).allowed
    assert not may_call([nobody], ORDERS)


def test_who_may_call_at_all_is_known_without_the_request() -> None:
    assert may_call([CHARGE], ORDERS)
    assert not may_call([CHARGE], REPORTS)
    assert may_call([PROD], REPORTS, port="raw")
    assert not may_call([PROD], REPORTS, port="http")


@pytest.mark.parametrize(
    ("pattern", "caller", "meant"),
    [
        ("spiffe://example.org/ns/a", "spiffe://example.org/ns/a", True),
        ("spiffe://example.org/ns/a", "spiffe://example.org/ns/a/b", False),
        ("spiffe://example.org/ns/a/**", "spiffe://example.org/ns/a", True),
        ("spiffe://example.org/ns/a/**", "spiffe://example.org/ns/a/b/c", True),
        ("spiffe://example.org/ns/a/**", "spiffe://example.org/ns/ab", False),
        ("spiffe://example.org/ns/a/**", "spiffe://example.org/ns", False),
        ("spiffe://example.org/ns/a/**", "spiffe://example.org.evil/ns/a/b", False),
        ("spiffe://example.org/ns/A", "spiffe://example.org/ns/a", False),
        ("spiffe://EXAMPLE.org/ns/a", "spiffe://example.org/ns/a", True),
        ("spiffe://example.org/**", "spiffe://example.org/x", True),
        ("spiffe://example.org/**", "spiffe://example.orgx/x", False),
    ],
)
def test_identities_match_segment_by_segment(pattern: str, caller: str, meant: bool) -> None:
    assert IdentityMatch.parse(pattern).matches(SpiffeId.parse(caller)) is meant


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("spiffe://example.org/*", "VST4011"),
        ("spiffe://example.org/a*/**", "VST4011"),
        ("spiffe://*/a", "VST4011"),
        ("spiffe://example.org/a/", "VST1400"),
        ("spiffe://example.org//**", "VST1400"),
        ("https://example.org/a", "VST1400"),
    ],
)
def test_a_malformed_identity_pattern_is_refused(text: str, code: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        IdentityMatch.parse(text)
    assert refused.value.code.code == code


def test_patterns_are_shown_as_they_are_written() -> None:
    assert str(IdentityMatch.parse("spiffe://example.org/a/**")) == "spiffe://example.org/a/**"
    assert str(PathPattern.parse("/v1/{id}/**")) == "/v1/{id}/**"


def test_a_rule_covers_those_that_allow_no_more() -> None:
    wide = Rule(name="p/wide", callers=PROD.callers, port="http", paths=(PathPattern.parse("/v1/**"),))
    assert wide.covers(CHARGE)
    assert not CHARGE.covers(wide)
    assert not PROD.covers(CHARGE), "another port"
    anyway = Rule(name="p/any", callers=CHARGE.callers, port="http")
    assert anyway.covers(CHARGE)
    assert not CHARGE.covers(anyway)


def test_where_a_rule_stands_is_no_part_of_its_value() -> None:
    moved = Rule(name=PROD.name, callers=PROD.callers, port="raw", where=Where(file="x", line=3))
    assert moved == PROD
    assert hash(moved) == hash(PROD)
