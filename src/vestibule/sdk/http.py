"""HTTP/1.1 for the SDK's own clients: one connection that is kept, and more while it is busy.

Only what our services and Envoy answer with is understood; anything else is an error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

LARGEST: Final = 4 * 1024 * 1024
"""Bytes of an answer; the largest there are, values of the secret manager, have 1 MiB at most."""

_MOST_HEADERS: Final = 100
_IDLE: Final = 8
_REPEATABLE: Final = frozenset({"GET"})

Context = Callable[[], ssl.SSLContext | None]


class HttpAddress(Protocol):
    """Where a service is."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def host_header(self) -> str:
        """What the request names: as a rule host and port."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request; ``patience``: seconds that it may take."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    patience: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """One answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class HttpFailedError(Exception):
    """Nothing, or nothing that could be understood, was answered.  Its text says why."""


class _GoneError(Exception):
    """A kept connection had been closed before anything was answered on it."""


class Http:
    """Asks one server.  ``context``: None for plain text."""

    def __init__(self, address: HttpAddress, context: Context) -> None:
        self._address = address
        self._context = context
        self._idle: list[_Connection] = []

    async def ask(self, ask: HttpRequest) -> HttpAnswer:
        """Ask once.  Raises: HttpFailedError."""
        try:
            async with asyncio.timeout(ask.patience):
                return await self._exchanged(ask)
        except TimeoutError as error:
            raise HttpFailedError(f"does not answer within {ask.patience:g} s") from error
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, ValueError, _GoneError) as error:
            raise HttpFailedError(f"cannot be asked: {str(error) or type(error).__name__}") from error

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    async def _exchanged(self, ask: HttpRequest) -> HttpAnswer:
        # What may change something is never sent on a connection that may be dead: it could not be sent again.
        if ask.method in _REPEATABLE and self._idle:
            with suppress(_GoneError, ConnectionError, asyncio.IncompleteReadError):
                return await self._over(self._idle.pop(), ask)
        return await self._over(await self._connected(), ask)

    async def _over(self, connection: _Connection, ask: HttpRequest) -> HttpAnswer:
        try:
            answer = await connection.exchange(ask, self._address.host_header)
        except BaseException:
            connection.close()
            raise
        if connection.lasts and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _connected(self) -> _Connection:
        context = self._context()
        # With a context of the SDK, who is there is told by the SVID; a host name plays no part.
        name = self._address.host if context is not None else None
        reader, writer = await asyncio.open_connection(
            self._address.host, self._address.port, ssl=context, server_hostname=name, limit=64 * 1024
        )
        return _Connection(reader, writer)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.lasts = True

    async def exchange(self, ask: HttpRequest, host: str) -> HttpAnswer:
        """One request and its answer.  Raises: OSError, ValueError, IncompleteReadError, _GoneError."""
        self._writer.write(_head(ask, host) + ask.body)
        await self._writer.drain()
        line = await self._reader.readline()
        if not line:
            raise _GoneError
        version, _, rest = line.decode("latin-1").partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise ValueError("what answers does not speak HTTP/1.1")
        status, headers = int(rest[:3]), await self._headers()
        self.lasts = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return HttpAnswer(status=status, headers=headers, body=await self._body(status, headers))

    def close(self) -> None:
        self._writer.transport.abort()

    async def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_MOST_HEADERS):
            line = (await self._reader.readline()).decode("latin-1")
            if line in ("\r\n", "\n"):
                return headers
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError("a header cannot be read")
            headers[name.strip().lower()] = value.strip()
        raise ValueError("there are too many headers")

    async def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks()
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST:
            raise ValueError("an answer says no length, or is too large")
        return await self._reader.readexactly(int(length))

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        left = LARGEST
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            if (left := left - size) < 0:
                raise ValueError("an answer is too large")
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        while (await self._reader.readline()) not in (b"\r\n", b"\n", b""):
            pass
        return b"".join(parts)


def _head(ask: HttpRequest, host: str) -> bytes:
    lines = [f"{ask.method} {ask.target} HTTP/1.1", f"host: {host}", "accept: application/json"]
    lines += [f"{name}: {value}" for name, value in ask.headers.items()]
    if ask.body or ask.method != "GET":
        lines.append(f"content-length: {len(ask.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
