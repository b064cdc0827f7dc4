"""A gRPC server with an end: it drains, answers UNAVAILABLE to streams, and leaves no connection hanging.

grpclib does the protocol.  Added here: bounded messages, malformed input that disturbs nobody and fills no
log, and a shutdown in which every stream ends with a status that clients retry (some stop for good at
CANCELLED or OK).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import grpclib.server
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, UnknownFrameReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from vestibule.errors import VestibuleError
from vestibule.net.accepting import PlainListener
from vestibule.net.codes import MALFORMED_MESSAGE, MESSAGE_TOO_LARGE, SHUTTING_DOWN
from vestibule.net.data_frames import PlainFrames, hand_over
from vestibule.net.grpc import Servable, Stream, refuse
from vestibule.net.handshakes import TlsListener
from vestibule.net.peer import Peer
from vestibule.net.quotas import Quota, Share, Shares, peer_name
from vestibule.net.unary_http2 import Answer, UnaryConnection, calls

MAX_MESSAGE_BYTES: Final = 4 * 2**20
MAX_STREAMS_PER_CONNECTION: Final = 1000
FRAME_HEADER_BYTES: Final = 9
READ_AT_ONCE: Final = 64 * 1024
"""Bytes after which the frames of a message are put together: each takes more memory than its content."""
CRUMBS: Final = 16
"""Bytes that a stream's frames with data must have on average, from so many frames on: smaller ones cost too much."""
CRUMBS_FROM: Final = 1000
MAX_UNREAD: Final = 32 * 2**20
"""Bytes that are kept for a peer that does not read: more than its windows let all of its calls send."""

_log = logging.getLogger(__name__)
_Method = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """A unary method that some clients call for every request of theirs, over connections that serve nothing else.

    ``answer_of`` makes the function that turns messages into messages, for a connection that was just made; its
    ``peer`` is known.  The method must be served otherwise, too: which way it goes is the client's choice.
    """

    path: str
    answer_of: Callable[[Connection], Answer]
    max_message: int


class Connection(Protocol):
    """What is known of a connection: the process at its other end, and its session of TLS."""

    @property
    def peer(self) -> Peer | None: ...

    @property
    def tls(self) -> ssl.SSLObject | None: ...


class GrpcServer:
    """Serves a set of services on any number of listening sockets.

    ``max_message`` bounds one request message, in bytes, and ``quota`` what one peer may take at a time.  Connections
    on which the first call is that of ``fast`` are left to it.  The order
    of an orderly end is ``drain``, then ``close``; ``close`` alone is an abrupt but still polite end.
    """

    def __init__(
        self,
        services: Collection[Servable],
        *,
        max_message: int = MAX_MESSAGE_BYTES,
        quota: Quota | None = None,
        fast: Fast | None = None,
    ) -> None:
        self._max_message = max_message
        self._streaming: set[asyncio.Task[Any]] = set()
        self._unary: set[asyncio.Task[Any]] = set()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._listeners: list[PlainListener | TlsListener] = []
        self._draining = False
        tracked = [self._tracked(service) for service in services]
        self._grpclib = _Protocols(tracked, self._connections, Shares(quota), fast)

    async def listen(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on ``sock``, which is ours from here on."""
        make = self._grpclib.protocol
        listener = PlainListener(sock, make) if tls is None else TlsListener(sock, tls, make)
        listener.start()
        self._listeners.append(listener)

    async def adopt(self, sock: socket.socket) -> asyncio.Event:
        """Serve one already connected socket, such as an inherited one; the event is set when it is closed."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(self._grpclib.protocol, sock)
        return connection.closed

    async def drain(self, grace: float) -> None:
        """Take no new calls, end streams with UNAVAILABLE, and let the others finish within ``grace`` seconds."""
        self._draining = True
        self._stop_listening()
        await _cancel(self._streaming)
        if self._unary:
            await asyncio.wait(set(self._unary), timeout=grace)

    async def close(self) -> None:
        """End every call that is left with UNAVAILABLE and close all connections."""
        self._draining = True
        self._stop_listening()
        # One that was accepted just before is not made yet, and would outlive us.
        self._grpclib.closed = True
        await _cancel(self._streaming | self._unary)
        for connection in list(self._connections):
            connection.say_goodbye()
        # One turn of the loop lets transports flush what was just written.
        await asyncio.sleep(0)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _tracked(self, service: Servable) -> Servable:
        return Servable(
            {
                path: handler._replace(func=self._track(path, handler))
                for path, handler in service.__mapping__().items()
            }
        )

    def _track(self, path: str, handler: Handler) -> _Method:
        cardinality = handler.cardinality
        lasting = cardinality.client_streaming or cardinality.server_streaming
        tasks = self._streaming if lasting else self._unary

        async def run(stream: Stream) -> None:
            if self._draining:
                await refuse(stream, SHUTTING_DOWN.error("the component is shutting down"))
                return
            share: Share = stream._stream.connection.share
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            tasks.add(task)
            try:
                with share.call():
                    _harden(stream, path, self._max_message, share)
                    await handler.func(stream)
            except VestibuleError as error:
                await refuse(stream, error)
            finally:
                tasks.discard(task)

        return run


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    pending = set(tasks)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=5.0)


