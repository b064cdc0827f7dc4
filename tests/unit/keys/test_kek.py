"""The key-encryption key: made once, ours alone."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys import load_or_create_kek


def refused(path: Path) -> str:
    with pytest.raises(VestibuleError, match="VST1104") as caught:
        load_or_create_kek(path)
    return caught.value.message


def test_it_is_made_once_and_then_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "kek"
    kek = load_or_create_kek(path)
    assert len(kek) == 32
    assert load_or_create_kek(path) == kek
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_all_who_start_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    with ThreadPoolExecutor(16) as pool:
        keks = set(pool.map(lambda _: load_or_create_kek(path), range(64)))
    assert len(keks) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "kek"
    load_or_create_kek(path)
    path.chmod(mode)
    assert f"{mode:04o}" in refused(path)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kek"
    load_or_create_kek(path)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4711)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert "belongs to uid" in refused(path)


def test_a_link_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    load_or_create_kek(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "directory", "pipe"):
        refused(tmp_path / name)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_file_of_another_size_is_refused_and_its_content_not_shown(tmp_path: Path, size: int) -> None:
    path = tmp_path / "kek"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)
    assert "kkk" not in refused(path)


def test_a_place_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "kek")
