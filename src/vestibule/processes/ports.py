"""Local TCP ports, kept for whoever will listen on them."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.processes.codes import PORT_IN_USE

_KERNELS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FEWEST: Final = 1_000
_ATTEMPTS: Final = 100
_LISTENS: Final = "0A"


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


def retake(host: str, port: int) -> Reservation:
    """A port that others were told of, also right after whoever had it has ended: connections that it closed linger.

    While they do, it is no longer exclusive until somebody listens.  Raises: VST7005 while somebody listens there, or
    keeps it otherwise.
    """
    try:
        return reserve(host, port)
    except VestibuleError as error:
        if not _lingers(port):
            raise
        held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError:
            held.close()
            raise error from error.__cause__
        return Reservation(host, port, held)


def _lingers(port: int) -> bool:
    """Whether there are connections of whoever listened there."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if local.endswith(wanted) and state != _LISTENS:
                    return True
    return False


def reserve_preferably(host: str, port: int) -> Reservation:
    """The preferred port where it is free, else any.  Raises: VST7005 where none can be had."""
    try:
        return reserve(host, port)
    except Exception as error:
        if getattr(error, "code", None) is not PORT_IN_USE:
            raise
        return reserve(host)


def claim(host: str = "127.0.0.1") -> Reservation:
    """A port for a process that binds it itself, with or without SO_REUSEADDR, and may end and come back.

    Nothing is bound, so it has to be a port that the kernel gives to nobody by itself: neither to an outgoing
    connection nor to who asks for any port.  A Unix socket of that name keeps other claims of the same network
    namespace away until it is released.  Raises: VST7005.
    """
    for port in _outside_the_kernels():
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(f"\0vestibule-port-{port}")
            reserve(host, port).release()
        except (OSError, VestibuleError):
            held.close()
            continue
        return Reservation(host, port, held)
    # Where the kernel has nearly all ports to give, this one is likely to stay free.
    found = reserve(host)
    found.release()
    return found


def _outside_the_kernels() -> list[int]:
    """Some ports in random order, above those that the kernel gives away, else below."""
    first, last = map(int, _KERNELS.read_text(encoding="ascii").split())
    for ports in (range(last + 1, 1 << 16), range(10_000, first)):
        if len(ports) >= _FEWEST:
            return random.sample(ports, _ATTEMPTS)
    return []
