"""A gRPC server's side of an HTTP/2 connection on which one client calls one unary method, again and again.

A proxy that asks about every request sends the same few header bytes each time.  A whole HTTP/2 implementation and a
task per call cost twenty times what the answer does (docs/decisions/0029); here a call is three frames in and three
frames out.  Only what that needs is here: RFC 9113 frames and flow control, RFC 7541 by ``hpack``, gRPC's framing.  No
sockets: bytes come in, bytes go out.  What is not understood ends the connection.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from vestibule.errors import VestibuleError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Answer = Callable[[bytes], bytes]
"""A request message → a response message.  A VestibuleError ends the call with UNAVAILABLE, others with INTERNAL."""

MAX_FRAME: Final = 16_384
MAX_HEADERS: Final = 16_384
"""Bytes of one call's headers, compressed; uncompressed four times as many."""
MAX_UNFINISHED: Final = 1000
"""Calls that have begun and not been sent whole."""
MAX_KEPT: Final = 8 * 2**20
"""Bytes of such calls altogether."""
MAX_UNSENT: Final = 4096
"""Answers that wait for the client's windows."""
KNOWN_BLOCKS: Final = 64
"""Header blocks whose meaning is remembered; a proxy sends one or two."""
CRUMBS: Final = 1000
"""Frames of one call."""

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM, _END_HEADERS, _PADDED, _WITH_PRIORITY, _ACK = 0x1, 0x4, 0x8, 0x20, 0x1
_NO_ERROR, _PROTOCOL_ERROR, _FLOW_CONTROL_ERROR, _FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x6
_REFUSED_STREAM, _CALM = 0x7, 0xB
_INITIAL_WINDOW_SETTING: Final = 4
_MAX_FRAME_SETTING: Final = 5
_DEFAULT_WINDOW: Final = 65_535
_MOST: Final = 2**31 - 1

_HEAD: Final = struct.Struct(">HBBBI")
_LONG: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_MESSAGE: Final = struct.Struct(">BI")


