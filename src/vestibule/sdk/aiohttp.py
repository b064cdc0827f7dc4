"""Mutual TLS for requests that are made with aiohttp, which is not in the base installation.

::

    connector = MtlsConnector(source, authorize_ids("spiffe://example.org/ns/prod/sa/payments"))
    async with aiohttp.ClientSession(connector=connector) as session:
        await session.get("https://payments.internal:8443/v1/charges")

Connections leave the pool in time (``vestibule.sdk.connections``).  Requests that a connection lost before anything was
answered are sent again by aiohttp, where twice means the same as once.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes, not_answered, plaintext_refused
from vestibule.sdk.connections import Connection, Lifetimes, Watch
from vestibule.sdk.outside import Outside, OutsideCall
from vestibule.sdk.tls import client_context

IDLE: Final = 4.0
"""Seconds that an idle connection is kept, unless told otherwise: one less than uvicorn waits."""


class MtlsConnector(aiohttp.TCPConnector):
    """For ``aiohttp.ClientSession(connector=…)``: shows our SVID, and talks to peers that ``authorize`` wants.

    Names of hosts in URLs say where to connect, the SPIFFE ID says who is there; ``ssl`` of a request plays no part.
    ``outside`` names hosts that are called as everybody calls them, with the public authorities (or those of
    ``outside_context``) and without our certificate (``vestibule.sdk.outside``).  ``lifetimes`` is how long connections
    are used; ``options`` are those of ``aiohttp.TCPConnector``.

    Requests raise ``aiohttp.ClientConnectorCertificateError`` when the peer is refused, with a ``VestibuleError`` among
    its causes.
    """

    def __init__(
        self,
        source: Source,
        authorize: Authorizer,
        *,
        outside: Iterable[str] = (),
        outside_context: ssl.SSLContext | None = None,
        lifetimes: Lifetimes | None = None,
        keepalive_timeout: float = IDLE,
        **options: Any,
    ) -> None:
        """Raises: VST2432."""
        self._outside = Outside.of(outside)
        context = client_context(source, authorize)
        super().__init__(ssl=context, keepalive_timeout=keepalive_timeout, **options)
        self._source = source
        self._inside_context = context
        self._outside_context = outside_context or (
            ssl.create_default_context() if self._outside.places else None
        )
        self._lifetimes = client_lifetimes(source, lifetimes)
        self._factory = partial(_Handler, loop=self._loop, source=source)  # type: ignore[assignment]

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        """Called by aiohttp for each request."""
        if not self._is_outside(req):
            return await super().connect(req, traces, timeout)
        call = OutsideCall(req.url.raw_host or "", req.method, req.url.raw_path)
        try:
            connection = await super().connect(req, traces, timeout)
        except BaseException as error:
            call.log(self._source, error)
            raise
        assert isinstance(connection.protocol, _Handler)
        connection.protocol.call = call
        return connection

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        if not req.is_ssl():
            refusal = plaintext_refused(f"{req.url.scheme}://{req.url.host}")
            raise aiohttp.ClientConnectionError(str(refusal)) from refusal
        made = await super()._create_connection(req, traces, timeout)
        assert isinstance(made, _Handler)
        assert made.transport is not None
        if not self._is_outside(req):
            made.watch = self._source.connections.watch(
                made.transport.get_extra_info("ssl_object"),
                retire=partial(self._retire, made),
                cut=made.cut,
                lifetimes=self._lifetimes,
            )
        return made

    def _get_ssl_context(self, req: Any) -> ssl.SSLContext | None:
        return self._outside_context if self._is_outside(req) else self._inside_context

    def _is_outside(self, req: Any) -> bool:
        return self._outside.has(req.url.raw_host or "", req.url.port)

    def _retire(self, handler: ResponseHandler, connection: Connection) -> None:
        handler.force_close()  # at its release, if it is in use
        if any(each is handler for idle in self._conns.values() for each, _ in idle):
            handler.close()


class _Handler(ResponseHandler):
    """One connection: knows why it ended."""

    def __init__(self, loop: Any, source: Source) -> None:
        super().__init__(loop)
        self.watch: Watch | None = None
        self.call: OutsideCall | None = None
        self._source = source
        self._why: VestibuleError | None = None
        self._heard = False

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        why = self._why
        if self.watch is not None:
            self.watch.forget()
            if not self._heard:
                why = why or not_answered(self.watch.connection)
        super().connection_lost(exc if why is None else _lost(why))

    def cut(self, connection: Connection, why: VestibuleError) -> None:
        """End it, whatever is under way."""
        self._why = why
        payload, self._payload = self._payload, None
        lost = aiohttp.ClientOSError(str(why))
        if payload is not None:
            payload.set_exception(lost, why)
        if self.transport is not None:
            self.transport.abort()

    async def read(self) -> Any:
        """The head of a response."""
        call, self.call = self.call, None
        if call is None:
            return await super().read()
        try:
            message, payload = await super().read()
        except BaseException as error:
            call.log(self._source, error)
            raise
        if 100 < message.code < 200:
            self.call = call  # the answer is still to come
        else:
            call.status = message.code
            call.log(self._source)
        return message, payload


def _lost(why: VestibuleError) -> ConnectionResetError:
    lost = ConnectionResetError(str(why))
    lost.__cause__ = why
    return lost
