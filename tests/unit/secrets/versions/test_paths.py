"""A secret's path has one spelling."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.doors.vault.paths import path_of
from vestibule.errors import VestibuleError
from vestibule.policy import is_normal
from vestibule.secrets.versions.codes import MALFORMED_PATH
from vestibule.secrets.versions.paths import LONGEST_PATH, LONGEST_SEGMENT, folder, secret_path


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "payments/db",
        "payments/db/v1.2",
        "a/.hidden",
        "a/..b",
        "a/...",
        "team-a/api_key@prod",
        "a=b,c:d+e~f/!$&'()",
        "x" * LONGEST_SEGMENT,
        "/".join(["x" * 127] * 4),
    ],
)
def test_this_is_the_path_of_a_secret(path: str) -> None:
    assert secret_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a/..",
        "a\\b",
        "a%2fb",
        "a/%2e%2e/b",
        "a/*",
        "a/{b}",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\u200bb",
        "a\u202eb",
        "a\u00a0b",
        "a\u2028b",
        "cafe\u0301",
        "\u212b",
        "ｐａｙ",
        "a;b",
        "a?b",
        "a#b",
        'a"b',
        "<a>",
        "\ud800",
        "käse",
        "鍵/秘密",
        "a b",
        "a^b",
        " a",
        "a/b ",
        "a/ /b",
        "x" * (LONGEST_SEGMENT + 1),
        "/".join(["x" * 100] * 6),
    ],
)
def test_this_is_none_and_is_not_mended(path: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        secret_path(path)
    assert refused.value.code is MALFORMED_PATH


def test_a_folder_is_the_root_or_ends_with_a_slash() -> None:
    assert folder("") == ""
    assert folder("a/b") == "a/b/"
    with pytest.raises(VestibuleError):
        folder("a/b/")


@given(st.text(st.sampled_from("ab./-~@%; *é\x00")) | st.text())
def test_what_is_taken_is_short_and_has_no_empty_or_dot_segment(text: str) -> None:
    try:
        path = secret_path(text)
    except VestibuleError:
        return
    assert len(path.encode()) <= LONGEST_PATH
    assert not {"", ".", ".."} & set(path.split("/"))
    assert path.isascii()
    assert path.isprintable()
    assert quote(path, safe="/~@:+=,!$&'()-._") == path


@given(st.from_regex(r"[a-zA-Z0-9._~@:+=,!$&'()/-]{1,40}", fullmatch=True))
def test_what_is_taken_comes_through_urls_and_rules_as_it_is(text: str) -> None:
    try:
        path = secret_path(text)
    except VestibuleError:
        return
    assert path_of(f"/v1/secret/data/{path}".encode()) == f"secret/data/{path}"
    assert is_normal(f"/secret/{path}")
