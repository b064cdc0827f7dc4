"""Listening TCP sockets, bound by us so that a taken port or a wrong address is explained, not traced."""

from __future__ import annotations

import errno
import socket
from typing import Final

from vestibule.net.codes import CANNOT_LISTEN, PORT_IN_USE

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
