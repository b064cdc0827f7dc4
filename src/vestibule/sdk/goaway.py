"""A server's wish that no more streams be opened on an HTTP/2 connection, heard without losing those that are open.

The library under our gRPC and HTTP/2 clients (h2) takes GOAWAY for the end of the connection, though RFC 9113, section
6.8 has the streams up to the one it names go on.  So the frame is taken out of what the server sends, before h2 reads
it: streams after the one it names were not begun by the server; they are reset with REFUSED_STREAM, which says that
they may be tried again elsewhere (section 8.7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

HEADER: Final = 9
GOAWAY: Final = 0x7
NO_ERROR: Final = 0x0
REFUSED_STREAM: Final = 0x7
INADEQUATE_SECURITY: Final = 0xC
NEWEST: Final = 2**31 - 1
"""The stream that a GOAWAY names which only announces another one (section 6.8)."""

_RST_STREAM: Final = 0x3
_SETTINGS: Final = 0x4
_HEADERS: Final = 0x1
_CONTINUATION: Final = 0x9
_PUSH_PROMISE: Final = 0x5
_END_HEADERS: Final = 0x4
_LONGEST_FAREWELL: Final = 16 * 1024


class Frames:
    """Follows the borders of HTTP/2 frames through a stream of bytes, as they come in pieces.

    ``goaway`` is told the last stream and the error of each GOAWAY, and says what stands in its place; None keeps it.
    """

    def __init__(self, goaway: Callable[[int, int], bytes | None]) -> None:
        self._goaway = goaway
        self._held = b""
        self._left = 0
        self._block_is_open = False
        self._has_begun = False
        self._waiting = b""

    @property
    def is_between(self) -> bool:
        """Whether all frames so far are whole, so that another one may be put after them.

        The first frame is always the sender's SETTINGS (section 3.4).
        """
        return self._has_begun and not self._left and not self._held and not self._block_is_open

    def insert(self, frame: bytes) -> bytes:
        """Put a frame among the others: what may be sent now; otherwise it comes with what is fed, when it may."""
        if self.is_between:
            return frame
        self._waiting += frame
        return b""

    def feed(self, data: bytes) -> bytes:
        """What is to be read instead of ``data``; the beginning of a frame is held back until its header is whole."""
        if self._held:
            data, self._held = self._held + data, b""
        parts: list[bytes] = []
        start, at = 0, self._left
        self._left = 0
        while at < len(data):
            if self._waiting and self._has_begun and not self._block_is_open:
                parts += (data[start:at], self._waiting)
                start, self._waiting = at, b""
            length = int.from_bytes(data[at : at + 3], "big")
            end = at + HEADER + length
            header_is_whole = at + HEADER <= len(data)
            is_farewell = header_is_whole and data[at + 3] == GOAWAY and length <= _LONGEST_FAREWELL
            if not header_is_whole or (is_farewell and end > len(data)):
                parts.append(data[start:at])
                self._held = data[at:]
                return b"".join(parts)
            if is_farewell and length >= 8:
                instead = self._goaway(*_farewell(data, at + HEADER))
                if instead is not None:
                    parts += (data[start:at], instead)
                    start = end
            self._note(data[at + 3], data[at + 4])
            at = end
        self._left = at - len(data)
        parts.append(data[start:])
        if self._waiting and self.is_between:
            parts.append(self._waiting)
            self._waiting = b""
        return b"".join(parts)

    def _note(self, kind: int, flags: int) -> None:
        """Nothing may come between the frames of one header block (section 4.3)."""
        self._has_begun = True
        if kind in (_HEADERS, _CONTINUATION, _PUSH_PROMISE):
            self._block_is_open = not flags & _END_HEADERS


def goaway(last_stream: int, error: int = NO_ERROR, text: str = "") -> bytes:
    """A GOAWAY frame, with a text for whoever looks into it (section 6.8)."""
    debug = text.encode()[:1024]
    return _header(8 + len(debug), GOAWAY, 0) + struct.pack("!LL", last_stream, error) + debug


def settings() -> bytes:
    """A SETTINGS frame that leaves everything as it is (section 6.5)."""
    return _header(0, _SETTINGS, 0)


def refusals(last_stream: int, newest: int) -> bytes:
    """A reset of each of a client's streams after ``last_stream``, up to ``newest``."""
    first = (last_stream + 1) | 1
    return b"".join(
        _header(4, _RST_STREAM, each) + struct.pack("!L", REFUSED_STREAM)
        for each in range(first, newest + 1, 2)
    )


def split_late(data: bytes, last_stream: int) -> tuple[bytes, bytes]:
    """Whole frames of a client that was told to go: those to send still, and refusals of the streams begun too late."""
    parts: list[bytes] = []
    refused = b""
    at = 0
    while at < len(data):
        end = at + HEADER + int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & NEWEST
        if stream <= last_stream:
            parts.append(data[at:end])
        elif data[at + 3] == _HEADERS:
            refused += refusals(stream - 1, stream)
        at = end
    return b"".join(parts), refused


def _header(length: int, kind: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, 0)) + struct.pack("!L", stream)


def _farewell(data: bytes, at: int) -> tuple[int, int]:
    last, error = struct.unpack_from("!LL", data, at)
    return last & NEWEST, error
