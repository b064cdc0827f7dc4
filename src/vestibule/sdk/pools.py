"""httpcore's pools of connections, which httpx uses, with connections that know when to be left.

httpcore decides at each request which connections are expired, idle or available, and closes those that it does not
want any more; so each of its connections stands here behind one that answers these questions with the book's
knowledge (``vestibule.sdk.connections``), and a stream that says why it ended.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpcore
import httpx

from vestibule.errors import VestibuleError
from vestibule.sdk.clients import Source, may_repeat, not_answered
from vestibule.sdk.connections import Connection, Lifetimes, Watch
from vestibule.sdk.goaway import REFUSED_STREAM, Frames, refusals, split_late

_BROKEN: Final = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


@dataclass(frozen=True, slots=True)
class Mtls:
    """What the connections of one transport are made with."""

    source: Source
    lifetimes: Lifetimes
    context: ssl.SSLContext
    http1: bool
    http2: bool
    limits: httpx.Limits
    retries: int

    @property
    def pool_options(self) -> dict[str, Any]:
        return {
            "ssl_context": self.context,
            "max_connections": self.limits.max_connections,
            "max_keepalive_connections": self.limits.max_keepalive_connections,
            **self.connection_options,
        }

    @property
    def connection_options(self) -> dict[str, Any]:
        return {
            "keepalive_expiry": self.limits.keepalive_expiry,
            "http1": self.http1,
            "http2": self.http2,
            "retries": self.retries,
        }


class AsyncPool(httpcore.AsyncConnectionPool):
    """For ``httpx.AsyncClient``."""

    def __init__(self, mtls: Mtls) -> None:
        super().__init__(**mtls.pool_options)
        self._mtls = mtls

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        wire = _Wire(self._mtls)
        options = self._mtls.connection_options
        inner = httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._mtls.context, network_backend=_AsyncBackend(wire), **options
        )
        return _AsyncPooled(inner, wire)


class Pool(httpcore.ConnectionPool):
    """For ``httpx.Client``."""

    def __init__(self, mtls: Mtls) -> None:
        super().__init__(**mtls.pool_options)
        self._mtls = mtls

    def create_connection(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        wire = _Wire(self._mtls)
        options = self._mtls.connection_options
        inner = httpcore.HTTPConnection(
            origin, ssl_context=self._mtls.context, network_backend=_Backend(wire), **options
        )
        return _Pooled(inner, wire)


@dataclass(slots=True)
class _Wire:
    """One connection: what was settled, what went over it, and whether it is to be left."""

    mtls: Mtls
    settled: Connection | None = None
    watch: Watch | None = None
    reason: VestibuleError | None = None
    left: bool = False
    heard: int = 0
    sent: int = 0
    requests: int = 0
    frames: Frames | None = None
    last_stream: int | None = None
    refused: bytes = b""
    reading: anyio.CancelScope | None = None
    owner: _Leaving | None = None
    socket: ssl.SSLSocket | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def is_left(self) -> bool:
        """Whether no new request is to be put on it."""
        return self.left or (self.watch is not None and self.watch.retired)

    def secured(self, connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        """The handshake is over.  Raises: VST2405, which would be a bug."""
        assert self.owner is not None
        self.watch = self.mtls.source.connections.watch(
            connection, retire=self.owner.retire, cut=self.owner.cut, lifetimes=self.mtls.lifetimes
        )
        self.settled = self.watch.connection
        if connection.selected_alpn_protocol() == "h2":
            self.frames = Frames(self._goaway)

    def forget(self) -> None:
        if self.watch is not None:
            self.watch.forget()

    def take(self, data: bytes) -> bytes | None:
        """What httpcore is to read; None when that is nothing yet.  Raises: httpcore.ReadError."""
        if self.reason is not None or (not data and not self.heard):
            raise self.lost(None)
        self.heard += len(data)
        if self.frames is None or not data:
            return data
        return self.frames.feed(data) or None

    def lost(self, error: Exception | None) -> httpcore.ReadError:
        """Why the connection ended, as httpcore says it.

        The pool takes the cause away from what it raises; so it is an argument, too, where ``reason`` finds it.
        """
        cause: Exception | None = self.reason
        if cause is None and not self.heard:
            cause = not_answered(self.settled)
            cause.__cause__ = error
        lost = httpcore.ReadError(cause or str(error))
        lost.__cause__ = cause or error
        return lost

    def _goaway(self, last_stream: int, error: int) -> bytes | None:
        if error:
            return None
        self.left = True
        self.last_stream = last_stream
        return refusals(last_stream, 2 * self.requests - 1)

    def give(self, data: bytes) -> bytes:
        """What of it is to be sent: streams that are begun after the server's farewell are not, but refused here."""
        if self.last_stream is None:
            return data
        kept, refused = split_late(data, self.last_stream)
        self.refused += refused
        if refused and self.reading is not None:
            self.reading.cancel()
        return kept

    def refusals(self) -> bytes:
        """What is to be read before anything else."""
        refused, self.refused = self.refused, b""
        return refused


