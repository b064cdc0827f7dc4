"""gRPC channels over local sockets: by path, or over a socket that is connected already."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import grpclib.client
from grpclib.protocol import EventsProcessor, H2Protocol
from h2.errors import ErrorCodes
from h2.events import StreamReset

from vestibule.net.codes import UNREACHABLE
from vestibule.net.unix import check_path


class CheckedChannel(grpclib.client.Channel):
    """A channel that notices a connection which ended between being made and being used.

    An answer that is complete is kept, though the server then resets the stream without an error: that only says
    that it needs to hear no more (RFC 9113, section 8.1).  Servers in Go do so at the end of every stream whose client
    has not ended its own half.
    """

    async def __connect__(self) -> H2Protocol:
        protocol = await super().__connect__()
        if protocol.connection.is_closing():
            raise ConnectionResetError("the other side closed the connection at once")
        _keep_answers(protocol.processor)
        return protocol


def _keep_answers(processor: EventsProcessor) -> None:
    known, failed = processor.processors, processor.process_stream_reset
    if known[StreamReset] != failed:  # done at an earlier call
        return

    def reset(event: StreamReset) -> None:
        stream = processor.streams.get(event.stream_id)
        complete = stream is not None and stream.trailers_received.is_set()
        if not (complete and event.remote_reset and event.error_code == ErrorCodes.NO_ERROR):
            failed(event)

    known[StreamReset] = reset


def unix_channel(path: Path) -> grpclib.client.Channel:
    """A channel to a Unix socket; connects at the first call, and again after a lost connection.

    Raises: VST2310 for a path that no Unix socket can have; calls raise VST2300 when nobody answers there.
    """
    check_path(path)
    return _ByPath(path)


class _ByPath(CheckedChannel):
    def __init__(self, path: Path) -> None:
        super().__init__(path=os.fspath(path))
        self._where = path

    async def _create_connection(self) -> H2Protocol:
        try:
            return await super()._create_connection()
        except FileNotFoundError as error:
            raise UNREACHABLE.error(f"there is no socket at {self._where}") from error
        except ConnectionRefusedError as error:
            raise UNREACHABLE.error(f"nobody listens at {self._where}") from error
        except PermissionError as error:
            raise UNREACHABLE.error(
                f"this user may not open {self._where}",
                advice="Run the command as the user that owns the socket, or as root.",
            ) from error
        except OSError as error:
            raise UNREACHABLE.error(f"cannot connect to {self._where}: {error.strerror or error}") from error


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
        loop = asyncio.get_running_loop()
        create = loop.create_unix_connection if sock.family is socket.AF_UNIX else loop.create_connection
        made: tuple[Any, H2Protocol] = await create(self._protocol_factory, sock=sock)
        return made[1]

    def close(self) -> None:
        """Close the connection, or the socket if no call was ever made."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        super().close()
