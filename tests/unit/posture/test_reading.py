"""Scans that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.posture.endpoints import AWAY, GOOD, NOW, PLAIN, SERVED, clients

from vestibule.errors import VestibuleError
from vestibule.posture import Profile, Scan, read_scan, write_scan

KEPT = Scan(
    made=NOW,
    profile=Profile.SERVICE,
    endpoints=(GOOD, PLAIN, AWAY, clients(own=SERVED, own_id="spiffe://a/b")),
)


def changed(*path: Any, to: Any) -> str:
    document = json.loads(write_scan(KEPT))
    place = document
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = to
    return json.dumps(document)


def test_what_was_kept_is_read_again() -> None:
    assert read_scan(write_scan(KEPT), "before.json") == KEPT


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert read_scan(changed("endpoints", 0, "mood", to="good"), "before.json") == KEPT


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '"x"', '{"schema": "vestibule.scan-facts/v2"}', "[" * 100_000),
        changed("made", to="yesterday"),
        changed("made", to="2026-03-01T12:00:00"),
        changed("made", to=7),
        changed("profile", to="castle"),
        changed("endpoints", to={}),
        changed("endpoints", 0, to=None),
        changed("endpoints", 0, "target", "port", to="443"),
        changed("endpoints", 0, "target", "port", to=True),
        changed("endpoints", 0, "tls", "clients", "without", to=None),
        changed("endpoints", 0, "tls", "clients", "without", "outcome", to="killed"),
    ],
)
def test_what_is_no_scan_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError) as raised:
        read_scan(text, "before.json")
    assert raised.value.code.code == "VST2471"
    assert "before.json" in raised.value.message


def test_texts_of_a_file_are_made_printable_again() -> None:
    text = changed("endpoints", 1, "plaintext", "detail", to="\x1b[31mred")
    assert read_scan(text, "f").endpoints[1] == replace(
        PLAIN, plaintext=replace(PLAIN.plaintext, detail="\N{REPLACEMENT CHARACTER}[31mred")
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner)
    )
)
def test_nothing_in_the_place_of_endpoints_does_more_than_be_refused(value: object) -> None:
    if value == []:
        return
    with pytest.raises(VestibuleError, match="is no saved scan"):
        read_scan(changed("endpoints", to=value), "f")
