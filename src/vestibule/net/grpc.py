"""gRPC without generated service code: services and clients are built from protobuf service descriptors.

A server is ``serve(descriptor, implementation)``, where the implementation has one coroutine per RPC,
named in snake case (``AttestAgent`` → ``attest_agent``, ``Return`` → ``return_``), taking grpclib's stream.  A client
is ``Client(channel, descriptor)``.  Vestibule's error code and advice travel in two trailing-metadata keys
that other clients ignore, so that an operator sees the same error on both sides.  The status message begins
with the code, too: it is all that Envoy and other people's clients show.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from keyword import iskeyword
from typing import Any, Final, cast
from urllib.parse import quote, unquote

import grpclib.client
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import decode_metadata
from h2.exceptions import ProtocolError

from vestibule.errors import CATALOGUE, ErrorCode, Kind, VestibuleError
from vestibule.net.codes import INTERNAL, REMOTE_REFUSED, SHUTTING_DOWN, UNREACHABLE
from vestibule.net.data_frames import put

_PREFIX: Final = struct.Struct(">?I")
"""Whether a message is compressed, and its length."""
CODE_KEY: Final = "vestibule-error-code"
ADVICE_KEY: Final = "vestibule-error-advice"
DEFAULT_TIMEOUT: Final = 30.0
MAX_TOLD: Final = 1000
"""Characters of an error's message that travel.  Messages quote what a caller sent; and since they travel in
headers, whose compression takes time with the square of their length, a long one would stop the whole process."""
_CODE: Final = re.compile("VST[0-9]{4}")
_WRONG_PLACE: Final = (
    "Whoever answers there does something else: check that the socket or address is that of the server "
    "(server.sock) or of the agent (agent.sock, agent-admin.sock), and that both sides are of the same version."
)

_log = logging.getLogger(__name__)

Stream = Any
"""grpclib's server or client stream; its type parameters depend on the method."""

STATUS_OF_KIND: Final[Mapping[Kind, Status]] = {
    Kind.INVALID: Status.INVALID_ARGUMENT,
    Kind.NOT_FOUND: Status.NOT_FOUND,
    Kind.ALREADY_EXISTS: Status.ALREADY_EXISTS,
    Kind.UNAUTHENTICATED: Status.UNAUTHENTICATED,
    Kind.DENIED: Status.PERMISSION_DENIED,
    Kind.PRECONDITION: Status.FAILED_PRECONDITION,
    Kind.EXHAUSTED: Status.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: Status.UNAVAILABLE,
    Kind.UNIMPLEMENTED: Status.UNIMPLEMENTED,
    Kind.INTERNAL: Status.INTERNAL,
}


class Servable:
    """A service ready for ``grpclib.server.Server``; ``descriptor`` says what it is, where that is known."""

    def __init__(self, mapping: dict[str, Handler], descriptor: ServiceDescriptor | None = None) -> None:
        self._mapping = mapping
        self.descriptor = descriptor

    def __mapping__(self) -> dict[str, Handler]:
        return self._mapping


Details = Callable[[VestibuleError], Sequence[Message]]
"""What else to tell about an error, in ``grpc-status-details-bin``."""


def _no_details(_error: VestibuleError) -> Sequence[Message]:
    return ()


def serve(
    descriptor: ServiceDescriptor, implementation: object, *, details: Details = _no_details
) -> Servable:
    """Bind an implementation to a service.  RPCs it has no method for are answered UNIMPLEMENTED."""
    mapping: dict[str, Handler] = {}
    for method in descriptor.methods:
        name = _snake(method.name)
        function = getattr(implementation, f"{name}_" if iskeyword(name) else name, None)
        if function is None:
            continue
        mapping[_path(method)] = Handler(
            _guarded(method.full_name, function, details),
            _cardinality(method),
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
        )
    return Servable(mapping, descriptor)


def _guarded(
    name: str, function: Callable[[Stream], Awaitable[None]], details: Details
) -> Callable[[Stream], Awaitable[None]]:
    async def handle(stream: Stream) -> None:
        try:
            await function(stream)
        except VestibuleError as error:
            await refuse(stream, error, details(error))
        except GRPCError:
            raise
        except StreamTerminatedError as error:
            # The client left while a task of the handler was talking to it.  grpclib cancelled the handler for
            # that, and logs an error with a trace unless it sees its own cancellation come back.
            wrapper = getattr(stream._stream, "wrapper", None)
            if wrapper is not None and wrapper.cancelled:
                raise asyncio.CancelledError from error
            raise
        except asyncio.CancelledError:
            # Either the client left, and nobody reads this; or its deadline has passed, which grpclib tells it; or
            # we are shutting down: clients must see UNAVAILABLE, since some stop for good at CANCELLED.
            wrapper = getattr(stream._stream, "wrapper", None)
            if wrapper is not None and wrapper.cancelled:
                raise
            await refuse(stream, SHUTTING_DOWN.error("the component is shutting down"))
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log gets the trace
            _log.exception("unexpected failure in %s", name)
            await refuse(stream, INTERNAL.error(f"{name} failed unexpectedly"))
        finally:
            _see_cancellation(stream)

    return handle


