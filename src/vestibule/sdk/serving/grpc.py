"""Servers of grpclib with library mTLS.

::

    async with vestibule.sdk.grpclib.serve([Greeter()], source, authorize, port=8443):
        await stop.wait()

Who calls: ``vestibule.sdk.grpclib.caller(stream)``, in any method.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import grpclib.server
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import AbstractHandler, EventsProcessor, H2Protocol

from vestibule.errors import VestibuleError
from vestibule.net.codes import SHUTTING_DOWN
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.connections import Lifetimes, connection_of
from vestibule.sdk.serving.farewell import LINGER, PING, Leaving, announcement, farewell, question
from vestibule.sdk.serving.held import Held
from vestibule.sdk.serving.listening import HANDSHAKE_TIMEOUT, Listeners, bound
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import server_context
from vestibule.spiffe import SpiffeId

GRACE: Final = 10.0
"""Seconds that a stopping server leaves to the calls that run."""

_LAST_WORDS: Final = 0.2
"""Seconds in which calls that are cut are told so."""


def caller(stream: Any) -> SpiffeId:
    """The verified SPIFFE ID of whoever makes this call (grpclib's server stream).

    Raises: VST2405 where the server is not one of the SDK's.
    """
    return connection_of(stream.peer._transport.get_extra_info("ssl_object")).peer


def retiring(stream: Any) -> asyncio.Event:
    """Is set when the connection of this call should end soon: its certificates do, or the server stops.

    A call that streams for long ends then, with what lets the client go on elsewhere; at the end of the certificates it
    is ended with UNAVAILABLE.
    """
    protocol = stream.peer._transport.get_protocol()
    assert isinstance(protocol, _Connection), "a call to a server of vestibule.sdk.grpclib"
    return protocol.held.retiring


@asynccontextmanager
async def serve(
    services: Collection[Any],
    source: X509Source,
    authorize: Authorizer,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8443,
    **options: Any,
) -> AsyncIterator[Server]:
    """Serve while the block is entered; leaving it takes no new call, and leaves ``GRACE`` seconds to the others.

    ``options`` as for ``Server``.  Raises: VST2320, VST2321.
    """
    server = Server(services, source, authorize, **options)
    await server.start(host, port)
    try:
        yield server
        await server.drain()
    finally:
        server.close()
        await server.wait_closed()


class Server(grpclib.server.Server):
    """grpclib's server, whose connections are made with what ``source`` holds, by peers that ``authorize`` wants.

    Connections whose certificates near their end are left with GOAWAY, between calls if there is a moment; a call that
    runs at the end, or when a certificate was revoked, is ended with UNAVAILABLE.  ``patience`` is how many seconds a
    handshake may take; other ``options`` are grpclib's (``codec``, ``config``).
    """

    def __init__(
        self,
        services: Collection[Any],
        source: X509Source,
        authorize: Authorizer,
        *,
        patience: float = HANDSHAKE_TIMEOUT,
        lifetimes: Lifetimes | None = None,
        **options: Any,
    ) -> None:
        super().__init__(services, **options)
        self._source = source
        self._patience = patience
        self._lifetimes = lifetimes
        self._context = server_context(source, authorize)
        self._context.set_alpn_protocols(["h2"])
        self._connections: set[_Connection] = set()
        self.listeners: Listeners | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens, once started."""
        return self.listeners.sockets if self.listeners is not None else ()

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self.sockets[0].getsockname()[1]
        return found

    async def start(self, host: str | None = "127.0.0.1", port: int | None = 8443, **_unused: Any) -> None:
        """Listen; ``host`` None for all addresses, port 0 lets the kernel choose.  Raises: VST2320, VST2321."""
        if _unused:
            raise ValueError(f"{', '.join(_unused)}: this server listens on TCP, and its TLS is the source's")
        if self.listeners is not None:
            raise RuntimeError("the server is started already")
        self.listeners = Listeners([bound(host, port or 0)], self._context, self._connection, self._patience)
        self.listeners.start()

    async def drain(self, grace: float = GRACE) -> None:
        """Take no new connection, and leave ``grace`` seconds to the calls that run; clients are told to go."""
        self._stop_listening()
        for each in list(self._connections):
            each.held.retire()
            each.leave()
        try:
            async with asyncio.timeout(grace):
                while self._connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass

    def close(self) -> None:
        """End every call that is left, with UNAVAILABLE, and all connections."""
        self._stop_listening()
        for each in list(self._connections):
            each.cut(SHUTTING_DOWN.error("the server is shutting down"))

    async def wait_closed(self) -> None:
        """Until everything has ended."""
        while self._connections:  # noqa: ASYNC110 - grpclib tells nobody when a handler has ended
            await asyncio.sleep(0.02)
        for handler in list(self._handlers):
            await handler.wait_closed()

    def _stop_listening(self) -> None:
        if self.listeners is not None:
            self.listeners.close()

    def _connection(self) -> _Connection:
        inner = self._protocol_factory()
        return _Connection(inner, self._source, self._lifetimes, self._connections)


class _Connection(H2Protocol):
    held: Held

    def __init__(
        self,
        inner: H2Protocol,
        source: X509Source,
        lifetimes: Lifetimes | None,
        connections: set[_Connection],
    ) -> None:
        super().__init__(inner.handler, inner.config, inner.h2_config)
        self._source = source
        self._lifetimes = lifetimes
        self._connections = connections
        self._leaving = Leaving(lambda: self.is_idle, self._ping, self._leave)
        self._left = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        self.processor = _Processor(self.handler, self.connection, self._leaving)
        self._connections.add(self)
        self.held = Held(self._source, transport.get_extra_info("ssl_object"), self, self._lifetimes)

    def data_received(self, data: bytes) -> None:
        # After the last GOAWAY nothing counts any more.
        if not self._left:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.held.release()
        self._leaving.stop()
        self._connections.discard(self)
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no call runs on it."""
        return not self.processor.streams

    def retire(self) -> None:
        self._leaving.when_quiet()

    def leave(self) -> None:
        """Once no call runs on it."""
        self._leaving.when_idle()

    def press(self) -> None:
        self.leave()
        if not self._left and not self.is_idle:
            self._transport.write(announcement())

    def cut(self, reason: VestibuleError) -> None:
        for stream in list(self.processor.streams.values()):
            if stream.wrapper is not None:
                stream.wrapper.cancel(cast(Any, GRPCError(Status.UNAVAILABLE, str(reason))))
        self._left = True
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._abort)

    def _ping(self) -> None:
        if not self.connection.is_closing():
            self._transport.write(question(self.connection._connection))

    def _leave(self) -> None:
        if self._left or self.connection.is_closing():
            return
        self._left = True
        self._transport.write(farewell(self.connection._connection))
        # Not at once: what the client sends meanwhile would be answered by a reset, which may overtake the GOAWAY.
        asyncio.get_running_loop().call_later(LINGER, self._transport.close)

    def _abort(self) -> None:
        self._left = True
        if not self._transport.is_closing():
            self._transport.write(farewell(self.connection._connection))
            self.processor.close("cut")
        self._transport.abort()


class _Processor(EventsProcessor):
    """Tells when a call has ended, and a PING was answered."""

    def __init__(self, handler: AbstractHandler, connection: Any, leaving: Leaving) -> None:
        super().__init__(handler, connection)
        self._leaving = leaving

    def register(self, stream: Any) -> Callable[[], None]:
        release = super().register(stream)

        def released() -> None:
            release()
            self._leaving.ended()

        return released

    def process_ping_ack_received(self, event: Any) -> None:
        super().process_ping_ack_received(event)
        if event.ping_data == PING:
            self._leaving.answered()
