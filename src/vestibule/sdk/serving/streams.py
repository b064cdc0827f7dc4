"""Servers of asyncio's streams with library mTLS.

::

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = vestibule.sdk.streams.caller(writer)
        ...


    async with await vestibule.sdk.streams.start_server(
        answer, "127.0.0.1", 8443, source, authorize
    ) as server:
        await server.serve_forever()
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self
from weakref import ref

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.connections import Lifetimes, connection_of
from vestibule.sdk.serving.held import Held
from vestibule.sdk.serving.listening import HANDSHAKE_TIMEOUT, Listeners, bound
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import server_context
from vestibule.spiffe import SpiffeId

LIMIT: Final = 64 * 1024
GRACE: Final = 10.0
"""Seconds that a stopping server leaves to the handlers that run."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def start_server(
    handler: Handler,
    host: str | None,
    port: int,
    source: X509Source,
    authorize: Authorizer,
    *,
    on_retire: Callable[[asyncio.StreamWriter], None] | None = None,
    patience: float = HANDSHAKE_TIMEOUT,
    lifetimes: Lifetimes | None = None,
    limit: int = LIMIT,
) -> StreamServer:
    """Call ``handler`` for each connection of a peer that ``authorize`` wants; it is closed when that returns.

    Halfway to the end of its certificates a connection should end: ``retiring(writer)`` is set then, and ``on_retire``
    is called with the writer.  One that goes on nevertheless is cut shortly before the end, or when a certificate was
    revoked or our identity withdrawn: its reader raises ``ConnectionAbortedError``, whose cause says why.

    ``host`` None for all addresses; port 0 lets the kernel choose.  ``patience`` is how many seconds a handshake may
    take; ``limit`` as for ``asyncio.start_server``.  Raises: VST2320, VST2321.
    """
    server = StreamServer(handler, on_retire, limit)

    def connection() -> _Connection:
        return _Connection(server, source, lifetimes)

    server.listeners = Listeners([bound(host, port)], server_context(source, authorize), connection, patience)
    server.listeners.start()
    return server


def caller(writer: asyncio.StreamWriter) -> SpiffeId:
    """The verified SPIFFE ID at the other end.  Raises: VST2405 for a connection of another context than the SDK's."""
    return connection_of(writer.get_extra_info("ssl_object")).peer


def retiring(writer: asyncio.StreamWriter) -> asyncio.Event:
    """Is set when a connection of ``start_server`` should end soon: its certificates do, or the server stops."""
    protocol = writer.transport.get_protocol()
    assert isinstance(protocol, _Connection), "a connection of start_server"
    return protocol.held.retiring


class StreamServer:
    """Listens until closed.  Leaving its block closes it, and leaves ``GRACE`` seconds to the handlers."""

    listeners: Listeners

    def __init__(
        self, handler: Handler, on_retire: Callable[[asyncio.StreamWriter], None] | None, limit: int
    ) -> None:
        self.limit = limit
        self.on_retire = on_retire
        self._handler = handler
        self._connections: dict[asyncio.Task[None], Held] = {}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens."""
        return self.listeners.sockets

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self.sockets[0].getsockname()[1]
        return found

    def close(self) -> None:
        """Take no new connection, and ask those that there are to end."""
        self.listeners.close()
        for each in list(self._connections.values()):
            each.retire()

    async def wait_closed(self, grace: float = GRACE) -> None:
        """Until every handler is done; those that are not within ``grace`` seconds are cancelled."""
        if running := set(self._connections):
            await asyncio.wait(running, timeout=grace)
        left = set(self._connections)
        for each in left:
            each.cancel()
        if left:
            await asyncio.wait(left)

    async def serve_forever(self) -> None:
        """Until cancelled."""
        await asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    def begin(self, held: Held, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection is there."""
        task = asyncio.create_task(self._handle(reader, writer), name=f"stream-of-{held.connection.peer}")
        self._connections[task] = held
        task.add_done_callback(self._done)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        finally:
            writer.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if task.cancelled() or (failure := task.exception()) is None or isinstance(failure, ConnectionError):
            return
        asyncio.get_running_loop().call_exception_handler(
            {"message": "the handler of a connection failed", "exception": failure, "task": task}
        )


class _Connection(asyncio.StreamReaderProtocol):
    held: Held

    def __init__(self, server: StreamServer, source: X509Source, lifetimes: Lifetimes | None) -> None:
        reader = asyncio.StreamReader(limit=server.limit)
        super().__init__(reader, self._connected)
        self._server = server
        self._source = source
        self._lifetimes = lifetimes
        self._reader = ref(reader)
        self._writer: ref[asyncio.StreamWriter] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.held = Held(self._source, transport.get_extra_info("ssl_object"), self, self._lifetimes)
        self._made: Any = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.held.release()
        super().connection_lost(exc)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = ref(writer)
        self._server.begin(self.held, reader, writer)

    def retire(self) -> None:
        writer = self._writer() if self._writer is not None else None
        if self._server.on_retire is not None and writer is not None:
            self._server.on_retire(writer)

    def press(self) -> None:
        """What is spoken is the application's business, which was told."""

    def cut(self, reason: VestibuleError) -> None:
        if (reader := self._reader()) is not None:
            aborted = ConnectionAbortedError(str(reason))
            aborted.__cause__ = reason
            reader.set_exception(aborted)
        self._made.abort()
