import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.net.peer import Peer, ProcessHandle
from vestibule.net.unix import PRIVATE, UnixListener, listen_unix

CONNECT_AND_WAIT = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); sys.stdin.read()"
CONNECT_AND_FORK = CONNECT_AND_WAIT.replace("sys.stdin", "os.fork() and sys.exit(); sys.stdin").replace(
    "import", "import os,"
)


@pytest.fixture
def listener(short_dir: Path) -> Iterator[UnixListener]:
    made = listen_unix(short_dir / "s", PRIVATE)
    made.sock.setblocking(True)
    made.sock.settimeout(10)
    yield made
    made.close()


@pytest.fixture
def client(listener: UnixListener) -> Iterator[subprocess.Popen[bytes]]:
    yield from started(CONNECT_AND_WAIT, listener)


def started(program: str, listener: UnixListener) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program, str(listener.path)], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def has_gone(peer: Peer) -> bool:
    try:
        peer.check()
    except VestibuleError as error:
        return error.code is PEER_GONE
    return False


def test_a_peer_is_the_connecting_process(listener: UnixListener, client: subprocess.Popen[bytes]) -> None:
    with listener.sock.accept()[0] as accepted:
        peer = Peer.of_socket(accepted)
    assert (peer.pid, peer.uid, peer.gid) == (client.pid, os.geteuid(), os.getegid())
    assert peer.start_time == ProcessHandle(client.pid).start_time
    assert Path(peer.check().link("exe")) == Path(sys.executable).resolve()
    peer.release()


def test_an_ended_peer_is_gone_even_before_it_is_reaped(
    listener: UnixListener, client: subprocess.Popen[bytes]
) -> None:
    with listener.sock.accept()[0] as accepted:
        peer = Peer.of_socket(accepted)
    pidfd = os.pidfd_open(client.pid)
    client.kill()
    select.select([pidfd], [], [], 10)
    os.close(pidfd)
    assert has_gone(peer), "a zombie answers for nobody"
    client.wait()
    assert has_gone(peer)
    peer.release()


def test_a_peer_that_ended_before_we_looked_is_gone(
    listener: UnixListener, client: subprocess.Popen[bytes]
) -> None:
    with listener.sock.accept()[0] as accepted:
        client.kill()
        client.wait()
        peer = Peer.of_socket(accepted)
    assert peer.process is None
    assert has_gone(peer)


def test_a_reused_pid_is_not_taken_for_the_peer(
    listener: UnixListener, client: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer ends and another process (here: the test's own) appears to own the number."""
    impostor = os.getpid()
    with listener.sock.accept()[0] as accepted:
        client.kill()
        client.wait()
        real_open = os.open
        monkeypatch.setattr(
            os,
            "open",
            lambda path, *args, **named: real_open(
                str(path).replace(f"/proc/{client.pid}", f"/proc/{impostor}"), *args, **named
            ),
        )
        peer = Peer.of_socket(accepted)
    assert peer.process is None, "the kernel's own handle on the peer says that it has ended"


def test_without_the_kernels_handle_another_users_process_is_still_not_the_peer() -> None:
    class OldKernelSocket:
        def getsockopt(self, _level: int, option: int, _size: int = 0) -> bytes:
            if option == socket.SO_PEERCRED:
                return b"".join(n.to_bytes(4, sys.byteorder) for n in (os.getpid(), 4_000_000, 4_000_000))
            raise OSError(92, "Protocol not available")

    assert Peer.of_socket(OldKernelSocket()).process is None


@pytest.mark.parametrize(
    ("error", "believed"), [(errno.ENOPROTOOPT, True), (errno.ESRCH, False), (errno.EMFILE, False)]
)
def test_where_the_kernel_knows_the_peer_its_word_counts(error: int, believed: bool) -> None:
    """Our own pid stands for one that was given to another process of the same user."""

    class Socket:
        def getsockopt(self, _level: int, option: int, _size: int = 0) -> bytes:
            if option == socket.SO_PEERCRED:
                ours = (os.getpid(), os.geteuid(), os.getegid())
                return b"".join(n.to_bytes(4, sys.byteorder) for n in ours)
            raise OSError(error, os.strerror(error))

    assert (Peer.of_socket(Socket()).process is not None) is believed


def test_a_child_that_inherited_the_connection_does_not_speak_for_its_parent(listener: UnixListener) -> None:
    for process in started(CONNECT_AND_FORK, listener):
        with listener.sock.accept()[0] as accepted:
            peer = Peer.of_socket(accepted)
            process.wait(60)
            assert has_gone(peer)
        peer.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_peer_that_became_another_user_is_not_answered_as_that_user(listener: UnixListener) -> None:
    becoming = CONNECT_AND_WAIT.replace("import", "import os,").replace(
        "sys.stdin",
        "sys.stdin.readline(); os.setegid(65534); os.seteuid(65534); print(flush=True); sys.stdin",
    )
    command = [sys.executable, "-c", becoming, str(listener.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with listener.sock.accept()[0] as accepted:
            peer = Peer.of_socket(accepted)
        handle = peer.check()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"now\n")
        process.stdin.flush()
        process.stdout.readline()
        assert has_gone(peer)
        with pytest.raises(VestibuleError, match="changed its user"):
            handle.status()
        process.kill()


def test_what_a_process_is_counts_only_while_it_has_the_owner_it_connected_with(
    listener: UnixListener, client: subprocess.Popen[bytes]
) -> None:
    with listener.sock.accept()[0] as accepted:
        peer = Peer.of_socket(accepted)
    handle = peer.check()
    assert handle.owner == (os.geteuid(), os.getegid())
    handle.owner = (os.geteuid() + 1, os.getegid())
    assert has_gone(peer)
    with pytest.raises(VestibuleError, match="changed its user"):
        handle.status()


def test_a_process_of_another_pid_namespace_is_refused_with_a_reason() -> None:
    peer = Peer(pid=0, uid=0, gid=0, start_time=0)
    with pytest.raises(VestibuleError, match="another PID namespace"):
        peer.check()


def test_a_released_peer_answers_nothing_more() -> None:
    left, right = socket.socketpair()
    with left, right:
        peer = Peer.of_socket(left)
    assert not has_gone(peer)
    peer.release()
    assert has_gone(peer)


def test_a_command_name_full_of_parentheses_does_not_confuse_the_reader(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    process = subprocess.Popen(
        [str(odd), "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    handle = ProcessHandle(process.pid)
    assert handle.parent_pid() == os.getpid()
    assert handle.start_time >= ProcessHandle(os.getpid()).start_time
    process.kill()
    process.communicate()
