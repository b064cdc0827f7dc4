"""Accepting connections whose TLS handshake may never end, so that they cost little and nobody has all the places.

asyncio's own server starts a handshake for whoever connects, and each holds a descriptor until its time is over.  Here
they are counted per host and altogether, and one too many is closed at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from vestibule.net.codes import TOO_MUCH_AT_ONCE
from vestibule.net.quotas import source_of

HANDSHAKE_TIMEOUT: Final = 10.0
UNFINISHED_PER_SOURCE: Final = 64
UNFINISHED: Final = 1024
EXHAUSTED_PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptor left."""

_log = logging.getLogger(__name__)


class TlsListener:
    """Accepts on one listening socket until closed; ``close`` does not touch connections that were made."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        *,
        per_source: int = UNFINISHED_PER_SOURCE,
        altogether: int = UNFINISHED,
        timeout: float = HANDSHAKE_TIMEOUT,
        on_refused: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """``on_refused`` is told of each handshake that failed: the host it came from, and why."""
        self._sock = sock
        self._context = context
        self._protocol = protocol
        self._per_source = per_source
        self._altogether = altogether
        self._timeout = timeout
        self._on_refused = on_refused
        self._unfinished: Counter[str] = Counter()
        self._told: set[str] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepted: set[socket.socket] = set()
        self._accepting: asyncio.Task[None] | None = None

    @property
    def unfinished(self) -> int:
        """How many handshakes are under way."""
        return self._unfinished.total()

    def start(self) -> None:
        """Begin to accept."""
        self._sock.setblocking(False)
        self._sock.listen(1024)
        self._accepting = asyncio.create_task(self._accept(), name="accept-tls")

    def close(self) -> None:
        """Accept no more, and end the handshakes that are under way."""
        for task in (self._accepting, *self._handshakes):
            if task is not None:
                task.cancel()
        # Their tasks have not begun, and never will.
        for connection in self._accepted:
            connection.close()
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await self._next()
            except OSError as error:
                if self._sock.fileno() < 0:
                    return
                # No descriptors or memory left, or a client that was gone before we came.
                _log.warning("cannot accept a connection: %s", error.strerror or error)
                await asyncio.sleep(EXHAUSTED_PAUSE)
                continue
            source = source_of(str(address[0]))
            if self._unfinished[source] >= self._per_source or self.unfinished >= self._altogether:
                connection.close()
                self._tell(source)
                continue
            self._unfinished[source] += 1
            self._accepted.add(connection)
            task = loop.create_task(self._shake_hands(connection, source), name="tls-handshake")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _next(self) -> tuple[socket.socket, Any]:
        """Nothing is awaited after a connection was taken: whoever were cancelled there would lose it, open."""
        while True:
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                await _readable(self._sock)
            else:
                connection.setblocking(False)
                return connection, address

    async def _shake_hands(self, connection: socket.socket, source: str) -> None:
        loop = asyncio.get_running_loop()
        self._accepted.discard(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=self._timeout
            )
        except (OSError, ssl.SSLError) as error:
            # Whoever does not finish has its own reasons: a health probe, an expired certificate, an attack.
            _log.debug("no TLS handshake with %s: %s", source, error)
            connection.close()
            if self._on_refused is not None:
                self._on_refused(source, error)
        finally:
            self._unfinished[source] -= 1
            if not self._unfinished[source]:
                del self._unfinished[source]
                self._told.discard(source)

    def _tell(self, source: str) -> None:
        if source not in self._told:
            self._told.add(source)
            _log.warning(
                "%s has %d unfinished TLS handshakes of %d altogether: more are closed at once (%s)",
                source,
                self._unfinished[source],
                self.unfinished,
                TOO_MUCH_AT_ONCE.code,
            )


async def _readable(sock: socket.socket) -> None:
    loop, descriptor = asyncio.get_running_loop(), sock.fileno()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
