"""Facts about a file that no file system is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestibule.net import statx
from vestibule.net.statx import facts_at_hand


def test_they_are_those_of_stat(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        found, stat = facts_at_hand(directory, b"file"), (tmp_path / "file").stat()
    finally:
        os.close(directory)
    assert found == (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def test_links_of_proc_are_followed() -> None:
    directory = os.open("/proc/self", os.O_RDONLY)
    try:
        found, stat = facts_at_hand(directory, b"exe"), Path("/proc/self/exe").stat()
    finally:
        os.close(directory)
    assert found is not None
    assert found[:2] == (stat.st_dev, stat.st_ino)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileNotFoundError):
            facts_at_hand(directory, b"file")
    finally:
        os.close(directory)


def test_without_the_call_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statx, "_statx", None)
    assert facts_at_hand(-1, b"exe") is None
