"""Passphrases and PINs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys.secrets import Secret, secret_from_descriptor, secret_in_file


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("data", [b"opensesame", b"opensesame\n", b"opensesame\r\n"])
def test_the_end_of_the_line_is_no_part_of_a_secret(tmp_path: Path, data: bytes) -> None:
    assert secret_in_file(written(tmp_path / "s", data)).reveal() == "opensesame"


@pytest.mark.parametrize("data", [b"", b"\n", b"two\nlines\n", b"a\0b", b"\xff\xfe", b"x" * 1025])
def test_what_is_not_one_line_of_text_is_refused_without_being_shown(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1105") as refused:
        secret_in_file(written(tmp_path / "s", data))
    assert "lines" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(VestibuleError, match="VST1105"):
        secret_in_file(written(tmp_path / "s", b"opensesame", mode))


def test_a_link_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "s", b"opensesame")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for name in ("link", "missing"):
        with pytest.raises(VestibuleError, match="VST1105"):
            secret_in_file(tmp_path / name)


def test_a_descriptor_is_read_once_and_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"opensesame\n")
    os.close(writing)
    assert secret_from_descriptor(reading).reveal() == "opensesame"
    with pytest.raises(OSError):
        os.fstat(reading)
    with pytest.raises(VestibuleError, match="VST1105"):
        secret_from_descriptor(reading)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("opensesame")
    assert "opensesame" not in f"{secret} {secret!r} {[secret]}"
