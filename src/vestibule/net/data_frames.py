"""HTTP/2's data frames without the ceremony: most of what long streams say is one small message in one frame.

h2 keeps all state, and does all that is not plain: padding, ends, full windows, anything odd.  What it would do about
the plainest of frames is done here, at a small part of its cost.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from h2.connection import ConnectionState, H2Connection
from h2.stream import StreamState

_HEADER: Final = struct.Struct(">IBI")
"""Length and type, flags, stream: nine bytes, all zero but length and stream where the frame is plain data."""
_HEADER_BYTES: Final = 9
_MESSAGE_PREFIX: Final = 5
"""Bytes of gRPC before a message: whether it is compressed, and its length."""


class PlainData:
    """A data frame, as h2's ``DataReceived`` tells of one."""

    __slots__ = ("data", "flow_controlled_length", "stream_id")

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.data = data
        self.flow_controlled_length = len(data)


class PlainFrames:
    """Takes the plain data frames off the front of what a connection receives."""

    def __init__(self, h2: H2Connection, take: Callable[[Any], None]) -> None:
        """``take`` is called with every ``PlainData``."""
        self._h2: Any = h2
        self._take = take
        self._begun = b""

    def receive(self, data: bytes) -> bytes:
        """What is left for h2."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        h2 = self._h2
        waiting = h2.incoming_buffer
        if waiting._data or waiting._headers_buffer or waiting._preamble_len or not _is_open(h2):
            return data
        at, end, streams = 0, len(data), h2.streams
        while end - at >= _HEADER_BYTES:
            head, flags, stream_id = _HEADER.unpack_from(data, at)
            stream, size = streams.get(stream_id), head >> 8
            if flags or head & 0xFF or not size or stream is None or not _may_receive(h2, stream, size):
                return data[at:] if at else data
            start = at + _HEADER_BYTES
            if end - start < size:
                break
            at = start + size
            h2._inbound_flow_control_window_manager.current_window_size -= size
            stream._inbound_window_manager.current_window_size -= size
            self._take(PlainData(stream_id, data[start:at]))
            if not _is_open(h2):
                return data[at:]
        self._begun = data[at:]
        return b""


def put(h2: H2Connection, stream_id: int, data: bytes) -> None:
    """Have h2 send so much as one frame, which the windows allow.  Raises: as ``H2Connection.send_data``."""
    connection: Any = h2
    stream: Any = connection.streams.get(stream_id)
    if stream is None or not _is_open(h2) or not _may_send(stream):
        h2.send_data(stream_id, data)
        return
    size = len(data)
    stream.outbound_flow_control_window -= size
    connection.outbound_flow_control_window -= size
    connection._data_to_send += _HEADER.pack(size << 8, 0, stream_id) + data


def hand_over(stream: Any, event: Any) -> bool:
    """Give a message that came in one frame to whoever wants those of the stream at once (``net.grpc.read_each``).

    False where nobody does, or not this one: then it goes the usual way.
    """
    if (at_once := getattr(stream, "at_once", None)) is None:
        return False
    data, size = event.data, event.flow_controlled_length
    if not (
        stream.is_fresh
        and size == len(data) >= _MESSAGE_PREFIX
        and not data[0]
        and int.from_bytes(data[1:_MESSAGE_PREFIX]) == size - _MESSAGE_PREFIX
        and at_once(data[_MESSAGE_PREFIX:])
    ):
        stream.is_fresh = False
        return False
    stream.data_received += size
    stream.connection.data_received += size
    _give_back(stream, size)
    return True


def _give_back(stream: Any, size: int) -> None:
    """Room in the windows: told to the other side once it is worth it."""
    h2 = stream._h2_connection
    of_stream = h2.streams.get(stream.id)
    if of_stream is None:
        stream.connection.ack(stream.id, size)
        return
    managers = h2._inbound_flow_control_window_manager, of_stream._inbound_window_manager
    if any(
        not each.current_window_size or each._bytes_processed + size >= each.max_window_size // 2
        for each in managers
    ):
        stream.connection.ack(stream.id, size)
        return
    for each in managers:
        each._bytes_processed += size


def _is_open(h2: Any) -> bool:
    state = h2.state_machine.state
    return state is ConnectionState.SERVER_OPEN or state is ConnectionState.CLIENT_OPEN


def _may_send(stream: Any) -> bool:
    state = stream.state_machine.state
    return state is StreamState.OPEN or state is StreamState.HALF_CLOSED_REMOTE


def _may_receive(h2: Any, stream: Any, size: int) -> bool:
    machine = stream.state_machine
    return bool(
        (machine.state is StreamState.OPEN or machine.state is StreamState.HALF_CLOSED_LOCAL)
        and machine.headers_received
        and stream._expected_content_length is None
        and size <= h2.max_inbound_frame_size
        and size <= h2._inbound_flow_control_window_manager.current_window_size
        and size <= stream._inbound_window_manager.current_window_size
    )
