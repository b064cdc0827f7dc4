"""The bundle endpoint: our trust bundle, for other trust domains (SPIFFE_Federation.md, sections 4 and 5).

One public page, the same for everybody, without secrets.  Whoever asks stays a stranger: there is no client
certificate, no credential, and nothing of the request but its method and path is looked at.  So everything that a
stranger could use up is bounded: time, size, and connections, of one and of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import h11

from vestibule.errors import VestibuleError
from vestibule.pki.bundles import to_jwks
from vestibule.spiffe import TrustBundle

MAX_CONNECTIONS: Final = 256
MAX_OF_ONE: Final = 32
"""Connections of one host at a time; partners fetch once in minutes."""
HANDSHAKE_SECONDS: Final = 5.0
EXCHANGE_SECONDS: Final = 10.0
MAX_REQUEST: Final = 16 * 1024
_CHUNK: Final = 4096

_log = logging.getLogger(__name__)


class BundlePage:
    """What the endpoint answers: a pure function of the request line and the bundle of the moment."""

    def __init__(self, bundle: Callable[[], TrustBundle], refresh_hint: int | None = None) -> None:
        """``refresh_hint`` (seconds) takes the place of the bundle's own."""
        self._bundle = bundle
        self._refresh_hint = refresh_hint
        self._made: tuple[TrustBundle, bytes] | None = None

    def answer(self, method: bytes, target: bytes) -> tuple[h11.Response, bytes]:
        """GET of ``/`` gives the bundle; another path 404, another method 405."""
        if target.partition(b"?")[0] != b"/":
            return _response(404, b"not found\n", "text/plain"), b"not found\n"
        if method != b"GET":
            return _response(405, b"GET only\n", "text/plain", ("allow", "GET")), b"GET only\n"
        body = self.document()
        return _response(200, body, "application/json", ("cache-control", "no-cache")), body

    def document(self) -> bytes:
        """The bundle as a SPIFFE document (section 4 of SPIFFE_Trust_Domain_and_Bundle.md)."""
        bundle = self._bundle()
        if self._made is None or self._made[0] is not bundle:
            hint = bundle.refresh_hint if self._refresh_hint is None else self._refresh_hint
            self._made = (bundle, to_jwks(replace(bundle, refresh_hint=hint)))
        return self._made[1]


def _response(status: int, body: bytes, kind: str, *more: tuple[str, str]) -> h11.Response:
    headers = [
        ("content-type", kind),
        ("content-length", str(len(body))),
        ("connection", "close"),
        ("x-content-type-options", "nosniff"),
        *more,
    ]
    return h11.Response(status_code=status, headers=headers)


class BundleEndpoint:
    """Serves the page on a socket that is already bound, one request per connection, until its task is cancelled."""

    def __init__(
        self,
        page: BundlePage,
        sock: socket.socket,
        tls: ssl.SSLContext,
        *,
        connections: int = MAX_CONNECTIONS,
        of_one: int = MAX_OF_ONE,
        seconds: float = EXCHANGE_SECONDS,
    ) -> None:
        self._page = page
        self._sock = sock
        self._tls = tls
        self._connections = connections
        self._of_one = of_one
        self._seconds = seconds
        self._open: Counter[str] = Counter()
        self.served = 0
        """How often the bundle was given."""

    async def run(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        busy = asyncio.Semaphore(self._connections)
        async with asyncio.TaskGroup() as group:
            while True:
                # Accepted by us, so that what is refused costs no handshake.
                await busy.acquire()
                try:
                    connection, address = await loop.sock_accept(self._sock)
                except OSError as error:  # the peer left already, or descriptors ran out
                    busy.release()
                    _log.debug("cannot accept: %s", error)
                    await asyncio.sleep(0.05)
                    continue
                task = group.create_task(self._serve(connection, str(address[0])), name="bundle-endpoint")
                task.add_done_callback(lambda _: busy.release())

    async def _serve(self, connection: socket.socket, host: str) -> None:
        if self._open[host] >= self._of_one:
            connection.close()
            return
        self._open[host] += 1
        try:
            await self._converse(connection)
        except (OSError, TimeoutError, EOFError, h11.ProtocolError) as error:
            _log.debug("a client of the bundle endpoint at %s: %s", host, error)
        except VestibuleError as error:
            _log.error("the bundle cannot be served: %s (%s)", error, error.advice)
        except Exception:  # noqa: BLE001 - whatever a stranger can bring about must not end the server
            _log.exception("unexpected failure with a client of the bundle endpoint")
        finally:
            connection.close()
            self._open[host] -= 1
            self._open += Counter()  # drops the zeros

    async def _converse(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        reader = asyncio.StreamReader(limit=MAX_REQUEST)
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(reader)
        # What uvloop gives back as the protocol is its own one for TLS.
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=min(HANDSHAKE_SECONDS, self._seconds),
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            # The handshake has its own limit, at which asyncio itself cleans up.
            async with asyncio.timeout(self._seconds):
                await self._exchange(reader, writer)
        finally:
            transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        request = await _request(http, reader)
        response, body = self._page.answer(request.method, request.target)
        for part in (response, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        self.served += response.status_code == 200
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """The head of a request; its body, if there is one, is not read.  Raises: EOFError, h11.ProtocolError."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise EOFError("no request came")
        http.receive_data(await reader.read(_CHUNK))
