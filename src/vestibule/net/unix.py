"""Unix sockets made safely: the right mode from the first instant, no live socket ever displaced."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.net.codes import SOCKET_IN_USE, SOCKET_PATH

MAX_PATH_BYTES: Final = 107
"""``sun_path`` of ``struct sockaddr_un`` holds 108 bytes, the last of which is the terminator."""

PUBLIC: Final = 0o777
PRIVATE: Final = 0o600


class UnixListener:
    """A listening Unix socket.  ``close`` also removes its file, unless another socket took the name since."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self.path = path
        # Held, since the number of a file that is gone may be given to the one that takes its name.
        self._file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self) -> None:
        """Stop listening and remove the file.  Safe to call twice."""
        self.sock.close()
        if self._file < 0:
            return
        # Removed by someone else, or its directory is gone: then there is nothing left to remove.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file), os.lstat(self.path)):
                self.path.unlink()
        os.close(self._file)
        self._file = -1


def check_path(path: Path) -> None:
    """Raises: VST2310 if no Unix socket can have this path because of its length."""
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise SOCKET_PATH.error(
            f"the socket path {path} has {length} bytes; the operating system allows {MAX_PATH_BYTES}"
        )


def listen_unix(path: Path, mode: int, *, backlog: int = 512) -> UnixListener:
    """Bind and listen at ``path``.

    A socket file that nobody answers is left over from a crash and is replaced; one that answers is
    left alone.  The mode holds from the moment the file appears, whatever the umask is.
    Raises: VST2310 (path unusable), VST2311 (somebody answers there).
    """
    check_path(path)
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Linux takes the file's mode from the socket's inode (less the umask, which chmod then undoes):
        # so the file never exists with a looser mode than asked for.
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        path.chmod(mode)
        sock.listen(backlog)
        return UnixListener(sock, path)
    except OSError as error:
        sock.close()
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> VestibuleError:
    if error.errno == errno.EADDRINUSE:
        return SOCKET_IN_USE.error(f"another process has just bound {path}")
    return SOCKET_PATH.error(f"cannot listen on {path}: {error.strerror}")


def _clear_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from error
    if not stat.S_ISSOCK(mode):
        raise SOCKET_PATH.error(f"{path} exists and is not a socket; it is left alone")
    if _answers(path):
        raise SOCKET_IN_USE.error(f"another process answers on {path}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(path, error) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # A full backlog (EAGAIN) or a socket we may not open: someone is there.
            return True
    return True
