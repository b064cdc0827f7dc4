"""What rules allow more or less than others: in words, and exactly as ``decide`` has it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.policy import (
    Call,
    Condition,
    Effect,
    IdentityMatch,
    McpDemand,
    Mode,
    PathPattern,
    PortPolicy,
    Rule,
    TokenDemand,
    decide,
)
from vestibule.policy.differences import gained
from vestibule.policy.path_sets import example, without
from vestibule.spiffe import SpiffeId

ORDERS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/orders")
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


def rule(
    methods: str = "", paths: str = "", caller: str = str(ORDERS), name: str = "payments/a", **more: Any
) -> Rule:
    return Rule(
        **more,
        name=name,
        callers=(IdentityMatch.parse(caller),),
        port="http",
        methods=frozenset(methods.split()),
        paths=tuple(map(PathPattern.parse, paths.split())),
    )


def said(old: list[Rule], new: list[Rule]) -> list[str]:
    return [str(each) for each in gained(old, new, ORDERS, ORDERS)]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([], [rule("POST", "/v1/charges")], ["POST /v1/charges"]),
        ([rule("POST", "/v1/charges")], [], []),
        ([], [rule()], ["every call"]),
        ([], [rule("GET")], ["GET of every path"]),
        ([], [rule("", "/v1/**")], ["every method of /v1/**"]),
        ([rule("GET", "/v1/a")], [rule("GET", "/v1/**")], ["GET /v1/** but /v1/a"]),
        ([rule("GET")], [rule()], ["every method but GET of every path"]),
        ([rule("GET", "/a")], [rule("GET POST", "/a")], ["POST /a"]),
        ([rule("GET", "/{x}")], [rule("GET", "/a")], []),
        ([rule("GET", "/a"), rule("GET", "/a/**")], [rule("GET", "/a/**")], []),
        # Together the old ones cover the new one, though none does alone.
        ([rule("", "/a"), rule("", "/a/"), rule("", "/a/{x}/**")], [rule("", "/a/**")], []),
        ([], [rule("GET", "/a"), rule("GET", "/**", name="payments/b")], ["GET of every path"]),
        ([], [rule("GET", caller=str(WEB))], []),
        ([rule("GET", "/a /b")], [rule("GET", "/a /b /c")], ["GET /c"]),
    ],
)
def test_what_is_gained_is_said_in_words(old: list[Rule], new: list[Rule], words: list[str]) -> None:
    assert said(old, new) == words


UNLESS = "GET of every path unless (if caller.labels.env == 'prod')"
NOON = datetime(2026, 12, 31, 12, tzinfo=UTC)
IF: dict[str, Any] = {"when": Condition(source="caller.labels.env == 'prod'")}
OR: dict[str, Any] = {"when": Condition(source="false")}
DENY: dict[str, Any] = {"effect": Effect.DENY}
TOKEN: dict[str, Any] = {
    "token": TokenDemand(issuer="internal", audience="payments", scopes=("charge:write",))
}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([rule("GET"), rule("GET", "/admin/**", **DENY)], [rule("GET")], ["GET /admin/**"]),
        ([rule("GET", "/a/**")], [rule("GET", "/a/**"), rule("GET", **DENY)], []),
        ([], [rule("GET", "/a/**"), rule("", "/a/b", **DENY)], ["GET /a/** but /a/b"]),
        ([rule("GET", "/{x}/b"), rule("", "/a/{y}", **DENY)], [rule("GET", "/{x}/b")], ["GET /a/b"]),
        # What denies and what allows goes away together.
        ([rule("GET"), rule("GET", **DENY)], [], []),
        ([rule("GET"), rule("GET", **DENY)], [rule("GET"), rule("GET", name="payments/c", **DENY)], []),
        ([], [rule("GET", "/a", **IF)], ["GET /a if caller.labels.env == 'prod'"]),
        ([rule("GET", "/a", **IF)], [rule("GET", "/a")], ["GET /a"]),
        ([rule("GET", "/a")], [rule("GET", "/a", **IF)], []),
        ([rule("GET", "/a", **IF)], [rule("GET", "/a", **OR)], ["GET /a if false"]),
        ([rule("GET", "/**", **IF)], [rule("GET", "/**", **IF), rule("GET", "/a", **IF)], []),
        (
            [],
            [rule("GET", "/a", **TOKEN)],
            ["GET /a with a token of internal for payments with charge:write"],
        ),
        ([rule("GET"), rule("GET", **DENY)], [rule("GET"), rule("GET", **DENY, **IF)], [UNLESS]),
        (
            [rule("GET"), rule("GET", **DENY, **IF)],
            [rule("GET")],
            ["GET of every path if caller.labels.env == 'prod'"],
        ),
        ([], [rule("GET", "/a", expires=NOON)], ["GET /a until 2026-12-31 12:00 UTC"]),
        ([rule("GET", "/a", expires=NOON)], [rule("GET", "/a", expires=NOON - timedelta(days=1))], []),
        (
            [rule("GET", "/a"), rule("GET", expires=NOON, **DENY)],
            [rule("GET", "/a")],
            ["GET /a until 2026-12-31 12:00 UTC"],
        ),
        ([], [rule("GET", "/a", mode=Mode.SHADOW)], []),
        ([rule("GET", "/a"), rule("GET", mode=Mode.SHADOW, **DENY)], [rule("GET", "/a")], []),
        (
            [],
            [rule("POST", mcp=McpDemand(tools=("read_file", "list_*")))],
            ["POST of every path for the tools read_file, list_*"],
        ),
    ],
)
def test_what_denials_and_conditions_change_is_said_in_words(
    old: list[Rule], new: list[Rule], words: list[str]
) -> None:
    assert said(old, new) == words


def test_a_membership_that_ends_gives_calls_until_then() -> None:
    until = replace(rule("GET", "/a"), callers=(IdentityMatch(id=ORDERS, until=NOON),))
    assert said([], [until]) == ["GET /a until 2026-12-31 12:00 UTC"]
    assert said([until], [rule("GET", "/a")]) == ["GET /a after 2026-12-31 12:00 UTC"]
    assert said([rule("GET", "/a")], [until]) == []


def test_ten_thousand_rules_of_one_caller_are_compared_while_somebody_waits() -> None:
    rules = [rule("GET", f"/v1/a{number}/{{x}}") for number in range(10_000)]
    assert len(gained([], rules, ORDERS, ORDERS)) == 10_000
    assert said(rules, [*rules, rule("PUT", "/v1/a7/b")]) == ["PUT /v1/a7/b"]


def test_the_rules_that_give_a_call_are_named() -> None:
    (calls,) = gained([], [rule("GET", "/a"), rule("GET", "/a", name="payments/b")], ORDERS, ORDERS)
    assert calls.rules == ("payments/a", "payments/b")
    assert calls.example == ("GET", "/a")


def test_a_caller_whose_identity_changed_is_the_same_caller() -> None:
    old, new = [rule("GET")], [rule("GET", caller=str(WEB))]
    assert gained(old, new, ORDERS, WEB) == ()
    assert [str(each) for each in gained(old, new, ORDERS, ORDERS)] == []
    assert len(gained(new, old, ORDERS, ORDERS)) == 1


SEGMENTS = st.sampled_from(["a", "b", "{x}"])
PATTERNS = st.builds(
    lambda parts, end: PathPattern.parse("/" + "/".join(parts) + end if parts else end or "/"),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from(["", "/**", "/"]),
)
PATHS = st.builds(
    lambda parts, end: "/" + "/".join(parts) + (end if parts else ""),
    st.lists(st.sampled_from(["a", "b", "c", "x"]), max_size=4),
    st.sampled_from(["", "/", "?q=1", "//", ";x", "/../a"]),
)
CALLERS = (
    *(ORDERS, WEB, SpiffeId.parse("spiffe://example.org/ns/prod")),
    *(SpiffeId.parse("spiffe://example.org/ns/prod/sa/other"), SpiffeId.parse("spiffe://partner.org/x")),
)
MATCHES = st.sampled_from(
    [
        *(f"{ORDERS}", f"{WEB}", "spiffe://example.org/ns/prod/**", "spiffe://example.org/ns/prod/sa/**"),
        "spiffe://partner.org/x",
    ]
).map(IdentityMatch.parse)
METHODS = st.frozensets(st.sampled_from(["GET", "POST", "PUT"]), max_size=2)
RULES = st.lists(
    st.builds(
        Rule,
        effect=st.sampled_from([Effect.ALLOW, Effect.ALLOW, Effect.DENY]),
        mode=st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW]),
        name=st.sampled_from(["s/a", "s/b"]),
        callers=st.lists(MATCHES, min_size=1, max_size=2).map(tuple),
        port=st.just("http"),
        methods=METHODS,
        paths=st.lists(PATTERNS, max_size=2).map(tuple),
    ),
    max_size=5,
)


def allows(rules: list[Rule], call: Call) -> bool:
    """By the engine."""
    allow = tuple(each for each in rules if each.effect is Effect.ALLOW)
    deny = tuple(each for each in rules if each.effect is Effect.DENY)
    return decide(PortPolicy(service="s", port=call.port, allow=allow, deny=deny), call).allowed


@settings(deadline=None)
@given(
    RULES,
    RULES,
    st.sampled_from(CALLERS),
    st.sampled_from(["GET", "POST", "PUT", "HEAD"]),
    st.lists(PATHS, max_size=8),
)
def test_exactly_those_calls_are_gained_that_decide_allows_now_and_denied_before(
    old: list[Rule], new: list[Rule], caller: SpiffeId, method: str, paths: list[str]
) -> None:
    found = gained(old, new, caller, caller)
    for calls in found:
        # Nothing is said without reason, and its example is one.
        which, path = calls.example
        paths.append(path)
        call = Call(caller=caller, port="http", method=which, path=path)
        assert allows(new, call)
        assert not allows(old, call)
    for path in paths:
        call = Call(caller=caller, port="http", method=method, path=path)
        expected = allows(new, call) and not allows(old, call)
        told = any(calls.matches(method, path.partition("?")[0]) for calls in found)
        assert told is expected, (path, [str(each) for each in found])


@settings(deadline=None)
@given(st.booleans(), st.booleans())
def test_connections_of_tcp_are_gained_as_a_whole(before: bool, after: bool) -> None:
    old, new = [rule()] * before, [rule()] * after
    told = any(each.matches(None, None) for each in gained(old, new, ORDERS, ORDERS))
    assert told is (after and not before)


@settings(deadline=None)
@given(
    st.lists(PATTERNS, min_size=1, max_size=2), st.lists(PATTERNS, max_size=4), st.lists(PATHS, max_size=10)
)
def test_there_is_an_example_where_anything_is_left(
    all_of: list[PathPattern], none_of: list[PathPattern], paths: list[str]
) -> None:
    def fits(path: str) -> bool:
        return all(each.matches(path) for each in all_of) and not any(each.matches(path) for each in none_of)

    found = example(all_of, none_of)
    if found is not None:
        assert fits(found)
    else:
        assert not any(fits(path) for path in paths)
    left = without(all_of[0], none_of)
    for path in paths:
        expected = all_of[0].matches(path) and not any(each.matches(path) for each in none_of)
        assert (left is not None and left.matches(path)) is expected


def test_patterns_made_to_take_for_ever_do_not() -> None:
    depth = 40
    one = [
        PathPattern.parse("/" + "/".join(["{x}"] * at + ["a"] + ["{x}"] * (depth - at - 1)))
        for at in range(depth)
    ]
    every = PathPattern.parse("/" + "/".join(["{x}"] * depth))
    found = without(every, one)
    assert found is not None
    assert found.example is not None
    # Nothing is left here, which takes for ever to find out: then it is said with its exceptions.
    twos = [
        PathPattern.parse("/" + "/".join("a" if (number >> at) & 1 else "{x}" for at in range(12)) + "/**")
        for number in range(1, 2000, 7)
    ]
    assert without(PathPattern.parse("/**"), twos) is not None
    # Nor does a very long one break anything; what it has in common with another is then taken to be something.
    long = PathPattern.parse("/a" * 500)
    found = without(long, [PathPattern.parse("/{x}" * 200 + "/**")])
    assert found is None or found.but
    assert without(long, [long]) is None
