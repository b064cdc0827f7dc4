"""Files in directories of users who may want them elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vestibule.processes.placing import place


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    place(tmp_path, "a", b"1")
    place(tmp_path, "a", b"2")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"2"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    victim.chmod(0o600)
    (tmp_path / "a").symlink_to(victim)
    place(tmp_path, "a", b"1")
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (b"mine", 0o600)
    assert not (tmp_path / "a").is_symlink()


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        place(tmp_path, "a", b"1")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_the_directory_is_to_be_whose_it_was(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        place(tmp_path, "a", b"1", owner=65534)
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(PermissionError):
        place(tmp_path, "a", b"1")
    place(tmp_path, "a", b"1", owner=65534)
    assert (tmp_path / "a").read_bytes() == b"1"