def _harden(stream: Stream, path: str, limit: int, share: Share) -> None:
    """Bound the messages of one call and turn malformed ones into an answer instead of a stack trace."""
    receive_bytes, receive = stream._stream.recv_data, stream.recv_message

    async def bounded(size: int) -> bytes:
        if size > limit:
            raise MESSAGE_TOO_LARGE.error(f"a message of {size} bytes to {path}; {limit} is the limit")
        with share.message(size):
            first = cast(bytes, await receive_bytes(min(size, READ_AT_ONCE)))
            parts, missing = [first], size - len(first)
            while missing and parts[-1]:
                parts.append(cast(bytes, await receive_bytes(min(missing, READ_AT_ONCE))))
                missing -= len(parts[-1])
            assert not (first and missing), "the message is cut short"
            return b"".join(parts)

    async def checked() -> Any:
        try:
            return await receive()
        except VestibuleError:
            raise
        except (DecodeError, AssertionError, NotImplementedError) as error:
            raise MALFORMED_MESSAGE.error(f"a message to {path} cannot be read") from error

    stream._stream.recv_data = bounded
    stream.recv_message = checked


class _Connection(H2Protocol):
    """One HTTP/2 connection, which survives nothing and takes nobody with it.

    ``peer`` is the process at the other end, where the socket is one that can tell (``net.peer``).
    """

    def __init__(
        self, inner: H2Protocol, shares: Shares, is_over: Callable[[], bool], fast: Fast | None = None
    ) -> None:
        super().__init__(inner.handler, inner.config, inner.h2_config)
        self._is_over = is_over
        self._fast = fast
        self._unary: UnaryConnection | None = None
        self.peer: Peer | None = None
        self.closed = asyncio.Event()
        self._shares = shares
        self._share: Share | None = None
        self._plain: PlainFrames | None = None

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The session, on connections by TLS."""
        return cast("ssl.SSLObject | None", self.connection._transport.get_extra_info("ssl_object"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Before anything else: the sooner we look, the smaller the chance that the peer has ended.
        self.peer = Peer.of_transport(transport)
        if not self._is_over():
            self._share = self._shares.connect(peer_name(transport, self.peer))
        if self._share is None:
            cast(asyncio.Transport, transport).abort()
            return
        super().connection_made(transport)
        cast(Any, self.connection).share = self._share
        # RFC 9113, section 5.5: frames of unknown types are ignored; grpclib would end the connection.
        self.processor.processors[UnknownFrameReceived] = _ignore
        self.processor.processors[DataReceived] = self._take_data
        self._plain = PlainFrames(self.connection._connection, self._take_data)
        h2 = self.connection._connection
        h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS_PER_CONNECTION})
        self.connection.flush()

    def data_received(self, data: bytes) -> None:
        if self._share is None:
            return
        if self._fast is not None:
            self._choose(self._fast, data)
        if self._unary is not None:
            self._serve_fast(self._unary, data)
            return
        try:
            if self._plain is not None:
                data = self._plain.receive(data)
            if data:
                super().data_received(data)
            self._refuse_overlong_frame()
            self._refuse_to_hoard()
        except Exception as error:  # noqa: BLE001 - whatever a peer sends may cost it its connection, no more
            _log.info("closed a connection that does not speak HTTP/2: %s", type(error).__name__)
            self.processor.close("malformed HTTP/2")

    def _choose(self, fast: Fast, data: bytes) -> None:
        """By what comes first: a client that asks about every request does so at once, over a connection for it."""
        self._fast = None
        if calls(fast.path, data):
            try:
                answer = fast.answer_of(self)
            except VestibuleError:
                return  # the usual way refuses the call, with its reason
            window = min(self.config.http2_connection_window_size, self.config.http2_stream_window_size)
            self._unary = UnaryConnection(fast.path, answer, max_message=fast.max_message, window=window)

    def _serve_fast(self, unary: UnaryConnection, data: bytes) -> None:
        transport = self.connection._transport
        if written := unary.receive(data):
            transport.write(written)
        if transport.get_write_buffer_size() > MAX_UNREAD:
            transport.abort()
        elif unary.closed:
            transport.close()

    def _refuse_overlong_frame(self) -> None:
        """What is left after whole frames were taken out is less than one frame; h2 itself looks at a frame's
        length only once all of it, up to 16 MiB, is there.
        """
        buffer = self.connection._connection.incoming_buffer
        if len(buffer._data) > buffer.max_frame_size + FRAME_HEADER_BYTES:
            raise ProtocolError("a frame is longer than our settings allow")

    def _take_data(self, event: DataReceived) -> None:
        if not event.flow_controlled_length:
            return  # An empty frame says nothing, and no window bounds how many may come.
        stream = cast(Any, self.processor.streams.get(event.stream_id))
        if not hand_over(stream, event):
            self.processor.process_data_received(event)
        if stream is not None:
            stream.frames = frames = getattr(stream, "frames", 0) + 1
            if frames > CRUMBS_FROM and stream.data_received < CRUMBS * frames:
                raise ProtocolError("the data comes in crumbs")

    def _refuse_to_hoard(self) -> None:
        """Answers to pings and settings are bounded by no window: a peer that reads none of them is cut off."""
        if self.connection.is_closing():
            return
        transport = self.connection._transport
        if transport.get_write_buffer_size() > MAX_UNREAD:
            transport.abort()

    def pause_writing(self) -> None:
        if self._share is not None:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self._share is not None:
            super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        share, self._share = self._share, None
        self._plain = None
        try:
            if share is not None:
                self._shares.leave(share)
                super().connection_lost(exc)
        finally:
            self.closed.set()
            if self.peer is not None:
                self.peer.release()

    def say_goodbye(self) -> None:
        """GOAWAY, then the end of the connection."""
        connection = getattr(self, "connection", None)
        if connection is None or connection.is_closing():
            return
        if self._unary is not None:
            connection._transport.write(self._unary.goodbye())
            connection._transport.close()
            return
        try:
            connection._connection.close_connection(ErrorCodes.NO_ERROR)
            connection.flush()
        except ProtocolError:
            _log.debug("the connection was already past a GOAWAY")
        self.processor.close("the server is shutting down")


def _ignore(_event: Event) -> None:
    """Nothing is to be done."""


class _Methods(dict[str, Handler]):
    """The methods by path.  For the others there is an answer, too: grpclib's own lacks the content type, so
    that strict clients would read UNKNOWN in it (SPIFFE_Workload_Endpoint.md asks for UNIMPLEMENTED).
    """

    def get(self, path: str, default: Any = None) -> Handler:
        return super().get(path) or _UNIMPLEMENTED


async def _unimplemented(_stream: Stream) -> None:
    raise GRPCError(Status.UNIMPLEMENTED, "this server has no such method")


_UNIMPLEMENTED: Final = Handler(_unimplemented, Cardinality.STREAM_STREAM, Empty, Empty)


class _Protocols(grpclib.server.Server):
    """grpclib's server as a factory of connections only; listening and closing are ours."""

    def __init__(
        self,
        services: Collection[Servable],
        connections: weakref.WeakSet[_Connection],
        shares: Shares,
        fast: Fast | None,
    ) -> None:
        super().__init__(services)
        self.closed = False
        self._fast = fast
        self._mapping = _Methods(self._mapping)
        self._connections = connections
        self._shares = shares

    def protocol(self) -> _Connection:
        inner = self._protocol_factory()
        connection = _Connection(inner, self._shares, lambda: self.closed, self._fast)
        self._connections.add(connection)
        return connection
