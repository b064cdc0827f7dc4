"""A first message of TLS 1.2 or before, and what is answered: how old versions and ciphers are asked for.

TLS libraries refuse to offer what nobody should accept, so the bytes are made here (RFC 5246, section 7.4.1).  No
sockets, no keys: the connection ends before there are any.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.1": 0x0302, "TLSv1": 0x0301}
NAMES: Final = {number: name for name, number in VERSIONS.items()} | {0x0300: "SSLv3", 0x0304: "TLSv1.3"}
_HANDSHAKE: Final = 22
_ALERT: Final = 21
_SERVER_HELLO: Final = 2
_RECORD: Final = struct.Struct(">BHH")
_LONGEST_RECORD: Final = 2**14 + 2048
_GROUPS: Final = (29, 23, 24, 25, 256)
"""x25519, secp256r1, secp384r1, secp521r1, ffdhe2048."""
_SIGNATURES: Final = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
_NO_RENEGOTIATION: Final = 0x00FF
"""TLS_EMPTY_RENEGOTIATION_INFO_SCSV, without which some servers refuse (RFC 5746)."""


@dataclass(frozen=True, slots=True)
class ServerHello:
    """The endpoint agreed to this version (by its name) and this cipher suite."""

    version: str
    suite: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not: with an alert of this number, or -1 for anything else."""

    alert: int = -1


def client_hello(version: str, suites: Sequence[int], server_name: str | None) -> bytes:
    """A record with a ClientHello that offers no version above ``version``."""
    body = struct.pack(">H", VERSIONS[version]) + os.urandom(32) + b"\0"
    body += _vector16(_numbers((*suites, _NO_RENEGOTIATION))) + b"\1\0"
    body += _vector16(b"".join(_extensions(version, server_name)))
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    return _RECORD.pack(_HANDSHAKE, VERSIONS["TLSv1"], len(message)) + message


def read_answer(data: bytes) -> ServerHello | Refused | None:
    """What an endpoint answered, from the bytes so far; None while they are too few to say."""
    message = b""
    while len(data) >= _RECORD.size:
        kind, version, length = _RECORD.unpack_from(data)
        if kind not in (_HANDSHAKE, _ALERT) or version >> 8 != 3 or not 0 < length <= _LONGEST_RECORD:
            return Refused()
        if len(data) < _RECORD.size + length:
            return _garbled(data)
        content, data = data[_RECORD.size : _RECORD.size + length], data[_RECORD.size + length :]
        if kind == _ALERT:
            if len(content) == 2 and content[0] == 1:  # a warning, such as unrecognized_name: it goes on
                continue
            return Refused(content[1] if len(content) == 2 else -1)
        message += content
        if (hello := _server_hello(message)) is not None:
            return hello
    return _garbled(data)


def _garbled(data: bytes) -> Refused | None:
    """Whether the beginning of a record can already be told to be none."""
    return Refused() if data and data[0] not in (_HANDSHAKE, _ALERT) else None


def _server_hello(message: bytes) -> ServerHello | Refused | None:
    if message[0] != _SERVER_HELLO:
        return Refused()
    if len(message) < 4:
        return None
    body = message[4 : 4 + int.from_bytes(message[1:4], "big")]
    if len(body) < int.from_bytes(message[1:4], "big"):
        return None
    if len(body) < 38 or len(body) < 38 + body[34]:
        return Refused()
    version = int.from_bytes(body[:2], "big")
    after_session = 35 + body[34]
    suite = int.from_bytes(body[after_session : after_session + 2], "big")
    return ServerHello(NAMES.get(version, f"0x{version:04X}"), suite)


def _extensions(version: str, server_name: str | None) -> Iterable[bytes]:
    if server_name:
        name = server_name.encode("ascii")
        yield _extension(0, _vector16(b"\0" + _vector16(name)))
    yield _extension(10, _vector16(_numbers(_GROUPS)))
    yield _extension(11, b"\1\0")
    if version == "TLSv1.2":
        yield _extension(13, _vector16(_numbers(_SIGNATURES)))


def _extension(number: int, content: bytes) -> bytes:
    return struct.pack(">H", number) + _vector16(content)


def _vector16(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack(">H", each) for each in values)
