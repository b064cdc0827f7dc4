"""Accepting connections without TLS, so that none is left open when nobody accepts any more.

asyncio's own server forgets whom it accepted in the moment in which it is closed: such a connection is never made, and
its peer waits for an answer until it gives up by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

WAITING: Final = 1024
EXHAUSTED_PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

_log = logging.getLogger(__name__)


class PlainListener:
    """Accepts on one listening socket until closed; ``close`` does not touch connections that were made."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._sock = sock
        self._protocol = protocol
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._sock.setblocking(False)
        self._sock.listen(WAITING)
        self._accepting = asyncio.create_task(self._accept(), name="accept")

    def close(self) -> None:
        """Accept no more."""
        if self._accepting is not None:
            self._accepting.cancel()
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                if self._sock.fileno() < 0:
                    return
                # No descriptors or memory left, or a client that was gone before we came.
                _log.warning("cannot accept a connection: %s", error.strerror or error)
                await asyncio.sleep(EXHAUSTED_PAUSE)
                continue
            try:
                # Cancelled meanwhile, it closes what it has begun.
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError as error:
                _log.debug("a connection ended before it began: %s", error)
                connection.close()
