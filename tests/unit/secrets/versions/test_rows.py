"""A secret comes back from its row as it went."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.secrets.versions import Actor, Secret, Settings, Version
from vestibule.secrets.versions.codes import UNREADABLE_ROW
from vestibule.secrets.versions.rows import (
    Row,
    read_newest,
    read_row,
    read_settings,
    write_row,
    write_settings,
)
from vestibule.testing.clock import START

ACTORS = st.builds(Actor, name=st.text(max_size=8), request_id=st.text(max_size=8))
INSTANTS = st.integers(0, 10**15).map(lambda number: START + timedelta(microseconds=number))
SETTINGS = st.builds(
    Settings,
    max_versions=st.integers(0, 1000),
    cas_required=st.booleans(),
    delete_after=st.integers(-1, 10**6).map(lambda seconds: timedelta(seconds=seconds)),
)


@st.composite
def secrets(draw: st.DrawFn) -> Secret:
    current = draw(st.integers(0, 5))
    numbers = {*draw(st.sets(st.integers(1, current))), current} if current else set[int]()
    versions = {
        number: Version(
            number=number,
            created=draw(INSTANTS),
            created_by=draw(ACTORS),
            deleted=draw(st.none() | INSTANTS),
            deleted_by=draw(st.none() | ACTORS),
            destroyed=draw(st.booleans()),
        )
        for number in sorted(numbers)
    }
    return Secret(
        created=draw(INSTANTS),
        updated=draw(INSTANTS),
        updated_by=draw(ACTORS),
        current=current,
        oldest=draw(st.integers(0, 5)),
        settings=draw(SETTINGS),
        custom=draw(st.none() | st.dictionaries(st.text(), st.text(), min_size=1, max_size=3)),
        versions=versions,
    )


@given(secrets(), st.just(b'{"a":1}') | st.just(b""))
def test_a_row_comes_back(secret: Secret, text: bytes) -> None:
    row = Row(secret=secret, text=text)
    found = read_row(write_row(row))
    assert found == row
    assert list(found.secret.versions) == list(secret.versions)


@given(secrets(), INSTANTS)
def test_the_newest_version_is_read_without_the_rest(secret: Secret, now: datetime) -> None:
    found = read_newest(write_row(Row(secret=secret, text=b'{"a":1}')), now)
    newest = secret.versions.get(secret.current)
    if newest is None:
        assert found is None
        return
    assert found is not None
    assert (found.version, found.custom) == (newest, secret.custom)
    assert found.data == ({"a": 1} if newest.is_readable(now) else None)


@given(SETTINGS)
def test_settings_come_back(settings: Settings) -> None:
    assert read_settings(write_settings(settings)) == settings


def test_what_a_newer_version_wrote_is_not_guessed_at() -> None:
    value = b"\x02" + bytes(20)
    for read in (read_row, lambda value: read_newest(value, START)):
        with pytest.raises(VestibuleError) as refused:
            read(value)
        assert refused.value.code is UNREADABLE_ROW
    with pytest.raises(VestibuleError):
        read_settings(b'{"form":2,"settings":[]}')


def test_a_row_does_not_show_what_it_holds() -> None:
    secret = Secret(created=START, updated=START, updated_by=Actor(name="ann"))
    assert "planted" not in repr(Row(secret=secret, text=b"planted"))
