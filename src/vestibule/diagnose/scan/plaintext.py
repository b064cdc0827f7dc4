"""A request without TLS, and what is made of it."""

from __future__ import annotations

import struct
from typing import Final

from vestibule.diagnose.scan.asking import request
from vestibule.diagnose.scan.wire import Flooded, Wire
from vestibule.posture import Plain, Plaintext, Target, printable

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000 04 00 00000000")
"""How HTTP/2 begins where nobody negotiated it (RFC 9113, section 3.3), with empty SETTINGS."""
_ENOUGH: Final = 2048
_FRAME: Final = struct.Struct(">BHBBI")
_SETTINGS: Final = 4
_TLS_ALERT: Final = b"\x15\x03"
_NOT_HERE: Final = frozenset({400, 421, 426, 497})
"""What web servers answer at the port of TLS: "the plain HTTP request was sent to HTTPS port"."""
_TEXT: Final = 0.9


async def ask_plain(wire: Wire, target: Target, patience: float) -> bytes | None:
    """The beginning of the answer; empty when there was none, None when nothing happened in time."""
    await wire.send(request(target))
    return await _answer(wire, patience)


async def ask_h2c(wire: Wire, patience: float) -> bool:
    """Whether HTTP/2 is spoken without TLS, as gRPC is."""
    await wire.send(PREFACE)
    return is_settings(await _answer(wire, patience, enough=_FRAME.size + 1) or b"")


async def _answer(wire: Wire, patience: float, enough: int = _ENOUGH) -> bytes | None:
    text = b""
    while len(text) < enough and b"\r\n\r\n" not in text:
        try:
            data = await wire.receive_within(patience)
        except (OSError, Flooded):
            return text
        if data is None:
            return text or None
        if not data:
            return text
        text += data
    return text


def is_settings(data: bytes) -> bool:
    """Whether it begins with a frame of SETTINGS on stream 0 (RFC 9113, section 6.5)."""
    if len(data) < _FRAME.size:
        return False
    high, low, kind, _, stream = _FRAME.unpack_from(data)
    return bool(kind == _SETTINGS and stream == 0 and high == 0 and low % 6 == 0)


def plaintext(data: bytes | None, *, beside_tls: bool) -> Plaintext:
    """What the answer means; ``beside_tls``: the port speaks TLS, too."""
    if data is None:
        return Plaintext(kind=Plain.SILENT)
    if not data or data.startswith(_TLS_ALERT):
        return Plaintext(kind=Plain.REFUSED)
    if is_settings(data):
        return Plaintext(kind=Plain.HTTP2, detail="HTTP/2")
    line = printable(data[:200].partition(b"\n")[0].decode("utf-8", "replace").strip(), 80)
    if not data.startswith(b"HTTP/"):
        return Plaintext(kind=Plain.OTHER if _is_text(data) else Plain.GARBAGE, detail=line)
    status = int(data[9:12]) if data[9:12].isdigit() else 0
    if beside_tls and status in _NOT_HERE:
        return Plaintext(kind=Plain.REFUSED, detail=line)
    if 300 <= status < 400 and b"\nlocation: https://" in data.lower():
        return Plaintext(kind=Plain.REDIRECT, detail=line)
    return Plaintext(kind=Plain.HTTP, detail=line)


def _is_text(data: bytes) -> bool:
    shown = data[:200].decode("utf-8", "replace")
    good = sum(
        (each.isprintable() or each in "\r\n\t") and each != "\N{REPLACEMENT CHARACTER}" for each in shown
    )
    return good >= _TEXT * len(shown)
