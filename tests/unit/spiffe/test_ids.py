"""SPIFFE IDs and trust domains, by the rules of the standard (SPIFFE-ID.md); S1 to S5 as the reference numbers them."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.spiffe import SpiffeId, TrustDomain

TD = TrustDomain.parse("example.org")
SEGMENT = string.ascii_letters + string.digits + "._-"


def refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST1400"):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "/web",
        "//example.org/web",
        "http://example.org/web",
        "spiffe:/example.org/web",
        "spiffe:example.org/web",
        "xspiffe://example.org/web",
        " spiffe://example.org/web",
        "spiffe://",
        "spiffe:///web",
        "spiffe://example.org?a=b",
        "spiffe://example.org/web?",
        "spiffe://example.org/web?a=b",
        "spiffe://example.org#x",
        "spiffe://example.org/web#",
        "spiffe://example.org/web#x",
    ],
)
def test_s1_scheme_and_trust_domain_are_there_and_neither_query_nor_fragment(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    "name", ["example.org", "a", "1", "a-b_c.d", "10.0.0.1", "-", "_", ".", "a..b", "localhost"]
)
def test_s2_a_trust_domain_is_letters_digits_dots_dashes_and_underscores(name: str) -> None:
    assert SpiffeId.parse(f"spiffe://{name}/web").trust_domain == TrustDomain.parse(name)


@pytest.mark.parametrize(
    "name",
    [
        "user@example.org",
        "user:password@example.org",
        "example.org:8443",
        "example.org:",
        "ex%61mple.org",
        "exämple.org",
        "\N{KELVIN SIGN}elvin.org",  # in lower case it would be an ordinary k
        "example org",
        "example.org\n",
        "[::1]",
        "a\\b",
        "a+b",
        "a*b",
        "",
    ],
)
def test_s2_neither_user_nor_port_nor_encoding_nor_other_letters(name: str) -> None:
    refused(f"spiffe://{name}/web")
    with pytest.raises(VestibuleError, match="VST1400"):
        TrustDomain.parse(name)


@pytest.mark.parametrize("path", ["", "/web", "/a/b/c", "/a.b-c_d", "/...", "/.a", "/a.", "/-", "/9"])
def test_s3_a_path_is_segments_of_the_permitted_letters(path: str) -> None:
    assert SpiffeId.parse(f"spiffe://example.org{path}").path == path


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "//a", "/a/", "/a//b", "/.", "/..", "/a/.", "/a/..", "/a/../b", "/a/./b", "/a%2fb", "/%61", "/a b",
        "/a\n", "/ä", "/a:b", "/a@b", "/a\\b", "/a;b", "/a*", "/a~", "/a\x00", "/\u0661",
    ],
)  # fmt: skip
def test_s3_no_segment_is_empty_or_dots_or_of_other_letters(path: str) -> None:
    refused(f"spiffe://example.org{path}")
    with pytest.raises(VestibuleError, match="VST1400"):
        SpiffeId.of(TD, path)


def test_s4_an_id_of_2048_bytes_is_read_and_none_longer_is_read_or_made() -> None:
    room = 2048 - len("spiffe://example.org/")
    longest = f"spiffe://example.org/{'a' * room}"
    assert str(SpiffeId.parse(longest)) == longest
    refused(longest + "a")
    with pytest.raises(VestibuleError, match="VST1400"):
        SpiffeId.of(TD, "/" + "a" * (room + 1))


def test_s4_a_trust_domain_has_255_bytes_at_most() -> None:
    assert SpiffeId.parse(f"spiffe://{'a' * 255}/web").trust_domain.name == "a" * 255
    refused(f"spiffe://{'a' * 256}/web")


def test_s5_scheme_and_trust_domain_are_read_in_any_case_and_written_in_lower_case() -> None:
    assert str(SpiffeId.parse("SPIFFE://Example.ORG/Web")) == "spiffe://example.org/Web"
    assert str(TrustDomain.parse("SpIfFe://EXAMPLE.org")) == "example.org"
    assert SpiffeId.parse("Spiffe://EXAMPLE.ORG/web") == SpiffeId.parse("spiffe://example.org/web")


def test_s5_the_case_of_a_path_makes_another_identity() -> None:
    assert SpiffeId.parse("spiffe://example.org/Web") != SpiffeId.parse("spiffe://example.org/web")


@given(
    st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=30),
    st.lists(st.text(SEGMENT, min_size=1).filter(lambda each: each not in (".", "..")), max_size=4),
)
def test_what_the_rules_permit_is_read_and_written_the_same(name: str, segments: list[str]) -> None:
    text = f"spiffe://{name}" + "".join(f"/{each}" for each in segments)
    assert str(SpiffeId.parse(text)) == text


@given(st.text() | st.text(SEGMENT + "/:%?#@").map(lambda rest: f"spiffe://{rest}"))
def test_whatever_is_read_keeps_every_rule(text: str) -> None:
    with suppress(VestibuleError):
        whole = str(SpiffeId.parse(text))
        assert SpiffeId.parse(whole) == SpiffeId.parse(text)
        authority, _, path = whole.removeprefix("spiffe://").partition("/")
        assert authority == authority.lower()
        assert set(authority + path) <= set(SEGMENT + "/")
        assert not {"", ".", ".."} & set(path.split("/") if path else [])