def _see_cancellation(stream: Stream) -> None:
    """grpclib takes a handler that was done, or refused the call, when the client left for one that cannot be ended."""
    wrapper = getattr(getattr(stream, "_stream", None), "wrapper", None)
    if wrapper is not None and wrapper.cancelled:
        raise asyncio.CancelledError


async def refuse(stream: Stream, error: VestibuleError, details: Sequence[Message] = ()) -> None:
    """End a call with an error; ``details`` travel in ``grpc-status-details-bin``, for other implementations."""
    try:
        await stream.send_trailing_metadata(
            status=STATUS_OF_KIND[error.code.kind],
            status_message=f"{error.code.code} {error.message}",
            status_details=list(details) or None,
            metadata={CODE_KEY: error.code.code, ADVICE_KEY: quote(error.advice)},
        )
    except Exception:  # noqa: BLE001 - the stream is gone; there is nobody left to tell
        _log.debug("could not deliver %s", error.code.code)


async def send_serialized(stream: Stream, data: bytes) -> None:
    """Send a message that is bytes already."""
    if not stream._send_initial_metadata_done:
        await stream.send_initial_metadata()
    await stream._stream.send_data(_PREFIX.pack(False, len(data)) + data)


def send_at_once(stream: Stream, data: bytes) -> bool:
    """Send a message that is bytes already, unless that meant to wait for the other side to read; whether it did so.

    Streams of one connection that do so at the same moment share a record of TLS and a system call.
    Raises: h2's ProtocolError when the stream is gone.
    """
    inner = getattr(stream, "_stream", None)  # a client's is absent until the request is sent
    if inner is None or not getattr(stream, "_send_initial_metadata_done", True):
        return False
    connection, h2 = inner.connection, inner._h2_connection
    if not connection.write_ready.is_set():
        return False
    framed = _PREFIX.pack(False, len(data)) + data
    if h2.local_flow_control_window(inner.id) < len(framed):
        return False
    most = h2.max_outbound_frame_size
    for start in range(0, len(framed), most):
        put(h2, inner.id, framed[start : start + most])
    if not getattr(connection, "flush_is_due", False):
        connection.flush_is_due = True
        asyncio.get_running_loop().call_soon(_flush, connection)
    inner.data_sent += len(framed)
    connection.data_sent += len(framed)
    connection.data_send_process()
    return True


def _flush(connection: Any) -> None:
    connection.flush_is_due = False
    if not connection.is_closing():
        connection.flush()


async def read_each(stream: Stream, take: Callable[[Any], bool]) -> Any | None:
    """Call ``take`` with every message as it comes, until it says False, or the other side ends the stream.

    Returns the message that was not taken, or None at the end; raises what ``take`` raises, and as ``recv_message``.
    A message that arrives in one piece is taken right there: no task has to wake up for it.
    """
    inner, kind = getattr(stream, "_stream", None), getattr(stream, "_recv_type", None)
    context = contextvars.copy_context()
    failure: Exception | None = None

    def at_once(data: bytes) -> bool:
        nonlocal failure
        try:
            message = cast(Any, kind).FromString(data)
        except DecodeError:
            return False  # It is read again below, and refused.
        try:
            return context.run(take, message)
        except Exception as error:  # noqa: BLE001 - raised below, which the message wakes up
            failure = error
            return False

    while True:
        if inner is not None and kind is not None:
            # What comes in pieces is put together the usual way, and what comes after it waits behind it.
            inner.is_fresh = inner.buffer._unacked.empty() and not inner.buffer._acked_size
            inner.at_once = at_once
        try:
            message = await stream.recv_message()
        finally:
            if inner is not None:
                inner.at_once = None
        if failure is not None:
            raise failure
        if message is None or not take(message):
            return message


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…"


