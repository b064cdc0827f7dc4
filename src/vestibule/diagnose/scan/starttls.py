"""Protocols that begin without TLS and ask for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from vestibule.diagnose.scan.wire import Wire

_POSTGRES_REQUEST: Final = bytes.fromhex("00000008 04d2162f")
_LONGEST: Final = 8192


class NotOffered(Exception):  # noqa: N818 - an ending, not a mistake
    """The endpoint does not offer TLS; the text is what it said instead."""


async def postgres(wire: Wire) -> None:
    """SSLRequest (PostgreSQL, "Message Formats").  Raises: NotOffered, OSError."""
    await wire.send(_POSTGRES_REQUEST)
    answer = await wire.receive()
    if answer != b"S":
        raise NotOffered(_line(answer) or "the connection was closed")


async def smtp(wire: Wire) -> None:
    """STARTTLS (RFC 3207).  Raises: NotOffered, OSError."""
    for line in (b"", b"EHLO vestibule-scan.invalid\r\n", b"STARTTLS\r\n"):
        await wire.send(line)
        answer = await _reply(wire)
        if not answer.startswith(b"2"):
            raise NotOffered(_line(answer) or "the connection was closed")


async def _reply(wire: Wire) -> bytes:
    """The last line of an answer, which has a blank after its number (RFC 5321, section 4.2.1)."""
    text = b""
    while len(text) < _LONGEST:
        data = await wire.receive()
        text += data
        last = text.rstrip(b"\r\n").rpartition(b"\n")[2]
        if not data or (text.endswith(b"\n") and last[3:4] != b"-"):
            return last
    return b""


def _line(answer: bytes) -> str:
    return answer.partition(b"\n")[0].decode("ascii", "replace").strip()


STARTTLS: Final[Mapping[str, Callable[[Wire], Awaitable[None]]]] = {"postgres": postgres, "smtp": smtp}