class Malformed(Exception):  # noqa: N818 - never leaves this module's users: it is how a connection ends
    """The connection cannot go on; ``code`` is what RFC 9113, section 7, calls it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(slots=True)
class _Call:
    known: bool
    """Whether the method is the one that is served."""
    data: list[bytes] = field(default_factory=list)
    size: int = 0
    frames: int = 0


class UnaryConnection:
    """One connection, after our SETTINGS were sent.

    ``path`` is the method, as ``/package.Service/Method``.  ``window`` is the receive window that was announced, of
    the connection and of each stream.  Messages are at most ``max_message`` bytes long.
    """

    def __init__(self, path: str, answer: Answer, *, max_message: int, window: int) -> None:
        self._path = path.encode()
        self._answer = answer
        self._max_message = max_message
        self._buffer = bytearray()
        self._begun = False
        self._decoder = Decoder(max_header_list_size=4 * MAX_HEADERS)
        self._decoder.max_allowed_table_size = 4096
        self._known_blocks: dict[bytes, bool] = {}
        self._calls: dict[int, _Call] = {}
        self._kept = 0
        self._newest = 0
        self._partial: tuple[int, int, bytearray] | None = None
        self._ready: dict[int, _Call] = {}
        self._owed = 0
        self._credit_at = max(window // 2, 1)
        self._their_window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._stream_credit: dict[int, int] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._out: list[bytes] = []
        self.closed = False

    def receive(self, data: bytes) -> bytes:
        """Bytes of the client; returns what to send.  ``closed`` says that it is the last."""
        if self.closed:
            return b""
        self._buffer += data
        try:
            self._read()
            # A client that has given up meanwhile is not waited upon: what it reset in the same breath is not decided.
            for stream, call in self._ready.items():
                self._respond(stream, call)
            self._ready.clear()
            self._send()
            if self._owed >= self._credit_at:
                self._out.append(_frame(_WINDOW, 0, 0, _LONG.pack(self._owed)))
                self._owed = 0
        except Malformed as error:
            self._out.append(_goodbye(self._newest, error.code))
            self.closed = True
        written = b"".join(self._out)
        self._out.clear()
        return written

    def goodbye(self) -> bytes:
        """An orderly end: what is to be sent last."""
        self.closed = True
        return _goodbye(self._newest, _NO_ERROR)

    # ------------------------------------------------------------------------------------------- frames in

    def _read(self) -> None:
        buffer, place = self._buffer, 0
        if not self._begun:
            if len(buffer) < len(PREFACE):
                if not PREFACE.startswith(buffer):
                    raise Malformed(_PROTOCOL_ERROR, "no HTTP/2")
                return
            if not buffer.startswith(PREFACE):
                raise Malformed(_PROTOCOL_ERROR, "no HTTP/2")
            self._begun, place = True, len(PREFACE)
        end = len(buffer)
        while end - place >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, place)
            length = high << 8 | low
            if length > MAX_FRAME:
                raise Malformed(_FRAME_SIZE_ERROR, "a frame is too long")
            if end - place - _HEAD.size < length:
                break
            place += _HEAD.size
            self._frame(kind, flags, stream & _MOST, bytes(buffer[place : place + length]))
            place += length
        del buffer[:place]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._partial is not None and (kind != _CONTINUATION or self._partial[0] != stream):
            raise Malformed(_PROTOCOL_ERROR, "headers were interrupted")
        match kind:
            case 0:
                self._take_data(flags, stream, payload)
            case 1:
                self._begin_headers(flags, stream, payload)
            case 9:
                self._continue_headers(flags, payload)
            case 8:
                self._take_credit(stream, payload)
            case 3:
                self._forget(stream, payload)
            case 4:
                self._take_settings(flags, stream, payload)
            case 6:
                if stream or len(payload) != 8:
                    raise Malformed(_PROTOCOL_ERROR, "a malformed ping")
                if not flags & _ACK:
                    self._out.append(_frame(_PING, _ACK, 0, payload))
            case 5:
                raise Malformed(_PROTOCOL_ERROR, "clients push nothing")
            case _:
                pass  # PRIORITY and GOAWAY say nothing to us; unknown types are ignored (section 5.5)

    def _begin_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = _unpadded(flags, payload)
        if flags & _WITH_PRIORITY:
            block = block[5:]
        if flags & _END_HEADERS:
            self._open(stream, flags, block)
            return
        self._partial = (stream, flags, bytearray(block))

    def _continue_headers(self, flags: int, payload: bytes) -> None:
        if self._partial is None:
            raise Malformed(_PROTOCOL_ERROR, "a continuation of nothing")
        stream, first, block = self._partial
        if not payload and not flags & _END_HEADERS:
            raise Malformed(_CALM, "an empty continuation")
        block += payload
        if len(block) > MAX_HEADERS:
            raise Malformed(_CALM, "headers are too long")
        if flags & _END_HEADERS:
            self._partial = None
            self._open(stream, first, bytes(block))

    def _open(self, stream: int, flags: int, block: bytes) -> None:
        if stream in self._calls:
            # Trailers; gRPC clients send none, and whoever does is read no further.
            self._headers(block)
            raise Malformed(_PROTOCOL_ERROR, "trailers of a request")
        if not stream & 1 or stream <= self._newest:
            raise Malformed(_PROTOCOL_ERROR, "a stream that cannot be opened")
        self._newest = stream
        known = self._headers(block)
        if flags & _END_STREAM:
            self._ready[stream] = _Call(known)
        elif len(self._calls) >= MAX_UNFINISHED:
            self._reset(stream, _REFUSED_STREAM)
        else:
            self._calls[stream] = _Call(known)

    def _headers(self, block: bytes) -> bool:
        """Whether the method that is served is called.

        A block of nothing but indexes changes no table, and means the same until another block does.
        """
        known = self._known_blocks.get(block)
        if known is not None:
            return known
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise Malformed(_PROTOCOL_ERROR, "headers cannot be read") from error
        is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        meant = is_grpc and headers.get(b":path") == self._path
        if len(self._known_blocks) >= KNOWN_BLOCKS or not all(0x80 < each < 0xFF for each in block):
            self._known_blocks.clear()
        else:
            self._known_blocks[block] = meant
        return meant

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise Malformed(_PROTOCOL_ERROR, "data of no stream")
        self._owed += len(payload)
        call = self._calls.get(stream)
        if call is None:
            if stream > self._newest:
                raise Malformed(_PROTOCOL_ERROR, "data of a stream that was not opened")
            return  # of one that is over for us
        data = _unpadded(flags, payload)
        call.frames += 1
        call.size += len(data)
        self._kept += len(data)
        if call.size > self._max_message + _MESSAGE.size:
            self._drop(stream)
            self._finish(stream, 8, "the message is too long")
            self._reset(stream, _NO_ERROR)
            return
        if call.frames > CRUMBS or self._kept > MAX_KEPT:
            raise Malformed(_CALM, "too much that is not finished")
        call.data.append(data)
        if flags & _END_STREAM:
            self._drop(stream)
            self._ready[stream] = call

    def _drop(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            self._kept -= call.size

    def _forget(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4 or not stream or stream > self._newest:
            raise Malformed(_PROTOCOL_ERROR, "a malformed reset")
        self._drop(stream)
        self._ready.pop(stream, None)
        self._stream_credit.pop(stream, None)

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        if stream or len(payload) % _SETTING.size:
            raise Malformed(_PROTOCOL_ERROR, "malformed settings")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SETTING:
                if value > _MOST:
                    raise Malformed(_FLOW_CONTROL_ERROR, "a window is too large")
                self._stream_window = value
            elif name == _MAX_FRAME_SETTING and value < MAX_FRAME:
                raise Malformed(_PROTOCOL_ERROR, "frames are too small")
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))

    def _take_credit(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Malformed(_FRAME_SIZE_ERROR, "a malformed window update")
        more = _LONG.unpack(payload)[0] & _MOST
        if not more:
            raise Malformed(_PROTOCOL_ERROR, "a window update of nothing")
        if not stream:
            self._their_window += more
            if self._their_window > _MOST:
                raise Malformed(_FLOW_CONTROL_ERROR, "a window is too large")
        elif any(waiting == stream for waiting, _ in self._unsent):
            self._stream_credit[stream] = self._stream_credit.get(stream, 0) + more

    # ------------------------------------------------------------------------------------------ answers out

    def _respond(self, stream: int, call: _Call) -> None:
        if not call.known:
            self._finish(stream, 12, "this connection serves one method")
            return
        data = call.data[0] if len(call.data) == 1 else b"".join(call.data)
        if len(data) < _MESSAGE.size:
            self._finish(stream, 3, "there is no message")
            return
        compressed, length = _MESSAGE.unpack_from(data)
        if compressed:
            self._finish(stream, 12, "messages are not compressed here")
            return
        if length != len(data) - _MESSAGE.size:
            self._finish(stream, 3, "the message is not whole")
            return
        try:
            answer = self._answer(data[_MESSAGE.size :])
        except VestibuleError:
            self._finish(stream, 14, "nobody answers here yet")
            return
        except Exception:  # noqa: BLE001 - whatever it is, the others' calls go on
            self._finish(stream, 13, "the call failed")
            return
        message = _MESSAGE.pack(0, len(answer)) + answer
        if self._unsent or len(message) > min(self._their_window, self._stream_window, MAX_FRAME):
            if len(self._unsent) >= MAX_UNSENT:
                raise Malformed(_CALM, "answers are not read")
            self._unsent.append((stream, message))
            return
        self._their_window -= len(message)
        self._write(stream, message)

    def _write(self, stream: int, message: bytes) -> None:
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, _BEGIN))
        for start in range(0, len(message), MAX_FRAME):
            self._out.append(_frame(_DATA, 0, stream, message[start : start + MAX_FRAME]))
        self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _END))

    def _send(self) -> None:
        """What waited, as far as the client's windows allow; whole answers only, in their order."""
        while self._unsent:
            stream, message = self._unsent[0]
            if len(message) > self._their_window:
                return
            if len(message) > self._stream_window + self._stream_credit.get(stream, 0):
                return
            self._unsent.popleft()
            self._stream_credit.pop(stream, None)
            self._their_window -= len(message)
            self._write(stream, message)

    def _finish(self, stream: int, status: int, why: str) -> None:
        """End a call with a status other than OK, without a message."""
        self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _failure(status, why)))

    def _reset(self, stream: int, code: int) -> None:
        self._out.append(_frame(_RST, 0, stream, _LONG.pack(code)))


