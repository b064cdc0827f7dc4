"""gRPC channels over local sockets: by path, or over a socket that is connected already."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import grpclib.client
from grpclib.protocol import H2Protocol

from vestibule.net.codes import UNREACHABLE
from vestibule.net.unix import check_path


class CheckedChannel(grpclib.client.Channel):
    """A channel that notices a connection which ended between being made and being used."""

    async def __connect__(self) -> H2Protocol:
        protocol = await super().__connect__()
        if protocol.connection.is_closing():
            raise ConnectionResetError("the other side closed the connection at once")
        return protocol


def unix_channel(path: Path) -> grpclib.client.Channel:
    """A channel to a Unix socket; connects at the first call, and again after a lost connection.

    Raises: VST2310 for a path that no Unix socket can have.
    """
    check_path(path)
    return CheckedChannel(path=os.fspath(path))


def connected_channel(sock: socket.socket) -> grpclib.client.Channel:
    """A channel over an already connected socket, such as one end of a socketpair, which it owns from now on.

    It lives as long as that connection: calls after its end raise VST2300.
    """
    return _Connected(sock)


class _Connected(CheckedChannel):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(path="connected")
        sock.setblocking(False)
        self._socket: socket.socket | None = sock

    async def _create_connection(self) -> H2Protocol:
        sock, self._socket = self._socket, None
        if sock is None:
            raise UNREACHABLE.error("the other end of the inherited connection is closed")
        made: tuple[Any, H2Protocol] = await asyncio.get_running_loop().create_unix_connection(
            self._protocol_factory, sock=sock
        )
        return made[1]

    def close(self) -> None:
        """Close the connection, or the socket if no call was ever made."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        super().close()
