"""Runs an xDS state machine over a gRPC stream: ADS and SDS are served by this.

Requests are read as they come, snapshots are taken as they come, and neither waits for the other: only sending
waits, for the client to read.  A client that reads slowly so gets fewer, newer responses, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from h2.exceptions import ProtocolError

from vestibule.errors import VestibuleError
from vestibule.net.grpc import Stream, read_each, send_at_once, send_serialized
from vestibule.xds.codes import CLIENT_STUCK
from vestibule.xds.delta import DeltaStream
from vestibule.xds.messages import Event, SotwRequest, SotwResponse
from vestibule.xds.patches import PatchWriter
from vestibule.xds.protobuf import (
    delta_request_from,
    delta_response_bytes,
    sotw_request_from,
    sotw_response_to,
)
from vestibule.xds.resources import Snapshot
from vestibule.xds.sotw import Absent, SotwStream

SEND_TIMEOUT: Final = 60.0
"""Seconds after which a client that does not read what it was sent loses its stream."""
BREAK_AFTER: Final = 1.0
"""Seconds a client has to say all that it wants before anything is taken away from it."""

OnEvent = Callable[[Event], None]
OnRequest = Callable[[Any], Snapshot | None]
"""Sees each message before it is acted upon, and may put another snapshot in the place of the last one."""


def ignore(event: Event) -> None:
    """For doors that need no account of what happened."""


def as_it_is(message: Any) -> None:
    """For doors whose snapshots do not depend on what is asked for."""


async def serve_delta(
    stream: Stream,
    snapshots: AsyncIterator[Snapshot],
    *,
    types: Sequence[str],
    on_event: OnEvent = ignore,
    on_request: OnRequest = as_it_is,
    node_required: bool = True,
    restates: bool = False,
    patches: bool = False,
) -> None:
    """Serve incremental xDS until the client ends the stream.

    ``snapshots`` gives what the client should have, newest last; what it raises ends the stream with that error.
    ``types`` are those that may be asked for: with one, requests may leave the type out.  ``on_event`` is called
    with what was sent, accepted, refused and settled.  ``restates``: the client is a relay (``XdsStream``).
    ``patches``: it understands them (``xds.patches``).
    Raises: VST3100, VST3101, VST3102, VST3103, VST3104, VST3105; what ``snapshots`` raises.
    """
    machine = DeltaStream(types, node_required=node_required, restates=restates)
    encode = PatchWriter().write if patches else delta_response_bytes
    await _Serving(machine, stream, delta_request_from, encode, on_event, on_request).run(snapshots)


async def serve_sotw(
    stream: Stream,
    snapshots: AsyncIterator[Snapshot],
    *,
    types: Sequence[str],
    on_event: OnEvent = ignore,
    on_request: OnRequest = as_it_is,
    node_required: bool = True,
    absent: Absent | None = None,
) -> None:
    """Serve state-of-the-world xDS until the client ends the stream; all else as ``serve_delta``.

    With ``absent`` a name that does not exist ends the stream with the error that it makes.
    """
    machine = SotwStream(types, node_required=node_required, absent=absent)
    await _Serving(machine, stream, sotw_request_from, _sotw_response_bytes, on_event, on_request).run(
        snapshots
    )


def _sotw_response_bytes(response: SotwResponse) -> bytes:
    written: bytes = sotw_response_to(response).SerializeToString()
    return written


def answer_once(
    message: Any, snapshot: Snapshot, *, types: Sequence[str], absent: Absent | None = None
) -> Any:
    """Answer a single ``DiscoveryRequest`` (the ``Fetch…`` RPCs) with a ``DiscoveryResponse``.

    It is empty when nothing that was asked for exists.  Raises: VST3102, VST3103, VST3104, and what ``absent`` makes of
    names that do not exist.
    """
    request = sotw_request_from(message)
    machine = SotwStream(types, node_required=False, absent=absent)
    machine.update(snapshot)
    machine.receive(SotwRequest(type_url=request.type_url, node_id=request.node_id, names=request.names))
    response = machine.next_response()
    if response is None:
        response = SotwResponse(type_url=request.type_url or types[0], version=snapshot.version, nonce="")
    return sotw_response_to(response)


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Taken = TypeVar("_Taken", contravariant=True)
_Given = TypeVar("_Given", covariant=True)


class _Machine(Protocol[_Taken, _Given]):
    @property
    def is_idle(self) -> bool: ...
    def receive(self, request: _Taken) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def allow_breaking(self) -> None: ...
    def next_response(self) -> _Given | None: ...
    def take_events(self) -> list[Event]: ...


class _Serving(Generic[_Request, _Response]):
    """Three tasks around one machine: requests in, snapshots in, responses out."""

    def __init__(
        self,
        machine: _Machine[_Request, _Response],
        stream: Stream,
        decode: Callable[[Any], _Request],
        encode: Callable[[_Response], bytes],
        on_event: OnEvent,
        on_request: OnRequest,
    ) -> None:
        self._on_request = on_request
        self._machine = machine
        self._stream = stream
        self._decode = decode
        self._encode = encode
        self._on_event = on_event
        self._news = asyncio.Event()
        self._sending = False
        self._unsent: bytes | None = None

    async def run(self, snapshots: AsyncIterator[Snapshot]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                others = (
                    group.create_task(self._follow(snapshots), name="xds snapshots"),
                    group.create_task(self._write(), name="xds responses"),
                    group.create_task(self._allow_breaking(), name="xds removals"),
                )
                await self._read()
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise cause_of(failures) from None

    async def _read(self) -> None:
        await read_each(self._stream, self._take)

    def _take(self, message: Any) -> bool:
        if (snapshot := self._on_request(message)) is not None:
            self._machine.update(snapshot)
        self._machine.receive(self._decode(message))
        self._tell()
        return True

    async def _follow(self, snapshots: AsyncIterator[Snapshot]) -> None:
        async for snapshot in snapshots:
            self._machine.update(snapshot)
            if self._news.is_set() or self._sending:
                self._tell()
            elif self._write_at_once():
                self._report()

    async def _allow_breaking(self) -> None:
        await asyncio.sleep(BREAK_AFTER)
        self._machine.allow_breaking()
        self._tell()

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            # What has arrived is read first: it may make a response needless.
            await asyncio.sleep(0)
            self._news.clear()
            while (message := self._next_message()) is not None:
                self._sending = True
                try:
                    await self._send(message)
                except ProtocolError:
                    return  # The client left a moment ago, which is about to end this call.
                self._sending = False
            self._report()

    def _write_at_once(self) -> bool:
        """What follows from a new snapshot, as far as the client reads: no task has to wake up for it.

        Whether that was all there is to send now.
        """
        try:
            while (message := self._next_message()) is not None:
                if not send_at_once(self._stream, message):
                    self._unsent = message
                    self._news.set()
                    return False
        except ProtocolError:
            pass  # as above
        return True

    def _next_message(self) -> bytes | None:
        message, self._unsent = self._unsent, None
        if message is None and (response := self._machine.next_response()) is not None:
            self._report()
            message = self._encode(response)
        return message

    async def _send(self, message: bytes) -> None:
        if send_at_once(self._stream, message):
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await send_serialized(self._stream, message)
        except TimeoutError as error:
            _hang_up_if_stuck(self._stream)
            raise CLIENT_STUCK.error(f"the client read nothing for {SEND_TIMEOUT:.0f} s") from error

    def _tell(self) -> None:
        self._report()
        if not self._machine.is_idle:
            self._news.set()

    def _report(self) -> None:
        for event in self._machine.take_events():
            self._on_event(event)


def _hang_up_if_stuck(stream: Stream) -> None:
    """Where not even a status could be written, the connection is of no use to any stream."""
    if not stream._stream.connection.write_ready.is_set():
        stream._stream._transport.abort()


def cause_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure to answer with: a foreseen one, if there is any."""
    leaves = list(_leaves(failures))
    return next((leaf for leaf in leaves if isinstance(leaf, VestibuleError)), leaves[0])


def _leaves(failure: BaseException) -> list[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for part in failure.exceptions for leaf in _leaves(part)]
    return [failure]