class _Leaving:
    """The questions that httpcore asks, answered."""

    def __init__(self, inner: httpcore.AsyncHTTPConnection | httpcore.HTTPConnection, wire: _Wire) -> None:
        self._inner = inner
        self._wire = wire
        self._under_way = 0
        wire.owner = self

    def retire(self, connection: Connection) -> None:
        """Close it, if it is idle; otherwise httpcore does once it is."""
        raise NotImplementedError

    def cut(self, connection: Connection, reason: VestibuleError) -> None:
        """End it."""
        raise NotImplementedError

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_available(self) -> bool:
        return not self._wire.is_left and self._inner.is_available()

    def has_expired(self) -> bool:
        return not self._under_way and (
            self._inner.has_expired() or (self._wire.is_left and self._inner.is_idle())
        )

    def is_idle(self) -> bool:
        # httpcore takes HTTP/2 for idle when one answer ends while the next request is on its way to its stream.
        return not self._under_way and self._inner.is_idle()

    def is_closed(self) -> bool:
        return self._inner.is_closed()

    def info(self) -> str:
        return self._inner.info()

    def _begin(self) -> tuple[int, int, int]:
        """Counts a request in, until its answer is closed.

        Raises: httpcore.ConnectionNotAvailable, and the pool chooses another one.
        """
        wire = self._wire
        if wire.is_left:
            raise httpcore.ConnectionNotAvailable
        wire.requests += 1
        self._under_way += 1
        return wire.requests, wire.sent, wire.heard

    def _ended(self) -> None:
        with self._wire.lock:
            self._under_way -= 1

    def _may_repeat(self, request: httpcore.Request, error: Exception, began: tuple[int, int, int]) -> bool:
        """Whether the pool may send it again, on another connection."""
        number, sent, heard = began
        wire = self._wire
        if not isinstance(request.stream, httpx.ByteStream) or wire.reason is not None:
            return False
        if wire.frames is not None:
            return _error_code(error) == REFUSED_STREAM
        headers = {name.decode("latin-1"): "" for name, _ in request.headers}
        unanswered = number > 1 and wire.heard == heard
        return unanswered and may_repeat(request.method.decode("ascii"), headers, sent=wire.sent - sent)


class _AsyncBody:
    """What is read of an answer, whose end is told once."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended: Callable[[], None] | None = ended

    def __aiter__(self) -> AsyncIterator[bytes]:
        parts: AsyncIterator[bytes] = self._stream.__aiter__()
        return parts

    async def aclose(self) -> None:
        ended, self._ended = self._ended, None
        try:
            await self._stream.aclose()
        finally:
            if ended is not None:
                ended()


class _Body:
    """The same for threads."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended: Callable[[], None] | None = ended

    def __iter__(self) -> Iterator[bytes]:
        parts: Iterator[bytes] = iter(self._stream)
        return parts

    def close(self) -> None:
        ended, self._ended = self._ended, None
        try:
            self._stream.close()
        finally:
            if ended is not None:
                ended()


