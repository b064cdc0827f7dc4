"""Local TCP ports, kept for whoever will listen on them."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from vestibule.processes.codes import PORT_IN_USE


@dataclass(slots=True)
class Reservation:
    """A port that is ours before, between and after the lives of the process that listens on it.

    The socket is bound but never listens, so it takes no connection.  It is bound *exclusively*, and only then
    marked SO_REUSEADDR.  The kernel then gives the port to nobody by itself, and a second reservation fails; but a
    process that sets SO_REUSEADDR, as Envoy does, can bind it too, and once that listens, nobody else can.
    """

    host: str
    port: int
    _socket: socket.socket | None

    def release(self) -> None:
        """Give the port to a process that may bind without SO_REUSEADDR."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def reserve(host: str = "127.0.0.1", port: int = 0) -> Reservation:
    """Reserve a port; 0 lets the kernel choose a free one.  Raises: VST7005."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.bind((host, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return Reservation(host, held.getsockname()[1], held)
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is taken by another process"
        else:
            message = f"cannot bind {host}:{port}: {error.strerror}"
        raise PORT_IN_USE.error(
            message, advice=PORT_IN_USE.advice.replace("PORT", str(port)) if port else None
        ) from error


def reserve_preferably(host: str, port: int) -> Reservation:
    """The preferred port where it is free, else any.  Raises: VST7005 where none can be had."""
    try:
        return reserve(host, port)
    except Exception as error:
        if getattr(error, "code", None) is not PORT_IN_USE:
            raise
        return reserve(host)
