"""WSGI and ASGI apps behind library mTLS, served by gunicorn.

In ``gunicorn.conf.py``::

    from vestibule.sdk import authorize_ids
    from vestibule.sdk.gunicorn import worker

    bind = "0.0.0.0:8443"
    worker_class = worker(authorize_ids("spiffe://example.org/ns/prod/sa/orders"))

Each worker enters a source of its own, after it was forked and has the user that it is to have; so an agent vouches for
workers, not for the process that starts them.  Who calls: ``vestibule.sdk.wsgi.caller(environ)``, and
``vestibule.sdk.asgi.caller(scope)`` with ``asgi_worker``.  Needs gunicorn, which is not part of the base installation.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, ClassVar, Final
from weakref import ref

from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.connections import Connection, Lifetimes, Watch, connection_of
from vestibule.sdk.entering import PATIENCE
from vestibule.sdk.serving.listening import HANDSHAKE_TIMEOUT, Refusals
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import server_context
from vestibule.sdk.wsgi import KEY

NO_IDENTITY: Final = 1
"""A worker's exit status when it gets no identity: gunicorn starts another one, which asks again."""

Environ = MutableMapping[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def worker(
    authorize: Authorizer,
    *,
    address: str | None = None,
    patience: float = HANDSHAKE_TIMEOUT,
    lifetimes: Lifetimes | None = None,
) -> type[ThreadWorker]:
    """The class of workers that serve a WSGI app, with threads, to peers that ``authorize`` wants.

    ``address`` is that of the Workload API, the value of ``SPIFFE_ENDPOINT_SOCKET`` unless given.  ``patience`` is how
    many seconds a handshake may take, ``lifetimes`` when connections are retired: with their next answer.  What runs
    when a certificate ends, or was revoked, is cut.  HTTP/1.1 only; settings of TLS (``certfile`` …) are not used.
    """
    made = {
        "authorize": staticmethod(authorize),
        "address": address,
        "patience": patience,
        "lifetimes": lifetimes,
    }
    return type("MtlsWorker", (_MtlsWorker,), made)


def asgi_worker(authorize: Authorizer, *, address: str | None = None, **options: Any) -> type[Worker]:
    """The class of workers that serve an ASGI app by uvicorn; ``options`` as for ``vestibule.sdk.uvicorn.Server``."""
    made = {"authorize": staticmethod(authorize), "address": address, "options": options}
    return type("MtlsAsgiWorker", (_MtlsAsgiWorker,), made)


class _MtlsWorker(ThreadWorker):  # type: ignore[misc]
    authorize: Any
    address: ClassVar[str | None]
    patience: ClassVar[float]
    lifetimes: ClassVar[Lifetimes | None]
    wsgi: Any

    def run(self) -> None:
        """By now it is forked, has its user, and has loaded the app."""
        source = X509Source(self.address, patience=_patience(self))
        try:
            source.__enter__()
        except VestibuleError as error:
            _give_up(self, error)
        try:
            self._take(source)
            super().run()
        finally:
            source.__exit__(None, None, None)

    def _take(self, source: X509Source) -> None:
        handshakes = _Handshakes(source, self.authorize, self.patience, self.lifetimes)
        self.cfg.set("ssl_context", lambda _config, _default: handshakes)
        self.cfg.set("keyfile", os.devnull)  # what tells gunicorn that there is TLS
        self.wsgi = _identified(self.wsgi)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """As gunicorn has it; the answer says so when it is the last one of a connection."""
        if conn.sock.watch.retired:
            req.force_close()
        return super().handle_request(req, conn)


class _Handshakes:
    """What gunicorn takes for an ``ssl.SSLContext``: it makes connections in the worker's threads."""

    def __init__(
        self, source: X509Source, authorize: Authorizer, patience: float, lifetimes: Lifetimes | None
    ) -> None:
        self._source = source
        self._context = server_context(source, authorize)
        self._patience = patience
        self._lifetimes = lifetimes
        self._refusals = Refusals()

    def wrap_socket(self, sock: socket.socket, **_options: Any) -> ssl.SSLSocket:
        """After the handshake.  Raises: ConnectionResetError, which gunicorn passes over.

        Other errors it would answer in plain text, with what they say: to somebody who was just refused.
        """
        host = str(sock.getpeername()[0]) if sock.family in (socket.AF_INET, socket.AF_INET6) else ""
        sock.settimeout(self._patience)
        try:
            made = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=True)
        except OSError as error:
            self._refusals.tell(host, error)
            raise ConnectionResetError(errno.ECONNRESET, "no handshake") from error
        made.settimeout(None)
        # The book forgets it with the socket.
        made.watch = self._watched(made)  # type: ignore[attr-defined]
        return made

    def _watched(self, made: ssl.SSLSocket) -> Watch:
        def nothing(_connection: Connection) -> None:
            """``Watch.retired`` is looked at with the next request."""

        return self._source.connections.watch(
            made, retire=nothing, cut=partial(_cut, ref(made)), lifetimes=self._lifetimes
        )


def _cut(made: ref[ssl.SSLSocket], _connection: Connection, _reason: VestibuleError) -> None:
    """From the source's thread.  The socket's own ``shutdown`` would go on without TLS."""
    if (sock := made()) is not None:
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return  # closed meanwhile


def _identified(app: WsgiApp) -> WsgiApp:
    def called(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ[KEY] = str(connection_of(environ["gunicorn.socket"]).peer)
        return app(environ, start_response)

    return called


class _MtlsAsgiWorker(Worker):  # type: ignore[misc]
    authorize: Any
    address: ClassVar[str | None]
    options: ClassVar[dict[str, Any]]

    def run(self) -> None:
        """By now it is forked, has its user, and has loaded the app."""
        import asyncio

        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from vestibule.sdk.uvicorn import Server

        try:
            async with X509Source(self.address, patience=_patience(self)) as source:
                settings = {
                    "callback_notify": self._notified,
                    "timeout_notify": max(self.timeout / 2, 1),
                    "timeout_keep_alive": self.cfg.keepalive,
                    "timeout_graceful_shutdown": self.cfg.graceful_timeout,
                    "limit_max_requests": self.max_requests if self.max_requests < sys.maxsize else None,
                    "log_config": None,
                    **self.options,
                }
                self._server = Server(self.wsgi, source, self.authorize, **settings)
                await self._server.serve(sockets=[each.sock for each in self.sockets])
        except VestibuleError as error:
            _give_up(self, error)

    async def _notified(self) -> None:
        self.notify()
        if self.ppid != os.getppid():
            self._server.should_exit = True


def _patience(made: Any) -> float:
    """gunicorn ends a worker that says nothing for as long as its ``timeout``."""
    return min(PATIENCE, made.cfg.timeout / 2) if made.cfg.timeout else PATIENCE


def _give_up(made: Any, error: VestibuleError) -> None:
    made.log.error("%s (%s)", error, error.advice)
    sys.exit(NO_IDENTITY)
