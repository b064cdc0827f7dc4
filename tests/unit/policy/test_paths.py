"""Path patterns: what they match, what is refused, and that both sides are normal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.policy import PathPattern, Placeholder, is_normal


def matches(pattern: str, path: str) -> bool:
    parsed = PathPattern.parse(pattern)
    found = parsed.matches(path)
    assert found == (is_normal(path) and re.fullmatch(parsed.regex, path) is not None)
    return found


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/"),
        ("/v1/charges", "/v1/charges"),
        ("/v1/charges/", "/v1/charges/"),
        ("/v1/{id}", "/v1/7"),
        ("/v1/{id}/lines", "/v1/a%20b/lines"),
        ("/a/**", "/a"),
        ("/a/**", "/a/"),
        ("/a/**", "/a/b/c"),
        ("/{x}/b/**", "/anything/b/c"),
        ("/**", "/"),
        ("/**", "/a/b"),
        ("/a.b+c", "/a.b+c"),
        ("/shop.Payments/Charge", "/shop.Payments/Charge"),
    ],
)
def test_a_pattern_matches_what_it_says(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/v1/charges", "/v1/charges/"),
        ("/v1/charges/", "/v1/charges"),
        ("/v1/charges", "/v1/CHARGES"),
        ("/v1/{id}", "/v1/"),
        ("/v1/{id}", "/v1/7/8"),
        ("/a/**", "/ab"),
        ("/a/**", "/aEVIL/b"),
        ("/{x}/**", "/"),
        ("/a.c", "/abc"),
        ("/", ""),
    ],
)
def test_a_pattern_matches_nothing_more(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "*",
        "//a",
        "/a//b",
        "/a/../b",
        "/a/./b",
        "/..",
        "/a/.",
        "/%2e%2e/a",
        "/a/%2E./b",
        "/a%2fb",
        "/a%5Cb",
        "/a%00",
        "/a;x=1/b",
        "/a#b",
        "/a\\b",
        "/a b",
        "/a\n",
        "/ä",
        "/a%",
        "/a%zz",
        "/a?b",
        "http://payments/a",
    ],
)
def test_a_path_that_is_not_normal_matches_nothing(path: str) -> None:
    assert not is_normal(path)
    assert not PathPattern.parse("/**").matches(path)


@pytest.mark.parametrize(
    "path", ["/", "/a/", "/...", "/.well-known/x", "/a..b", "/a%20b", "/%C3%BC", "/a:b@c,d"]
)
def test_an_ordinary_path_is_normal(path: str) -> None:
    assert is_normal(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not start"),
        ("v1", "does not start"),
        ("http://payments/v1", "does not start"),
        ("//a", "empty segment"),
        ("/a//**", "empty segment"),
        ("/a/./b", "dot segment '.'"),
        ("/a/..", "dot segment '..'"),
        ("/a%20b", "percent-encoding"),
        ("/a;b", "';'"),
        ("/a?b=c", "query"),
        ("/a#b", "fragment"),
        ("/a\\b", "backslash"),
        ("/a*", "'*'"),
        ("/*", "'*'"),
        ("/**/a", "'*'"),
        ("/a/**/**", "'*'"),
        ("/a{id}", "'{'"),
        ("/{id}x", "'{'"),
        ("/{}", "'{'"),
        ("/id}", "'}'"),
        ("/^a$", r"the character '\^'"),
        ("/a b", "the character ' '"),
        ("/ü", "the character 'ü'"),
        ("/" + "a" * 2000, "longer"),
    ],
)
def test_a_pattern_that_no_request_could_have_is_refused(text: str, why: str) -> None:
    with pytest.raises(VestibuleError, match=why) as refused:
        PathPattern.parse(text)
    assert refused.value.code.code == "VST4010"


def test_a_refusal_of_a_long_path_shows_its_beginning_only() -> None:
    with pytest.raises(VestibuleError) as refused:
        PathPattern.parse("/" + "ü" * 900)
    assert len(refused.value.message) < 200


def test_a_pattern_tells_its_literal_beginning() -> None:
    assert PathPattern.parse("/v1/{id}/lines").literal == "/v1"
    assert PathPattern.parse("/v1/**").literal == "/v1"
    assert PathPattern.parse("/**").literal == ""
    assert PathPattern.parse("/").literal == "/"
    assert PathPattern.parse("/v1/charges").is_literal
    assert not PathPattern.parse("/v1/{id}").is_literal
    assert PathPattern.parse("/a/{id}").segments == ("a", Placeholder("id"))


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("/a", "/a"),
        ("/a/**", "/a"),
        ("/a/**", "/a/"),
        ("/a/**", "/a/{x}/**"),
        ("/**", "/a/b"),
        ("/{x}", "/a"),
        ("/{x}", "/{y}"),
        ("/{x}/**", "/a/b"),
    ],
)
def test_a_wider_pattern_covers_a_narrower_one(wide: str, narrow: str) -> None:
    assert PathPattern.parse(wide).covers(PathPattern.parse(narrow))


@pytest.mark.parametrize(
    ("one", "other"),
    [("/a", "/a/**"), ("/a", "/{x}"), ("/a/**", "/**"), ("/{x}", "/"), ("/a/**", "/ab"), ("/a/b", "/a")],
)
def test_a_pattern_does_not_cover_what_it_misses(one: str, other: str) -> None:
    assert not PathPattern.parse(one).covers(PathPattern.parse(other))


SEGMENTS = st.sampled_from(["a", "b", "{x}"])
PATTERNS = st.builds(
    lambda parts, end: "".join(f"/{part}" for part in parts) + end,
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from(["/", "/**", "/a"]),
)
PATHS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "".join(f"{part}/" for part in parts)])
)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, PATTERNS, PATHS)
def test_two_patterns_have_in_common_what_both_match(one: str, other: str, path: str) -> None:
    first, second = PathPattern.parse(one), PathPattern.parse(other)
    both = first.within(second)
    found = both is not None and both.matches(path)
    assert found == (first.matches(path) and second.matches(path))


def test_patterns_that_cross_meet() -> None:
    assert str(PathPattern.parse("/a/{x}/c").within(PathPattern.parse("/a/b/{y}"))) == "/a/b/c"
    assert str(PathPattern.parse("/a/**").within(PathPattern.parse("/{x}/b"))) == "/a/b"
    assert PathPattern.parse("/{x}").within(PathPattern.parse("/")) is None
