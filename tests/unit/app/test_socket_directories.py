"""Where sockets may lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestibule.app.socket_directories import socket_directory
from vestibule.errors import VestibuleError


def test_a_missing_directory_is_made_with_its_mode(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert socket_directory(tmp_path / "a", 0o755).stat().st_mode & 0o777 == 0o755
        assert socket_directory(tmp_path / "b").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777], ids=oct)
def test_a_directory_where_others_could_put_their_socket_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(VestibuleError, match="VST9114"):
        socket_directory(tmp_path / "open")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VestibuleError, match="VST2310"):
        socket_directory(tmp_path / "file" / "below")
