"""``/live`` and ``/ready`` over plain HTTP, for probes; needs nothing but the base installation.

The answers name parts and what is wrong with them, never an identity, a key or a token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from vestibule.net.listen import listen_tcp
from vestibule.sdk.files.keeping import Keeper

_PATIENCE: Final = 5.0
_MOST_AT_ONCE: Final = 32
_LONGEST_HEAD: Final = 16 * 1024
_CLOSING: Final = b"Connection: close\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPages:
    """Where they are."""

    host: str = "127.0.0.1"
    port: int
    live: str = "/live"
    ready: str = "/ready"


class HealthDoor:
    """Answers probes while its task runs."""

    def __init__(self, pages: HealthPages, keeper: Keeper) -> None:
        self._answers: dict[str, Callable[[], tuple[bool, dict[str, object]]]] = {
            pages.live: lambda: (True, {"live": True}),
            pages.ready: lambda: _readiness(keeper),
        }
        self._pages = pages
        self._open: set[asyncio.StreamWriter] = set()

    async def run(self, listening: Callable[[int], None] = lambda _port: None) -> None:
        """Serve until cancelled; tells the port.  Raises: VST2320, VST2321."""
        sock = listen_tcp(self._pages.host, self._pages.port)
        server = await asyncio.start_server(self._serve, sock=sock, limit=_LONGEST_HEAD)
        listening(server.sockets[0].getsockname()[1])
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for writer in self._open:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if len(self._open) <= _MOST_AT_ONCE:
                with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    async with asyncio.timeout(_PATIENCE):
                        writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                        await writer.drain()
        finally:
            self._open.discard(writer)
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, {})
        method, path = words[0], words[1].partition("?")[0]
        if path not in self._answers:
            return _response(HTTPStatus.NOT_FOUND, {})
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, {})
        well, body = self._answers[path]()
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        return _response(status, body, only_head=method == "HEAD")


def _readiness(keeper: Keeper) -> tuple[bool, dict[str, object]]:
    board = keeper.board
    checks = {name: problem or "ok" for name, problem in board.problems.items()}
    expires = board.expires.isoformat() if board.expires else None
    return keeper.is_ready, {"ready": keeper.is_ready, "checks": checks, "expires_at": expires}


def _response(status: HTTPStatus, body: dict[str, object], *, only_head: bool = False) -> bytes:
    data = json.dumps(body).encode() if body else b""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
    return (
        head.encode() + f"Content-Length: {len(data)}\r\n".encode() + _CLOSING + (b"" if only_head else data)
    )
