import os
import socket
import stat
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.net.codes import SOCKET_IN_USE, SOCKET_PATH
from vestibule.net.unix import MAX_PATH_BYTES, PRIVATE, PUBLIC, check_path, listen_unix


@pytest.mark.parametrize("mode", [PRIVATE, PUBLIC])
def test_the_mode_is_as_asked_whatever_the_umask(short_dir: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listener = listen_unix(short_dir / "s", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((short_dir / "s").stat().st_mode) == mode
    listener.close()


def test_closing_removes_the_file_and_may_be_repeated(short_dir: Path) -> None:
    listener = listen_unix(short_dir / "s", PRIVATE)
    listener.close()
    listener.close()
    assert not (short_dir / "s").exists()


def test_a_left_over_socket_is_replaced(short_dir: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(short_dir / "s"))
    dead.close()
    listener = listen_unix(short_dir / "s", PRIVATE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(short_dir / "s"))
    listener.close()


def test_a_socket_that_answers_is_left_alone(short_dir: Path) -> None:
    first = listen_unix(short_dir / "s", PRIVATE)
    with pytest.raises(VestibuleError) as refusal:
        listen_unix(short_dir / "s", PRIVATE)
    assert refusal.value.code is SOCKET_IN_USE
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(short_dir / "s"))
    first.close()


def test_closing_spares_a_socket_that_took_the_name_since(short_dir: Path) -> None:
    first = listen_unix(short_dir / "s", PRIVATE)
    (short_dir / "s").unlink()
    second = listen_unix(short_dir / "s", PRIVATE)
    first.close()
    assert (short_dir / "s").exists()
    second.close()


def test_a_file_that_is_no_socket_is_never_removed(short_dir: Path) -> None:
    (short_dir / "s").write_text("precious")
    with pytest.raises(VestibuleError) as refusal:
        listen_unix(short_dir / "s", PRIVATE)
    assert refusal.value.code is SOCKET_PATH
    assert (short_dir / "s").read_text() == "precious"


def test_a_missing_directory_is_named(short_dir: Path) -> None:
    with pytest.raises(VestibuleError, match="No such file") as refusal:
        listen_unix(short_dir / "no" / "s", PRIVATE)
    assert refusal.value.code is SOCKET_PATH


def test_a_path_of_107_bytes_works_and_one_of_108_is_explained(short_dir: Path) -> None:
    longest = short_dir / ("x" * (MAX_PATH_BYTES - len(os.fsencode(short_dir)) - 1))
    listen_unix(longest, PRIVATE).close()
    with pytest.raises(VestibuleError, match="108 bytes") as refusal:
        check_path(Path(f"{longest}x"))
    assert refusal.value.code is SOCKET_PATH


def test_who_stops_late_leaves_the_socket_of_its_successor(short_dir: Path) -> None:
    """File systems give the number of a file that was removed to the next one; that does not make it the same."""
    path = short_dir / "s"
    for _ in range(50):
        before = listen_unix(path, PRIVATE)
        before.sock.close()
        after = listen_unix(path, PRIVATE)
        before.close()
        assert path.is_socket()
        before.close()
        after.close()
        assert not path.exists()
