"""Paths have one form; whatever is written otherwise is refused, never mended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.doors.vault.codes import BAD_PATH, NO_SUCH_PATH
from vestibule.doors.vault.paths import LONGEST, path_of
from vestibule.errors import VestibuleError


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/secret/data/a", "secret/data/a"),
        (b"/v1/secret/data/a/", "secret/data/a"),
        (b"/v1/secret/data/a%20b", "secret/data/a b"),
        (b"/v1/secret/data/h%C3%B6he", "secret/data/höhe"),
        (b"/v1/secret/data/...", "secret/data/..."),
        (b"/v1/secret/data/.hidden/a..b", "secret/data/.hidden/a..b"),
    ],
)
def test_a_path_is_what_follows_v1_decoded_once(raw: bytes, path: str) -> None:
    assert path_of(raw) == path


@pytest.mark.parametrize("raw", [b"/", b"/v1", b"/v2/secret", b"secret/a", b"/V1/secret"])
def test_there_is_nothing_elsewhere(raw: bytes) -> None:
    with pytest.raises(VestibuleError) as caught:
        path_of(raw)
    assert caught.value.code is NO_SUCH_PATH


@pytest.mark.parametrize(
    "rest",
    [
        *(
            "",
            "/",
            "a//b",
            "a//",
            "./a",
            "a/..",
            "../a",
            "a/%2e%2e",
            "a/%2E",
            "a%2fb",
            "a%5Cb",
            "a%00",
            "a%0ab",
        ),
        *(
            "%",
            "%2",
            "%zz",
            "a%252fb",
            "a;b",
            "a%3Bb",
            "a\\b",
            "%ff",
            "%c0%ae",
            "a%20",
            "%20a",
            "a b",
            "a%23",
            "a%3f",
        ),
        *("%EF%BC%8E%EF%BC%8E/a", "%E2%80%AEa", "a%C2%A0b", "%EF%BC%8F", "e%CC%81"),
    ],
)
def test_any_other_form_is_refused(rest: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        path_of(b"/v1/" + rest.encode())
    assert caught.value.code is BAD_PATH


def test_a_path_is_not_longer_than_that() -> None:
    assert path_of(b"/v1/" + b"a" * (LONGEST - 4))
    with pytest.raises(VestibuleError):
        path_of(b"/v1/" + b"a" * (LONGEST - 3))


@given(st.binary(max_size=60))
def test_whatever_is_sent_is_read_in_one_way_or_refused(rest: bytes) -> None:
    try:
        path = path_of(b"/v1/" + rest)
    except VestibuleError:
        return
    segments = path.split("/")
    assert all(each and each not in (".", "..") and each.isprintable() for each in segments)
    assert not set(path) & set('\\%;?#"<>')
