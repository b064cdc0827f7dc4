"""Listening TCP sockets and private directories, made by us so that a failure is explained, not traced."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from vestibule.net.codes import CANNOT_LISTEN, PORT_IN_USE, SOCKET_PATH

BACKLOG: Final = 1024


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the kernel choose.  Raises: VST2320, VST2321."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CANNOT_LISTEN.error(f"{host!r} is not an address of this machine: {error}") from error
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PORT_IN_USE.error(f"port {port} on {host} is in use by another process") from error
        raise CANNOT_LISTEN.error(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


def private_directory(path: Path) -> Path:
    """Create ``path`` with mode 0700, or check that an existing one is ours and closed to others.

    Raises: VST2310.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except OSError as error:
        raise SOCKET_PATH.error(f"cannot create the directory {path}: {error.strerror}") from error
    mode = facts.st_mode & 0o777
    if facts.st_uid != os.geteuid() or mode & 0o077:
        raise SOCKET_PATH.error(
            f"the directory {path} is open to other users (owner {facts.st_uid}, mode {mode:o})",
            advice=f"Make it private: let the user that runs this own it, and chmod 700 {path}.",
        )
    return path
