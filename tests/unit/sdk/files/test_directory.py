"""How sets of files take each other's place."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import ANOTHER_WRITER, NOT_WRITTEN
from vestibule.sdk.files.contents import File
from vestibule.sdk.files.directory import FileDirectory, Owner


def a_set(text: str, *names: str) -> list[File]:
    return [File(name=name, data=text.encode(), mode=0o640) for name in names or ("key", "cert")]


def seen(path: Path) -> dict[str, str]:
    return {
        each.name: each.read_text()
        for each in path.iterdir()
        if not each.name.startswith(".") and each.is_file()
    }


@pytest.mark.parametrize("linked", [True, False])
def test_a_new_set_takes_the_place_of_the_old_one(tmp_path: Path, linked: bool) -> None:
    with FileDirectory(tmp_path, linked=linked) as directory:
        assert directory.place(a_set("1")) == [tmp_path / "key", tmp_path / "cert"]
        assert seen(tmp_path) == {"key": "1", "cert": "1"}
        directory.place(a_set("2", "cert", "other"))
    assert seen(tmp_path) == {"cert": "2", "other": "2"}, "what is not in the new set goes"
    assert stat.S_IMODE((tmp_path / "cert").stat().st_mode) == 0o640
    assert (tmp_path / "cert").is_symlink() is linked


@pytest.mark.parametrize("linked", [True, False])
def test_files_that_are_nobodys_of_ours_stay(tmp_path: Path, linked: bool) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    with FileDirectory(tmp_path, linked=linked) as directory:
        directory.place(a_set("1"))
        directory.place(a_set("2"))
    assert seen(tmp_path) == {"key": "2", "cert": "2", "mine": "mine", "link": "mine"}


def test_whoever_resolves_the_link_once_always_sees_one_set(tmp_path: Path) -> None:
    stop, mixed, looks = threading.Event(), [], 0

    def read() -> None:
        nonlocal looks
        while not stop.is_set():
            here = os.open(tmp_path / "current", os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = []
                for name in ("key", "cert"):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=here)) as file:
                        found.append(file.read())
            except FileNotFoundError:
                continue  # two sets older than the newest: so slow a reader begins again
            finally:
                os.close(here)
            looks += 1
            if found[0] != found[1]:
                mixed.append(found)

    with FileDirectory(tmp_path) as directory:
        directory.place(a_set("0"))
        reader = threading.Thread(target=read)
        reader.start()
        number = 0
        while number < 50 or looks < 50:
            number += 1
            directory.place(a_set(str(number)))
        stop.set()
        reader.join(60)
    assert not mixed


def test_the_set_before_stays_for_slow_readers_and_no_older_one(tmp_path: Path) -> None:
    with FileDirectory(tmp_path) as directory:
        directory.place(a_set("1"))
        before = (tmp_path / "current").resolve()
        directory.place(a_set("2"))
        assert (before / "key").read_text() == "1"
        directory.place(a_set("3"))
        assert not before.exists()
        assert len(list(tmp_path.glob(".generation-*"))) == 2


@pytest.mark.parametrize("linked", [True, False])
def test_what_fails_changes_nothing(tmp_path: Path, linked: bool) -> None:
    with FileDirectory(tmp_path, linked=linked) as directory:
        directory.place(a_set("1"))
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(VestibuleError) as raised:
            directory.place(a_set("2", "x" * 300, "key"))
    assert raised.value.code is NOT_WRITTEN
    assert seen(tmp_path) == {"key": "1", "cert": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_crash_left_is_swept_by_the_next_writer(tmp_path: Path) -> None:
    with FileDirectory(tmp_path) as directory:
        directory.place(a_set("1"))
    (tmp_path / ".generation-half").mkdir()
    (tmp_path / ".generation-half" / "key").write_text("secret")
    (tmp_path / ".new-half").write_text("secret")
    with FileDirectory(tmp_path):
        assert seen(tmp_path) == {"key": "1", "cert": "1"}
    assert not list(tmp_path.glob(".*half"))


def test_links_become_plain_files_and_back(tmp_path: Path) -> None:
    for linked in (True, False, True):
        with FileDirectory(tmp_path, linked=linked) as directory:
            directory.place(a_set(str(linked)))
        assert seen(tmp_path) == {"key": str(linked), "cert": str(linked)}
        assert len(list(tmp_path.glob(".generation-*"))) == linked


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    with FileDirectory(tmp_path), pytest.raises(VestibuleError) as raised, FileDirectory(tmp_path):
        pass
    assert raised.value.code is ANOTHER_WRITER
    with FileDirectory(tmp_path):
        pass


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as raised, FileDirectory(tmp_path / "nowhere"):
        pass
    assert raised.value.code is NOT_WRITTEN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
@pytest.mark.parametrize("linked", [True, False])
def test_files_are_given_to_others_before_they_can_be_seen(tmp_path: Path, linked: bool) -> None:
    with FileDirectory(tmp_path, owner=Owner(uid=65534, gid=65534), linked=linked) as directory:
        directory.place(a_set("1"))
    assert {
        ((tmp_path / name).stat().st_uid, (tmp_path / name).stat().st_gid) for name in ("key", "cert")
    } == {(65534, 65534)}


def test_a_directory_in_which_anybody_may_replace_files_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(VestibuleError, match="everybody"), FileDirectory(tmp_path):
        pass
    tmp_path.chmod(0o1777)
    with FileDirectory(tmp_path):
        pass


def test_nobody_else_puts_files_in_a_set_whoever_may_write_beside_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with FileDirectory(tmp_path) as directory:
        directory.place(a_set("1"))
    made = (tmp_path / "current").resolve()
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links that are somebody else's")
def test_a_link_that_somebody_else_put_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cert").symlink_to("current/cert")
    os.lchown(tmp_path / "cert", 65534, 65534)
    with FileDirectory(tmp_path) as directory:
        directory.place(a_set("1"))
    assert (tmp_path / "cert").lstat().st_uid == os.geteuid()
    assert (tmp_path / "cert").read_text() == "1"
