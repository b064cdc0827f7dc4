"""Modes, owners and passwords of files of SVIDs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vestibule.cli.svid_files import parse_mode, parse_owner, read_password, replace_file
from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import PASSWORD_UNUSABLE
from vestibule.sdk.files.directory import Owner


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, "new", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(VestibuleError):
        replace_file(tmp_path / "nowhere" / "key", "new", 0o600)


@pytest.mark.parametrize("text", ["rw", "1777", "-1", "0888"])
def test_a_mode_is_octal(text: str) -> None:
    assert parse_mode("0640") == 0o640
    with pytest.raises(VestibuleError):
        parse_mode(text)


def test_owners_are_names_or_numbers_of_this_machine() -> None:
    assert parse_owner("root", "root") == Owner(uid=0, gid=0)
    assert parse_owner("123", "") == Owner(uid=123, gid=-1)
    assert parse_owner("", "") == Owner()
    for user, group in (("no-such-user", ""), ("", "no-such-group")):
        with pytest.raises(VestibuleError, match="no-such"):
            parse_owner(user, group)


def test_a_password_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text("correct horse\n")
    assert read_password(path) == "correct horse"


@pytest.mark.parametrize(("text", "mode"), [("short", 0o600), ("", 0o600), ("two\nlines", 0o600),
                                            ("pässword", 0o600), ("correct horse", 0o604)])  # fmt: skip
def test_a_password_that_is_of_no_use_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(VestibuleError) as raised:
        read_password(path)
    assert raised.value.code is PASSWORD_UNUSABLE
    assert not text or text not in raised.value.message
    with pytest.raises(VestibuleError):
        read_password(Path(os.devnull) / "x")
