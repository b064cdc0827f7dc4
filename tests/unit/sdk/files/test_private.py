"""Directories of one program's own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import NO_PRIVATE_PLACE
from vestibule.sdk.files.private import places, private_place


def test_it_is_ours_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    with private_place(tmp_path) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        (place / "key").write_text("secret")
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_goes_with_the_next_one_and_what_is_in_use_stays(tmp_path: Path) -> None:
    with private_place(tmp_path) as first:
        left = tmp_path / first.name[:-1]
        left.mkdir()
        (left / ".owner").touch()
        (left / "key").write_text("secret")
        with private_place(tmp_path) as second:
            assert set(tmp_path.iterdir()) == {first, second}


def test_keys_are_not_put_on_a_disk_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestibule.sdk.files.private.places", lambda: [Path("/proc"), tmp_path / "none"])
    with pytest.raises(VestibuleError) as raised, private_place():
        pass
    assert raised.value.code is NO_PRIVATE_PLACE


def test_the_users_own_directory_comes_first() -> None:
    assert places({"XDG_RUNTIME_DIR": "/run/me"})[0] == Path("/run/me")


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as raised, private_place(tmp_path / "none"):
        pass
    assert raised.value.code is NO_PRIVATE_PLACE