class _AsyncPooled(_Leaving, httpcore.AsyncConnectionInterface):
    def __init__(self, inner: httpcore.AsyncHTTPConnection, wire: _Wire) -> None:
        super().__init__(inner, wire)
        self._async_inner = inner
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        began = self._begin()
        try:
            response = await self._async_inner.handle_async_request(request)
        except BaseException as error:
            self._ended()
            if isinstance(error, _BROKEN) and self._may_repeat(request, error, began):
                raise httpcore.ConnectionNotAvailable from error
            raise
        response.stream = _AsyncBody(response.stream, self._ended)
        return response

    async def aclose(self) -> None:
        self._wire.forget()
        await self._async_inner.aclose()

    def retire(self, connection: Connection) -> None:
        if self.is_idle():
            self._close_soon()

    def cut(self, connection: Connection, reason: VestibuleError) -> None:
        self._wire.reason = reason
        self._close_soon()

    def _close_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.aclose(), name="retired-connection")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Pooled(_Leaving, httpcore.ConnectionInterface):
    def __init__(self, inner: httpcore.HTTPConnection, wire: _Wire) -> None:
        super().__init__(inner, wire)
        self._sync_inner = inner

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        with self._wire.lock:
            began = self._begin()
        try:
            response = self._sync_inner.handle_request(request)
        except BaseException as error:
            self._ended()
            if isinstance(error, _BROKEN) and self._may_repeat(request, error, began):
                raise httpcore.ConnectionNotAvailable from error
            raise
        response.stream = _Body(response.stream, self._ended)
        return response

    def close(self) -> None:
        self._wire.forget()
        self._sync_inner.close()

    def retire(self, connection: Connection) -> None:
        with self._wire.lock:
            if self.is_idle():
                self.close()

    def cut(self, connection: Connection, reason: VestibuleError) -> None:
        wire = self._wire
        wire.reason = reason
        with wire.lock:
            if self.is_idle():
                self.close()
            elif wire.socket is not None:
                # Another thread waits on it, and is woken by this; the descriptor stays its own to close.
                with suppress(OSError):
                    socket.socket.shutdown(wire.socket, socket.SHUT_RDWR)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream, wire: _Wire) -> None:
        self._stream = stream
        self._wire = wire

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        wire = self._wire
        while True:
            if wire.refused:
                return wire.refusals()
            try:
                data = await self._read(max_bytes, timeout)
            except (httpcore.ReadError, ssl.SSLError) as error:
                raise wire.lost(error)  # noqa: B904 - it has its cause
            if data is not None and (taken := wire.take(data)) is not None:
                return taken

    async def _read(self, max_bytes: int, timeout: float | None) -> bytes | None:
        """None when something is to be refused meanwhile, which only HTTP/2 knows."""
        if self._wire.frames is None:
            return await self._stream.read(max_bytes, timeout)
        scope = self._wire.reading = anyio.CancelScope()
        try:
            with scope:
                return await self._stream.read(max_bytes, timeout)
        finally:
            self._wire.reading = None
        return None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.write(self._wire.give(buffer), timeout)
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error
        self._wire.sent += len(buffer)

    async def aclose(self) -> None:
        self._wire.forget()
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._wire.secured(stream.get_extra_info("ssl_object"))
        return _AsyncStream(stream, self._wire)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, wire: _Wire) -> None:
        self._stream = stream
        self._wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            if self._wire.refused:
                return self._wire.refusals()
            try:
                data = self._stream.read(max_bytes, timeout)
            except httpcore.ReadError as error:
                raise self._wire.lost(error)  # noqa: B904 - it has its cause
            if (taken := self._wire.take(data)) is not None:
                return taken

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(self._wire.give(buffer), timeout)
        self._wire.sent += len(buffer)

    def close(self) -> None:
        self._wire.forget()
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._wire.socket = stream.get_extra_info("socket")
        self._wire.secured(self._wire.socket)
        return _Stream(stream, self._wire)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AnyIOBackend):
    """Makes one connection."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    async def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await super().connect_tcp(*arguments, **options), self._wire)


class _Backend(httpcore.SyncBackend):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*arguments, **options), self._wire)


def _error_code(error: Exception) -> int | None:
    """Why the other side reset a stream of HTTP/2."""
    return getattr(error.args[0], "error_code", None) if error.args else None
