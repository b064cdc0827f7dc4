"""asyncio's streams to a peer with library mTLS.

::

    reader, writer = await vestibule.sdk.streams.open_connection("ledger.internal", 7000, source, authorize)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from weakref import ref

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes, not_answered
from vestibule.sdk.connections import Connection, Lifetimes, Watch
from vestibule.sdk.tls import client_context

LIMIT: Final = 64 * 1024
OnRetire = Callable[[asyncio.StreamWriter], None]


async def open_connection(
    host: str,
    port: int,
    source: Source,
    authorize: Authorizer,
    *,
    on_retire: OnRetire | None = None,
    lifetimes: Lifetimes | None = None,
    limit: int = LIMIT,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a peer that ``authorize`` wants; whoever opens a connection closes its writer.

    Halfway to the end of its certificates it is time for another one: ``retiring(writer)`` is set then, and
    ``on_retire`` is called with the writer.  A connection that is used nevertheless is cut shortly before the end, or
    when a certificate was revoked or our identity withdrawn: its reader raises ``ConnectionAbortedError``, whose cause
    says why.

    ``options`` are those of ``loop.create_connection``.  Raises: ``ssl.SSLError`` when the peer is refused or there is
    no SVID to show, OSError when there is no connection.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit)
    protocol = ClientConnection(reader, source, client_lifetimes(source, lifetimes))
    transport, _ = await loop.create_connection(
        lambda: protocol, host, port, ssl=client_context(source, authorize), **options
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    protocol.on_retire(writer, on_retire)
    return reader, writer


class ClientConnection(asyncio.StreamReaderProtocol):
    """One connection; ``retiring`` is set when another one should be made."""

    def __init__(self, reader: asyncio.StreamReader, source: Source, lifetimes: Lifetimes) -> None:
        super().__init__(reader)
        self.retiring = asyncio.Event()
        self._source = source
        self._lifetimes = lifetimes
        self._reader = ref(reader)
        self._writer: ref[asyncio.StreamWriter] | None = None
        self._tell: OnRetire | None = None
        self._watch: Watch | None = None
        self._heard = False

    def on_retire(self, writer: asyncio.StreamWriter, tell: OnRetire | None) -> None:
        """Whom to tell; at once, if it is time already."""
        self._writer, self._tell = ref(writer), tell
        if self.retiring.is_set() and tell is not None:
            tell(writer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made: Any = transport
        self._watch = self._source.connections.watch(
            transport.get_extra_info("ssl_object"),
            retire=self._retire,
            cut=self._cut,
            lifetimes=self._lifetimes,
        )
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.forget()
            if exc is not None and not self._heard:
                exc = _aborted(not_answered(self._watch.connection))
        super().connection_lost(exc)

    def _retire(self, connection: Connection) -> None:
        self.retiring.set()
        writer = self._writer() if self._writer is not None else None
        if writer is not None and self._tell is not None:
            self._tell(writer)

    def _cut(self, connection: Connection, reason: VestibuleError) -> None:
        self.retiring.set()
        if (reader := self._reader()) is not None:
            reader.set_exception(_aborted(reason))
        self._made.abort()


def _aborted(reason: VestibuleError) -> ConnectionAbortedError:
    aborted = ConnectionAbortedError(str(reason))
    aborted.__cause__ = reason
    return aborted
