"""ASGI apps behind library mTLS, served by hypercorn: HTTP/2, HTTP/1.1 and WebSocket on one port.

::

    async with X509Source() as source:
        await vestibule.sdk.hypercorn.serve(app, source, authorize_ids(ORDERS), port=8443)

Who calls: ``vestibule.sdk.asgi.caller``.  Needs hypercorn, which is not part of the base installation.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from h2.events import PingAckReceived
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.utils import wrap_app

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.connections import Lifetimes
from vestibule.sdk.serving.farewell import LINGER, PING, Leaving, announcement, farewell, question
from vestibule.sdk.serving.held import Held
from vestibule.sdk.serving.identified import closing
from vestibule.sdk.serving.listening import HANDSHAKE_TIMEOUT, Listeners, bound
from vestibule.sdk.serving.websockets import WebSockets
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import server_context

_log: Final = logging.getLogger("vestibule.sdk.serving")

Stop = Callable[[], Awaitable[Any]]


async def serve(
    app: Any,
    source: X509Source,
    authorize: Authorizer,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8443,
    config: Config | None = None,
    patience: float = HANDSHAKE_TIMEOUT,
    lifetimes: Lifetimes | None = None,
    stop: Stop | None = None,
    on_ready: Callable[[tuple[str, int]], None] | None = None,
) -> None:
    """Serve an ASGI app to peers that ``authorize`` wants, until ``stop()`` returns: at SIGINT or SIGTERM unless given.

    ``config`` is hypercorn's; what it says about addresses, workers and TLS counts for nothing.  ``patience`` is how
    many seconds a handshake may take, ``lifetimes`` when connections are retired (the source's policy unless given),
    ``on_ready`` is told the address once it listens.

    Connections whose certificates near their end are left with GOAWAY (HTTP/2, between requests if there is a moment)
    or ``Connection: close``; a WebSocket is closed with 1012 unless the app ended it before
    (``vestibule.sdk.asgi.retiring``).  What still runs when a certificate ends, or was revoked, is cut.
    Raises: VST2320, VST2321 (the port).
    """
    serving = _Serving(app, config or Config(), source, lifetimes)
    context = server_context(source, authorize)
    context.set_alpn_protocols(serving.config.alpn_protocols)
    async with serving.lifespan():
        listeners = Listeners([bound(host, port)], context, serving.connection, patience)
        listeners.start()
        try:
            _tell(listeners.sockets[0], on_ready)
            await _stopped(stop)
        finally:
            listeners.close()
            await serving.end()


def _tell(sock: socket.socket, on_ready: Callable[[tuple[str, int]], None] | None) -> None:
    address = sock.getsockname()
    _log.info("serving on %s with library mTLS", address)
    if on_ready is not None:
        on_ready(address[:2])


async def _stopped(stop: Stop | None) -> None:
    if stop is not None:
        await stop()
        return
    asked = asyncio.Event()
    with _signals(asked.set):
        await asked.wait()


@contextmanager
def _signals(tell: Callable[[], None]) -> Iterator[None]:
    loop, wanted = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    for each in wanted:
        loop.add_signal_handler(each, tell)
    try:
        yield
    finally:
        for each in wanted:
            loop.remove_signal_handler(each)


class _Serving:
    """One app and its connections."""

    def __init__(self, app: Any, config: Config, source: X509Source, lifetimes: Lifetimes | None) -> None:
        self.app = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self.config = config
        self.source = source
        self.lifetimes = lifetimes
        self.context = WorkerContext(None)
        self.state: dict[str, Any] = {}
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Between the app's startup and its shutdown."""
        loop = asyncio.get_running_loop()
        lifespan = Lifespan(self.app, self.config, loop, self.state)
        task = loop.create_task(lifespan.handle_lifespan(), name="lifespan")
        try:
            await lifespan.wait_for_startup()
            if task.done():
                task.result()
            try:
                yield
            finally:
                await lifespan.wait_for_shutdown()
        finally:
            task.cancel()
            await asyncio.wait({task})

    def connection(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        reader = asyncio.StreamReader()
        return asyncio.StreamReaderProtocol(reader, self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        task = asyncio.create_task(
            connection.serve(), name=f"connection-of-{connection.held.connection.peer}"
        )
        self._connections[task] = connection
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a connection failed", exc_info=failure)

    async def end(self) -> None:
        """Have the connections end after what they are answering, within ``config.graceful_timeout`` seconds."""
        for each in list(self._connections.values()):
            each.held.retire()
            each.leave()
        # Kept connections stay for a moment, for a request that may be on its way already.
        await self._gone(LINGER)
        await self.context.terminated.set()
        await self._gone(self.config.graceful_timeout)
        for task, connection in list(self._connections.items()):
            connection.writer.transport.abort()
            task.cancel()
        await self._gone(None)

    async def _gone(self, within: float | None) -> None:
        if running := set(self._connections):
            await asyncio.wait(running, timeout=within)


class _Connection(TCPServer):
    """One connection, which is held."""

    def __init__(self, serving: _Serving, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        app: Any = self._identified
        super().__init__(app, loop, serving.config, serving.context, serving.state, reader, writer)
        self._asked: Any = serving.app
        self._leaving = Leaving(lambda: self._is_idle, self._ping, self._leave)
        self._listens = False
        self._websockets = WebSockets()
        self.held = Held(serving.source, writer.get_extra_info("ssl_object"), self, serving.lifetimes)

    async def serve(self) -> None:
        """Until it ends."""
        try:
            await self.run()
        finally:
            self.held.release()
            self._leaving.stop()

    async def _identified(self, scope: Any, receive: Any, send: Any, *ways: Any) -> None:
        scope["extensions"] = {**(scope.get("extensions") or {}), **self.held.extensions()}
        if scope["type"] != "websocket":
            await self._asked(scope, receive, closing(self.held, scope, send), *ways)
            return
        with self._websockets.outgoing(send) as told:
            await self._asked(scope, receive, told, *ways)

    # ----------------------------------------------------------------------------------- as its owner

    def retire(self) -> None:
        if self._http2 is not None:
            self._leaving.when_quiet()

    def leave(self) -> None:
        """Once nothing runs on it."""
        if self._http2 is not None:
            self._leaving.when_idle()

    def press(self) -> None:
        for each in self._websockets.press():
            self._task_group.spawn(each.leave)
        self.leave()
        if self._http2 is not None and not self._is_idle and not self._leaving.over:
            self.writer.write(announcement())

    def cut(self, _reason: VestibuleError) -> None:
        self.writer.transport.abort()

    # ----------------------------------------------------------------------------------- HTTP/2

    async def protocol_send(self, event: Event) -> None:
        """As hypercorn has it."""
        await super().protocol_send(event)
        if isinstance(event, Updated) and event.idle:
            self._leaving.ended()

    @property
    def _http2(self) -> H2Protocol | None:
        wrapper = getattr(self, "protocol", None)
        return wrapper.protocol if wrapper is not None and isinstance(wrapper.protocol, H2Protocol) else None

    @property
    def _is_idle(self) -> bool:
        http2 = self._http2
        return http2 is not None and not http2.closed and not http2.streams

    def _ping(self) -> None:
        http2 = self._http2
        assert http2 is not None
        if not self._listens:
            self._listens = True
            self._listen(http2)
        self.writer.write(question(http2.connection))

    def _listen(self, http2: Any) -> None:
        """hypercorn has no use for the answers to a PING."""
        handle = http2._handle_events

        async def handled(events: list[Any]) -> None:
            await handle(events)
            if any(isinstance(each, PingAckReceived) and each.ping_data == PING for each in events):
                self._leaving.answered()

        http2._handle_events = handled

    def _leave(self) -> None:
        http2 = self._http2
        assert http2 is not None
        self.writer.write(farewell(http2.connection))
        # Not at once: what the client sends meanwhile would be answered by a reset, which may overtake the GOAWAY.
        self.loop.call_later(LINGER, self.reader.feed_eof)
