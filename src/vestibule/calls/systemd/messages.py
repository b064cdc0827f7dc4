"""D-Bus messages as bytes (D-Bus specification 0.43), as far as asking systemd for a unit needs them.

Sent are method calls whose arguments are strings and 32-bit numbers; read are answers to them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

CALL: Final = 1
RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4
FIXED_HEADER: Final = 16
MAX_MESSAGE: Final = 1024 * 1024

_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_TEXTS: Final = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _DESTINATION: "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One received message; ``texts`` are the strings of its body, as far as it holds strings only."""

    kind: int
    reply_to: int = 0
    error: str = ""
    texts: tuple[str, ...] = field(default=())


def call(
    serial: int, destination: str, path: str, interface: str, member: str, arguments: Sequence[str | int]
) -> bytes:
    """A method call."""
    body, signature = _Writer(), ""
    for argument in arguments:
        signature += "s" if isinstance(argument, str) else "u"
        body.text(argument) if isinstance(argument, str) else body.number(argument)
    texts = {_PATH: path, _INTERFACE: interface, _MEMBER: member, _DESTINATION: destination}
    fields = _Writer()
    for code, text in texts.items():
        fields.align(8)
        fields.raw(bytes([code]))
        fields.signature(_TEXTS[code])
        fields.text(text)
    if signature:
        fields.align(8)
        fields.raw(bytes([_SIGNATURE]))
        fields.signature("g")
        fields.signature(signature)
    head = struct.pack("<cBBBIII", b"l", CALL, 0, 1, len(body.data), serial, len(fields.data))
    whole = head + bytes(fields.data)
    return whole + bytes(-len(whole) % 8) + bytes(body.data)


def length_of(head: bytes) -> int:
    """How many bytes the message has whose first 16 are these.  Raises: ValueError."""
    order = _order(head)
    body, _, fields = struct.unpack_from(order + "III", head, 4)
    length = FIXED_HEADER + int(fields) + (-int(fields) % 8) + int(body)
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes is too long")
    return length


def parse(data: bytes) -> Message:
    """A whole message.  Raises: ValueError if it is malformed."""
    order = _order(data)
    fields_end = FIXED_HEADER + int(struct.unpack_from(order + "I", data, 12)[0])
    reader = _Reader(data, order, FIXED_HEADER)
    reply_to, error, signature = 0, "", ""
    while reader.place < fields_end:
        reader.align(8)
        code = reader.byte()
        kind = reader.signature()
        if kind in ("s", "o"):
            text = reader.text()
            error = text if code == _ERROR_NAME else error
        elif kind == "u":
            number = reader.number()
            reply_to = number if code == _REPLY_SERIAL else reply_to
        elif kind == "g":
            text = reader.signature()
            signature = text if code == _SIGNATURE else signature
        else:
            raise ValueError(f"a header field of type {kind!r}")
    reader.align(8)
    return Message(kind=data[1], reply_to=reply_to, error=error, texts=tuple(_texts(reader, signature)))


def _texts(reader: _Reader, signature: str) -> list[str]:
    found = []
    for kind in signature:
        inner = reader.signature() if kind == "v" else kind
        if inner not in ("s", "o"):
            break
        found.append(reader.text())
    return found


def _order(head: bytes) -> str:
    if len(head) < FIXED_HEADER or head[3] != 1 or head[:1] not in (b"l", b"B"):
        raise ValueError("not the head of a D-Bus message")
    return "<" if head[:1] == b"l" else ">"


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        # The array of header fields begins at a multiple of 8, so its own offsets will do.
        self.data += bytes(-len(self.data) % size)

    def raw(self, data: bytes) -> None:
        self.data += data

    def number(self, number: int) -> None:
        self.align(4)
        self.data += struct.pack("<I", number)

    def text(self, text: str) -> None:
        encoded = text.encode()
        self.number(len(encoded))
        self.data += encoded + b"\0"

    def signature(self, text: str) -> None:
        self.data += bytes([len(text)]) + text.encode() + b"\0"


class _Reader:
    def __init__(self, data: bytes, order: str, place: int) -> None:
        self.place = place
        self._data = data
        self._order = order

    def align(self, size: int) -> None:
        self.place += -self.place % size

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        self.align(4)
        return int(struct.unpack(self._order + "I", self._take(4))[0])

    def text(self) -> str:
        return self._terminated(self.number())

    def signature(self) -> str:
        return self._terminated(self.byte())

    def _terminated(self, length: int) -> str:
        data = self._take(length + 1)
        if data[-1] or 0 in data[:-1]:
            raise ValueError("a string that does not end where it says")
        return data[:-1].decode("utf-8")

    def _take(self, size: int) -> bytes:
        data = self._data[self.place : self.place + size]
        if len(data) != size:
            raise ValueError("the message ends too early")
        self.place += size
        return data