def calls(path: str, data: bytes) -> bool:
    """Whether the first call on a connection, if it is among its first bytes, is of this method."""
    if not data.startswith(PREFACE):
        return False
    place = len(PREFACE)
    while len(data) - place >= _HEAD.size:
        high, low, kind, flags, _ = _HEAD.unpack_from(data, place)
        length = high << 8 | low
        place += _HEAD.size
        if kind == _HEADERS:
            return (
                flags & _END_HEADERS != 0 and _path_of(flags, data[place : place + length]) == path.encode()
            )
        place += length
    return False


def _path_of(flags: int, payload: bytes) -> bytes:
    try:
        block = _unpadded(flags, payload)
        block = block[5:] if flags & _WITH_PRIORITY else block
        found = dict(Decoder(max_header_list_size=4 * MAX_HEADERS).decode(block, raw=True))
    except (HPACKError, Malformed):
        return b""
    return bytes(found.get(b":path", b""))


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Malformed(_PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def _goodbye(newest: int, code: int) -> bytes:
    return _frame(_GOAWAY, 0, 0, _LONG.pack(newest) + _LONG.pack(code))


def _block(*headers: tuple[str, str]) -> bytes:
    """A header block that leaves the client's table as it is."""
    encoder = Encoder()
    encoder.header_table_size = 0
    # Marked as sensitive, a header is written out and never indexed.
    block = encoder.encode([(name, value, True) for name, value in headers], huffman=False)
    return bytes(block[1:] if block[:1] == b"\x20" else block)


_BEGIN: Final = _block((":status", "200"), ("content-type", "application/grpc"))
_END: Final = _block(("grpc-status", "0"))


def _failure(status: int, why: str) -> bytes:
    return _block(
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(status)),
        ("grpc-message", why.replace(" ", "%20")),
    )
