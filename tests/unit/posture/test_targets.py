"""What may be scanned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.posture import Target, distinct, is_address, parse_list, parse_target, printable
from vestibule.posture.targets import MOST


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("payments.internal:8443", "payments.internal", 8443),
        (" 10.0.0.7:443 ", "10.0.0.7", 443),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("https://Payments.Internal:8443/v1?x=1", "payments.internal", 8443),
        ("bücher.example:443", "xn--bcher-kva.example", 443),
        ("my_host.:1", "my_host", 1),
    ],
)
def test_a_target_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_target(text) == Target(host=host, port=port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "payments", "payments:", ":443", "payments:0", "payments:65536", "payments:x", "payments:٣"),
        *("2001:db8::1:443", "[2001:db8::g]:443", "pay ments:443", "-x:443", "a..b:443", "x" * 64 + ":443"),
        *("user@host:443", "ftp://host:21", "host:443\r\nX", "\x1b[31mhost:443"),
    ],
)
def test_what_is_none_is_refused_and_said_without_control_characters(text: str) -> None:
    with pytest.raises(VestibuleError) as raised:
        parse_target(text)
    assert raised.value.code.code == "VST2470"
    assert raised.value.message.isprintable()


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except VestibuleError:
        return
    assert parse_target(str(target)) == target


def test_a_list_has_comments_and_says_in_which_line_it_is_wrong() -> None:
    lines = ["# all of them", "", "a:1  # one", "b:2"]
    assert list(parse_list(lines, "list.txt")) == [Target(host="a", port=1), Target(host="b", port=2)]
    with pytest.raises(VestibuleError) as raised:
        list(parse_list([*lines, "c"], "list.txt"))
    assert str(raised.value.where) == "list.txt:5"


def test_each_is_scanned_once_and_not_too_many() -> None:
    one, other = parse_target("a:1"), parse_target("b:2")
    assert distinct([one, other, one]) == (one, other)
    for wrong in ([], [Target(host="a", port=1 + n % 60_000) for n in range(MOST + 1)]):
        with pytest.raises(VestibuleError):
            distinct(wrong)


def test_addresses_are_no_names() -> None:
    assert is_address("10.0.0.7")
    assert is_address("::1")
    assert not is_address("a.example")


def test_what_others_wrote_is_shown_in_one_safe_line() -> None:
    assert printable("a\x1b[31mb\r\nc") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}" * 1 + (
        "\N{REPLACEMENT CHARACTER}c"
    )
    assert printable("x" * 1000, 10) == "x" * 9 + "…"
    assert printable("x" * 10, 10) == "x" * 10
