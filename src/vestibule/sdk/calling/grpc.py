"""grpclib's channels with library mTLS.

::

    async with vestibule.sdk.grpclib.channel("ledger.internal", 8443, source, authorize) as channel:
        reply = await LedgerStub(channel).Balance(request)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from grpclib.client import Handler
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import EventsProcessor, H2Protocol

from vestibule.calls.unix import CheckedChannel
from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes, not_answered
from vestibule.sdk.connections import Connection, Lifetimes, Watch
from vestibule.sdk.goaway import Frames, refusals
from vestibule.sdk.tls import client_context

LINGER: Final = 1.0
"""Seconds that a connection which is left stays open without a call: one may just be on its way to it."""


def channel(
    host: str,
    port: int,
    source: Source,
    authorize: Authorizer,
    *,
    lifetimes: Lifetimes | None = None,
    **options: Any,
) -> MtlsChannel:
    """A channel to a peer that ``authorize`` wants; it connects at the first call.

    When its connection is to be left, by the ends of the certificates or because the server says so by GOAWAY, new
    calls have a new one, while those that run end in peace on the old one.  A call that still runs shortly before the
    end, or when a certificate was revoked or our identity withdrawn, raises ``StreamTerminatedError``, whose cause says
    why.  ``options`` are those of grpclib's ``Channel`` (``codec``, ``config``).

    Calls raise ``ssl.SSLError`` when the peer is refused.
    """
    return MtlsChannel(host, port, source, authorize, lifetimes, **options)


class MtlsChannel(CheckedChannel):
    """What ``channel`` makes."""

    def __init__(
        self,
        host: str,
        port: int,
        source: Source,
        authorize: Authorizer,
        lifetimes: Lifetimes | None,
        **options: Any,
    ) -> None:
        context = client_context(source, authorize)
        context.set_alpn_protocols(["h2"])
        super().__init__(host, port, ssl=context, **options)
        self._source = source
        self._lifetimes = client_lifetimes(source, lifetimes)
        self._open: set[_Connection] = set()

    def close(self) -> None:
        """Close all connections; calls that run are ended."""
        for each in list(self._open):
            each.processor.close()
        super().close()

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(
            Handler(), self._config, self._h2_config, self._source, self._lifetimes, self._open
        )

    @property
    def _connected(self) -> bool:
        current = self._protocol
        return super()._connected and not (isinstance(current, _Connection) and current.is_left)


class _Connection(H2Protocol):
    """One connection: knows when it is left, and why it ended."""

    processor: _Processor

    def __init__(
        self,
        handler: Handler,
        config: Any,
        h2_config: Any,
        source: Source,
        lifetimes: Lifetimes,
        open_connections: set[_Connection],
    ) -> None:
        super().__init__(handler, config, h2_config)
        self._source = source
        self._lifetimes = lifetimes
        self._open = open_connections
        self._frames = Frames(self._goaway)
        self._watch: Watch | None = None
        self._told = False
        self._heard = False

    @property
    def is_left(self) -> bool:
        """Whether new calls have another connection."""
        return self._told or (self._watch is not None and self._watch.retired)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.processor = _Processor(self.handler, self.connection, self._ended)
        self._made: Any = transport
        self._open.add(self)
        self._watch = self._source.connections.watch(
            transport.get_extra_info("ssl_object"),
            retire=self._retire,
            cut=self._cut,
            lifetimes=self._lifetimes,
        )

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(self._frames.feed(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._open.discard(self)
        if self._watch is not None:
            self._watch.forget()
            if not self._heard:
                self.processor.why = self.processor.why or not_answered(self._watch.connection)
        super().connection_lost(exc)

    def _retire(self, connection: Connection) -> None:
        self._ended()

    def _cut(self, connection: Connection, reason: VestibuleError) -> None:
        self.processor.why = reason
        self.processor.close(str(reason))
        self._made.abort()

    def _goaway(self, last_stream: int, error: int) -> bytes | None:
        if error:
            return None
        self._told = True
        self._ended()
        return refusals(last_stream, self.connection._connection.highest_outbound_stream_id)

    def _ended(self) -> None:
        """A call has ended, or the connection is left: close it soon if there is nothing to do on it."""
        if self.is_left and not self.processor.streams:
            asyncio.get_running_loop().call_later(LINGER, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.processor.streams:
            self.processor.close()


class _Processor(EventsProcessor):
    """Tells when a call has ended; what is ended by force knows why."""

    def __init__(self, handler: Any, connection: Any, ended: Callable[[], None]) -> None:
        super().__init__(handler, connection)
        self.why: VestibuleError | None = None
        self._ended = ended

    def register(self, stream: Any) -> Callable[[], None]:
        release = super().register(stream)

        def released() -> None:
            release()
            self._ended()

        return released

    def close(self, reason: str = "Connection closed") -> None:
        self.connection.close()
        self.handler.close()
        for stream in self.streams.values():
            if stream.wrapper is not None:
                stream.wrapper.cancel(self._error(reason))
        if hasattr(self, "processors"):
            del self.processors  # they refer to this

    def _error(self, reason: str) -> StreamTerminatedError:
        error = StreamTerminatedError(str(self.why or reason))
        error.__cause__ = self.why
        return error
