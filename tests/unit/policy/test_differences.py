"""What rules allow more or less than others: in words, and exactly as ``decide`` has it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.policy import Call, IdentityMatch, PathPattern, Rule
from vestibule.policy.differences import gained
from vestibule.policy.path_sets import example, without
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided

ORDERS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/orders")
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


def rule(methods: str = "", paths: str = "", caller: str = str(ORDERS), name: str = "payments/a") -> Rule:
    return Rule(
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
        name=st.sampled_from(["s/a", "s/b"]),
        callers=st.lists(MATCHES, min_size=1, max_size=2).map(tuple),
        port=st.just("http"),
        methods=METHODS,
        paths=st.lists(PATTERNS, max_size=2).map(tuple),
    ),
    max_size=4,
)


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
        assert decided(new, call).allowed
        assert not decided(old, call).allowed
    for path in paths:
        call = Call(caller=caller, port="http", method=method, path=path)
        expected = decided(new, call).allowed and not decided(old, call).allowed
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