class Client:
    """Calls the RPCs of one service on a channel."""

    def __init__(self, channel: grpclib.client.Channel, descriptor: ServiceDescriptor) -> None:
        self._channel = channel
        self._descriptor = descriptor

    async def unary(
        self,
        name: str,
        request: Message,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """One request, one answer.  Raises: the other side's VestibuleError; VST2300 when it is not there."""
        async with self.stream(name, timeout=timeout, metadata=metadata) as stream:
            await stream.send_message(request, end=True)
            return await stream.recv_message()

    @asynccontextmanager
    async def stream(
        self, name: str, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Stream]:
        """An open call.  Leaving the block before the end cancels it.  Raises as ``unary`` does."""
        method = self._descriptor.methods_by_name[name]
        stream: Stream | None = None
        ending = _Ending()
        try:
            async with self._channel.request(
                _path(method),
                _cardinality(method),
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
                timeout=timeout,
                metadata=dict(metadata or {}),
            ) as stream:
                ending.watch(stream)
                yield stream
                # Otherwise grpclib would now wait for the end of a stream that has none.
                if method.server_streaming and _is_open(stream):
                    await stream.cancel()
                elif method.server_streaming and hasattr(stream, "_stream"):
                    # The server has ended the call, so that nobody waits for our own end of it.
                    stream._end_done = True
        except (GRPCError, StreamTerminatedError, ProtocolError, OSError) as error:
            if ending.was_asked_for():
                raise asyncio.CancelledError from error
            raise _translated(name, error, stream) from error


class _Ending:
    """Whether the task that makes a call was told to end.

    grpclib wakes who waits for a stream by cancelling it, and then raises its own error, also to somebody who was
    cancelled by others at the same moment: a task that goes on after that goes on for ever.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0
        self._wakings = 0

    def watch(self, stream: Stream) -> None:
        """Count how often grpclib cancels the task."""
        wrapper = stream._wrapper
        wake = wrapper.cancel

        def counted(error: Exception) -> None:
            self._wakings += self._task in wrapper._tasks
            wake(error)

        wrapper.cancel = counted

    def was_asked_for(self) -> bool:
        """Whether somebody else cancelled it, too; grpclib's own cancellations are taken back."""
        if self._task is None:
            return False
        for _ in range(self._wakings):
            self._task.uncancel()
        self._wakings = 0
        return self._task.cancelling() > self._before


def _translated(name: str, error: Exception, stream: Stream | None) -> VestibuleError:
    match error:
        case GRPCError():
            return _remote(error, stream)
        case StreamTerminatedError() | ProtocolError():
            return UNREACHABLE.error(f"the connection ended during {name}: {error}")
        case TimeoutError():
            return UNREACHABLE.error(f"{name} was not answered in time")
        case _:
            return UNREACHABLE.error(f"cannot connect for {name}: {error}")


def _is_open(stream: Stream) -> bool:
    inner = getattr(stream, "_stream", None)  # absent until the request is sent
    return inner is not None and not inner.buffer._eof and inner.closable


def _remote(error: GRPCError, stream: Stream | None) -> VestibuleError:
    trailers = _trailers(stream)
    code = str(trailers.get(CODE_KEY, ""))
    message = error.message or error.status.name.lower().replace("_", " ")
    advice = unquote(str(trailers.get(ADVICE_KEY, ""))) or None
    if _CODE.fullmatch(code):
        # A code of a room that this process has no use for, such as the server's, is shown as it came.
        known = CATALOGUE.get(code) or _foreign(code, error.status)
        return known.error(message.removeprefix(f"{code} "), advice=advice)
    if error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED):
        return UNREACHABLE.error(message)
    if error.status is Status.UNIMPLEMENTED:
        advice = advice or _WRONG_PLACE
    return REMOTE_REFUSED.error(f"{error.status.name}: {message}", advice=advice)


def _trailers(stream: Stream | None) -> Mapping[str, Any]:
    if stream is None:
        return {}
    if stream.trailing_metadata:
        return cast(Mapping[str, Any], stream.trailing_metadata)
    # The other side refused and closed while we were still sending: grpclib raises without having decoded them.
    inner = getattr(stream, "_stream", None)
    headers = (inner.trailers or inner.headers or ()) if inner is not None else ()
    return cast(Mapping[str, Any], decode_metadata(headers))


def _foreign(code: str, status: Status) -> ErrorCode:
    kind = next((kind for kind, mapped in STATUS_OF_KIND.items() if mapped is status), Kind.INTERNAL)
    return replace(REMOTE_REFUSED, code=code, name=f"remote-{code.lower()}", kind=kind)


def _cardinality(method: MethodDescriptor) -> Cardinality:
    return {
        (False, False): Cardinality.UNARY_UNARY,
        (False, True): Cardinality.UNARY_STREAM,
        (True, False): Cardinality.STREAM_UNARY,
        (True, True): Cardinality.STREAM_STREAM,
    }[(method.client_streaming, method.server_streaming)]


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _snake(name: str) -> str:
    """``BatchNewX509SVID`` → ``batch_new_x509_svid``; ``FetchJWTSVIDs`` → ``fetch_jwt_svids``."""
    name = re.sub(r"(?<=JWT|WIT)(?=SVID)", "_", name).replace("SVIDs", "Svids")
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return spaced.lower()
