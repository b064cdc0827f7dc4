"""ASGI apps behind library mTLS, served by uvicorn.

::

    async with X509Source() as source:
        await vestibule.sdk.uvicorn.serve(app, source, authorize_ids(ORDERS), port=8443)

HTTP/1.1 and WebSocket; for HTTP/2 there is ``vestibule.sdk.hypercorn``.  Who calls: ``vestibule.sdk.asgi.caller``.
Needs uvicorn, which is not part of the base installation.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.connections import Lifetimes
from vestibule.sdk.serving.held import Held
from vestibule.sdk.serving.identified import Identified
from vestibule.sdk.serving.listening import HANDSHAKE_TIMEOUT, Listeners, bound
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import server_context

LINGER: Final = 1.0
"""Seconds that a stopping server leaves kept connections open, for a request that may be on its way already."""

_log: Final = logging.getLogger("vestibule.sdk.serving")


def run(app: Any, source: X509Source, authorize: Authorizer, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM; ``options`` as for ``Server``.  For programs without an event loop."""
    Server(app, source, authorize, **options).run()


async def serve(app: Any, source: X509Source, authorize: Authorizer, **options: Any) -> None:
    """Serve until SIGINT, SIGTERM, or cancelled; ``options`` as for ``Server``."""
    await Server(app, source, authorize, **options).serve()


class Server(uvicorn.Server):
    """uvicorn's server, whose connections are made with what ``source`` holds, by peers that ``authorize`` wants.

    ``source`` is entered already, in this event loop or in a thread (``with X509Source() as source``).
    ``patience`` is how many seconds a handshake may take, ``lifetimes`` when connections are retired (the source's
    policy unless given); ``on_ready`` is told the address once it listens.  ``options`` are those of
    ``uvicorn.Config``, without ``workers`` and ``reload``, for which there is ``vestibule.sdk.gunicorn``, and without
    those of TLS.  Headers of proxies are not believed unless ``proxy_headers`` says so.

    Connections whose certificates near their end are answered with ``Connection: close``; a WebSocket is closed with
    1012 (come again) unless the app ended it before (``vestibule.sdk.asgi.retiring``).  What still runs when a
    certificate ends, or was revoked, is cut.
    """

    def __init__(
        self,
        app: Any,
        source: X509Source,
        authorize: Authorizer,
        *,
        host: str | None = "127.0.0.1",
        port: int = 8443,
        patience: float = HANDSHAKE_TIMEOUT,
        lifetimes: Lifetimes | None = None,
        on_ready: Callable[[tuple[str, int]], None] | None = None,
        **options: Any,
    ) -> None:
        """Raises: ValueError for an option that would do something else than is promised here."""
        _check(options)
        super().__init__(
            uvicorn.Config(app, host=cast(str, host), port=port, **{"proxy_headers": False, **options})
        )
        self._source = source
        self._context = server_context(source, authorize)
        self._patience = patience
        self._lifetimes = lifetimes
        self._on_ready = on_ready
        self.listeners: Listeners | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens, once it is ``started``."""
        return self.listeners.sockets if self.listeners is not None else ()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal ends ``serve``, and what stands around it ends in order; uvicorn itself would send it once more."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises: VST2320, VST2321 (the port)."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        try:
            listening = sockets or [bound(self.config.host, self.config.port)]
        except BaseException:
            await self.lifespan.shutdown()
            raise
        self.listeners = Listeners(listening, self._context, self._protocols(), self._patience)
        self.servers = cast(Any, [self.listeners])
        self.listeners.start()
        self.started = True
        for each in listening:
            _log.info("serving on %s with library mTLS", each.getsockname())
        if self._on_ready is not None:
            self._on_ready(listening[0].getsockname()[:2])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection; have the open ones end after what they are answering."""
        if self.listeners is not None:
            self.listeners.close()
        for each in list(self.server_state.connections):
            cast(Any, each).held.retire()
        await self._linger()
        await super().shutdown(sockets)

    async def _linger(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + LINGER
        while self.server_state.connections and not self.force_exit and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _protocols(self) -> Callable[[], asyncio.Protocol]:
        def hold(transport: asyncio.BaseTransport, protocol: Any) -> Held:
            return Held(self._source, transport.get_extra_info("ssl_object"), protocol, self._lifetimes)

        config = self.config
        if config.ws_protocol_class is not None:
            config.ws_protocol_class = cast(Any, _held(config.ws_protocol_class, hold))
        spoken = _held(config.http_protocol_class, hold)
        state, app_state = self.server_state, self.lifespan.state
        return lambda: spoken(config=config, server_state=state, app_state=app_state)


def _check(options: dict[str, Any]) -> None:
    for name in sorted(options):
        if name.startswith("ssl_") or name in ("uds", "fd"):
            raise ValueError(f"{name} has no meaning here: the source tells what TLS needs")
    if options.get("workers") not in (None, 1) or options.get("reload"):
        raise ValueError("one process serves: for several there is vestibule.sdk.gunicorn")
    if "zttp" in str(options.get("http")):
        raise ValueError("uvicorn's zttp is not supported here; for HTTP/2 there is vestibule.sdk.hypercorn")


def _held(spoken: Any, hold: Callable[[asyncio.BaseTransport, Any], Held]) -> Any:
    """One of uvicorn's protocols, of HTTP or of WebSocket, whose connection is held."""

    class Watched(spoken):  # type: ignore[misc]
        held: Held
        app: Any

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            # A WebSocket takes over what its first request came on.
            before: Held | None = getattr(transport.get_protocol(), "held", None)
            self.held = before or hold(transport, self)
            self.held.owner = self
            self.app = Identified(self.app, self.held)

        def connection_lost(self, exc: Exception | None) -> None:
            self.held.release()
            super().connection_lost(exc)

        def retire(self) -> None:
            """The next answer says that it is the last one; see ``Identified``."""

        def press(self) -> None:
            # As uvicorn stops: an idle connection ends, a busy one after its answer, a WebSocket by 1012.
            self.shutdown()

        def cut(self, _reason: VestibuleError) -> None:
            self.transport.abort()

    return Watched
