"""Which regular expressions conditions may have."""

from __future__ import annotations

import pytest

from vestibule.policy.regexes import MAX_LENGTH, why_not


@pytest.mark.parametrize(
    "regex",
    [
        "",
        "^/v1/.*$",
        "^[a-zA-Z0-9._-]+$",
        r"^[^@\s]+@[^@]+$",
        "^[0-9a-f]{8}-[0-9a-f]{4}$",
        "(?i)bearer",
        "^(GET|POST)$",
        r"[[:alpha:]]+\d{2,3}",
        r"\x41\x{e9}",
        "(?P<year>[0-9]{4})",
        "a" * 96,
    ],
)
def test_what_is_usual_is_let_through(regex: str) -> None:
    assert why_not(regex) is None


@pytest.mark.parametrize(
    ("regex", "why"),
    [
        ("a" * (MAX_LENGTH + 1), "characters"),
        ("a" * 97, "larger than proxies take"),
        ("(?:[a-z0-9]{10}){10}", "repetitions in it"),
        ("(?:(?:ab){9}c){9}", "repetitions in it"),
        ("a{1000}", "larger"),
        ("a{0,90}", "larger"),
        (".{12}", "larger"),
        ("(a+)+", "repetitions in it"),
        ("(?:a*b)*", "repetitions in it"),
        ("a**", "repetitions in it"),
        ("(a", "without its )"),
        ("a)", "too many"),
        ("[a", "without its ]"),
        ("*a", "nothing before it"),
        ("(?=a)", "RE2 does not know"),
        (r"\pL", r"\p"),
        (r"\1", r"\1"),
        (r"\C", r"\C"),
        ("\\", "cannot be used"),
    ],
)
def test_what_proxies_would_not_load_is_refused_with_the_reason(regex: str, why: str) -> None:
    assert why in str(why_not(regex))
