"""What a lone sidecar writes for an Envoy that may be another user's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vestibule.app.lone_followed import Followed
from vestibule.errors import VestibuleError
from vestibule.processes.codes import NOT_WRITABLE


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "x"
    made.mkdir(mode=0o700)
    return made


def test_only_what_changed_is_written(directory: Path) -> None:
    followed = Followed(directory)
    assert followed.write({"a.pb": b"1", "b.pb": b"1"})
    (directory / "b.pb").unlink()
    assert followed.write({"a.pb": b"2", "b.pb": b"1"})
    assert not followed.write({"a.pb": b"2", "b.pb": b"1"})
    assert [each.name for each in directory.iterdir()] == ["a.pb"]
    assert (directory / "a.pb").read_bytes() == b"2"
    assert stat.S_IMODE((directory / "a.pb").stat().st_mode) == 0o644


def test_no_link_leads_what_is_written_elsewhere(directory: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    victim.chmod(0o600)
    for name in (".a.pb.new", "a.pb"):
        (directory / name).symlink_to(victim)
    Followed(directory).write({"a.pb": b"1"})
    assert victim.read_bytes() == b"mine"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert (directory / "a.pb").read_bytes() == b"1"
    assert not (directory / "a.pb").is_symlink()


def test_another_directory_in_its_place_is_not_taken(directory: Path, tmp_path: Path) -> None:
    followed = Followed(directory)
    directory.rename(tmp_path / "away")
    other = tmp_path / "other"
    other.mkdir()
    directory.symlink_to(other)
    with pytest.raises(VestibuleError) as raised:
        followed.write({"a.pb": b"1"})
    assert raised.value.code is NOT_WRITABLE
    assert list(other.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_nor_one_of_somebody_else(directory: Path, tmp_path: Path) -> None:
    followed = Followed(directory)
    followed.give_to(65534, 65534)
    assert followed.write({"a.pb": b"1"})
    directory.rename(tmp_path / "away")
    directory.mkdir()
    with pytest.raises(VestibuleError):
        followed.write({"a.pb": b"2"})
