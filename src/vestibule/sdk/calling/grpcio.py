"""Google's gRPC (grpcio) to a peer with library mTLS.

grpcio speaks TLS by itself, knows peers by their DNS names only, and refuses a certificate that has none, which an SVID
as a rule has not; nor does it let its clients change their certificate.  So a *bridge* speaks mutual TLS for it: grpcio
talks plain HTTP/2 to a Unix socket, in a directory that only this user may enter, and the bridge passes the bytes on.

::

    with bridge("ledger.internal", 8443, source, authorize) as made:
        stub = LedgerStub(made.channel())

It has a thread of its own, and serves channels of ``grpc`` and of ``grpc.aio``.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError

from vestibule.errors import VestibuleError
from vestibule.pki.bundles import to_pem
from vestibule.pki.pem import pem_block
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes
from vestibule.sdk.connections import Connection, Lifetimes
from vestibule.sdk.goaway import INADEQUATE_SECURITY, NEWEST, Frames, goaway
from vestibule.sdk.holder import Holder
from vestibule.sdk.reasons import reason
from vestibule.sdk.threads import LoopThread
from vestibule.sdk.tls import client_context
from vestibule.spiffe import TrustDomain

PATIENCE: Final = 5.0
"""Seconds in which grpcio comes with a call, after a connection for which there is none to the peer."""

SETTLING: Final = 1.0
"""Seconds for which a new connection is not left: grpcio waits for ever if GOAWAY comes while it sets one up."""

_CHUNK: Final = 64 * 1024
_log = logging.getLogger(__name__)


@contextmanager
def bridge(
    host: str,
    port: int,
    source: Source,
    authorize: Authorizer,
    *,
    lifetimes: Lifetimes | None = None,
) -> Iterator[Bridge]:
    """A bridge to one peer, for as long as the block is entered; close the channels over it before.

    Each connection of a channel becomes one with mutual TLS.  When it is to be left, grpcio is told by GOAWAY: calls
    that run end in peace, and new ones have a new connection.  Calls fail with UNAVAILABLE when the peer is refused, or
    a connection is cut; the bridge's log and ``problem`` say why.
    """
    made = Bridge(host, port, source, authorize, lifetimes)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Bridge:
    """What ``bridge`` makes."""

    def __init__(
        self, host: str, port: int, source: Source, authorize: Authorizer, lifetimes: Lifetimes | None = None
    ) -> None:
        self.problem: VestibuleError | None = None
        """Why the newest connection failed or was cut; None after one that was made."""
        self._place = (host, port)
        self._source = source
        self._lifetimes = client_lifetimes(source, lifetimes)
        self._context = client_context(source, authorize)
        self._context.set_alpn_protocols(["h2"])
        self._thread = LoopThread("grpcio-bridge")
        self._crossings: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._directory: Path | None = None

    @property
    def target(self) -> str:
        """What a channel connects to."""
        return f"unix://{self._socket}"

    @property
    def options(self) -> list[tuple[str, Any]]:
        """What a channel over it is made with: the peer's name in requests, which a Unix socket does not have."""
        host, port = self._place
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return [("grpc.default_authority", name)]

    def channel(self, options: list[tuple[str, Any]] | None = None) -> grpc.Channel:
        """A channel for code that blocks."""
        return grpc.insecure_channel(self.target, options=self.options + (options or []))

    def aio_channel(self, options: list[tuple[str, Any]] | None = None) -> grpc.aio.Channel:
        """A channel of ``grpc.aio``."""
        return grpc.aio.insecure_channel(self.target, options=self.options + (options or []))

    def start(self) -> None:
        """Listen."""
        self._directory = Path(tempfile.mkdtemp(prefix="grpcio-"))  # mode 0700
        self._thread.start()
        self._server = self._thread.wait(self._listen())

    def stop(self) -> None:
        """Close everything."""
        try:
            self._thread.wait(self._close())
        finally:
            self._thread.stop()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        assert self._directory is not None, "only while the bridge is open"
        return self._directory / "s"

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._accept, self._socket)

    async def _close(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            # What was accepted begins, or Python 3.11 would lose it, open (python/cpython#109564).
            await _turns()
            self._server.close()
        crossings = list(self._crossings)
        for each in crossings:
            each.cancel()
        await asyncio.gather(*crossings, return_exceptions=True)
        await _turns()  # what was aborted closes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._crossings.add(task)
        try:
            await self._cross(reader, writer)
        except asyncio.CancelledError:
            pass  # the bridge stops; asyncio would call it an error
        finally:
            self._crossings.discard(task)
            writer.transport.abort()

    async def _cross(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asks = await asyncio.open_connection(*self._place, ssl=self._context)
        except OSError as error:
            self._tell(reason(error), error)
            with suppress(OSError, ProtocolError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await _refuse(reader, writer, str(reason(error) or error))
            return
        self.problem = None
        crossing = _Crossing(writer, asks)
        watch = self._source.connections.watch(
            asks.get_extra_info("ssl_object"),
            retire=crossing.retire,
            cut=crossing.cut,
            lifetimes=self._lifetimes,
        )
        try:
            await crossing.run(reader, answers)
        finally:
            watch.forget()
            asks.transport.abort()
            if crossing.why is not None:
                self._tell(crossing.why, crossing.why)

    def _tell(self, problem: VestibuleError | None, error: BaseException) -> None:
        self.problem = problem
        _log.warning("no connection to %s:%d: %s", *self._place, problem or error)


class _Crossing:
    """One connection: bytes from grpcio to the peer, and back."""

    def __init__(self, back: asyncio.StreamWriter, asks: asyncio.StreamWriter) -> None:
        self.why: VestibuleError | None = None
        self._back = back
        self._asks = asks
        self._made = asyncio.get_running_loop().time()
        self._frames = Frames(lambda last_stream, error: None)

    async def run(self, reader: asyncio.StreamReader, answers: asyncio.StreamReader) -> None:
        """Until one side ends."""
        ways = [
            asyncio.create_task(self._forth(reader), name="bridge-forth"),
            asyncio.create_task(self._home(answers), name="bridge-home"),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forth(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await reader.read(_CHUNK):
                self._asks.write(data)
                await self._asks.drain()

    async def _home(self, answers: asyncio.StreamReader) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await answers.read(_CHUNK):
                self._back.write(self._frames.feed(data))
                await self._back.drain()

    def retire(self, connection: Connection) -> None:
        """grpcio opens another one, and closes this one after the last call."""
        loop = asyncio.get_running_loop()
        loop.call_at(max(loop.time(), self._made + SETTLING), self._announce)

    def _announce(self) -> None:
        if not self._back.is_closing():
            self._back.write(self._frames.insert(goaway(NEWEST)))

    def cut(self, connection: Connection, why: VestibuleError) -> None:
        self.why = why
        if self._frames.is_between:
            self._back.write(goaway(0, INADEQUATE_SECURITY, str(why)))
        self._asks.transport.abort()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: str) -> None:
    """Answer the first calls with the reason, as their status, and leave."""
    speaker = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    speaker.initiate_connection()
    writer.write(speaker.data_to_send())
    refused = False
    while not refused and (data := await reader.read(_CHUNK)):
        for event in speaker.receive_data(data):
            if isinstance(event, RequestReceived):
                speaker.send_headers(event.stream_id, _status(why), end_stream=True)
                refused = True
        if refused:
            speaker.close_connection()
        writer.write(speaker.data_to_send())
        await writer.drain()
    await reader.read()  # until grpcio has heard it


def _status(why: str) -> list[tuple[str, str]]:
    """An answer without any message ("Trailers-Only" of gRPC over HTTP/2)."""
    unavailable = str(grpc.StatusCode.UNAVAILABLE.value[0])
    return [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", unavailable),
        ("grpc-message", quote(why, safe=" ,.:;/()'=-_#@")),
    ]


def channel_credentials(source: Holder, trust_domain: TrustDomain | str) -> grpc.ChannelCredentials:
    """Credentials for grpcio's own TLS, to a peer whose SVID has a DNS name; the bridge is the better way.

    Their limits are grpcio's: certificate and bundle are those of this moment, so make a new channel before
    ``source.svid`` ends; the peer is known by its DNS name, not by its SPIFFE ID; nothing is known of revocations, and
    nothing is cut.  Only authorities of ``trust_domain`` are believed.  Raises: VST2402, VST2403, VST1400.
    """
    svid = source.svid
    key = load_der_private_key(svid.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    chain = b"".join(pem_block("CERTIFICATE", der) for der in svid.chain)
    return grpc.ssl_channel_credentials(to_pem(source.bundle(trust_domain)), key, chain)


async def _turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)
