"""HTTP/1.1 for the asyncio client: one connection that is kept, and more while it is busy.

Only what the secret manager and Envoy answer with is understood; anything else is an error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from vestibule.sdk.codes import SECRETS_UNREACHABLE
from vestibule.sdk.secrets.addresses import SecretsAddress
from vestibule.sdk.secrets.answers import Ask, Reply, reply_of
from vestibule.sdk.secrets.errors import SecretsError

LARGEST: Final = 4 * 1024 * 1024
"""Bytes of an answer; values are 1 MiB at most."""

_MOST_HEADERS: Final = 100
_IDLE: Final = 8
_REPEATABLE: Final = frozenset({"GET"})

Context = Callable[[], ssl.SSLContext | None]


class _GoneError(Exception):
    """A kept connection had been closed before anything was answered on it."""


class Http:
    """Asks one server.  ``context``: None for plain text."""

    def __init__(self, address: SecretsAddress, context: Context) -> None:
        self._address = address
        self._context = context
        self._idle: list[_Connection] = []

    async def ask(self, ask: Ask) -> Reply:
        """Ask once.  Raises: VST2407."""
        try:
            async with asyncio.timeout(ask.patience):
                status, body = await self._exchanged(ask)
        except TimeoutError as error:
            raise self._failed(f"does not answer within {ask.patience:g} s") from error
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, ValueError, _GoneError) as error:
            raise self._failed(f"cannot be asked: {str(error) or type(error).__name__}") from error
        return reply_of(status, body)

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    async def _exchanged(self, ask: Ask) -> tuple[int, bytes]:
        # What may change something is never sent on a connection that may be dead: it could not be sent again.
        if ask.method in _REPEATABLE and self._idle:
            with suppress(_GoneError, ConnectionError, asyncio.IncompleteReadError):
                return await self._over(self._idle.pop(), ask)
        return await self._over(await self._connected(), ask)

    async def _over(self, connection: _Connection, ask: Ask) -> tuple[int, bytes]:
        try:
            status, body = await connection.exchange(ask, self._address.host_header)
        except BaseException:
            connection.close()
            raise
        if connection.lasts and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return status, body

    async def _connected(self) -> _Connection:
        context = self._context()
        # Who is there is told by the SVID; a host name plays no part.
        name = self._address.host if context is not None else None
        reader, writer = await asyncio.open_connection(
            self._address.host, self._address.port, ssl=context, server_hostname=name, limit=64 * 1024
        )
        return _Connection(reader, writer)

    def _failed(self, why: str) -> SecretsError:
        return SecretsError(SECRETS_UNREACHABLE, f"the secret manager at {self._address} {why}")


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.lasts = True

    async def exchange(self, ask: Ask, host: str) -> tuple[int, bytes]:
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
        return status, await self._body(status, headers)

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


def _head(ask: Ask, host: str) -> bytes:
    lines = [f"{ask.method} {ask.target} HTTP/1.1", f"host: {host}", "accept: application/json"]
    if ask.body:
        lines += ["content-type: application/json", f"content-length: {len(ask.body)}"]
    elif ask.method != "GET":
        lines.append("content-length: 0")
    lines.append("x-vault-request: true")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
