"""HTTP on a private Unix socket that only one process may use: the Envoy in front.

Callers are believed to be who that Envoy says they are, so nobody else may say it, not even a process of the same
user: each connection's peer is told by the kernel, compared by pid and start time, and cut off before a byte is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vestibule.doors.platform.codes import NOT_THE_PLATFORM
from vestibule.net.peer import Peer

KEEP_ALIVE: Final = 120
"""Seconds for which an idle connection is kept; Envoy gives its own up long before."""

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: one more than that, and Envoy is refused at once, not after a while."""

_LARGEST_HEAD: Final = 64 * 1024
_DRAIN_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class GuardedHttp:
    """Serves an ASGI app on a bound socket until its task is cancelled.  ``refused`` counts who was cut off."""

    def __init__(self, app: Any, sock: socket.socket, is_ours: Callable[[Peer], bool]) -> None:
        self.refused = 0
        self._is_ours = is_ours
        self._sock = sock
        self._state = ServerState()
        self._config = http_config(app)

    async def run(self) -> None:
        """Serve; at the end, what is being answered gets a few seconds."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._protocol, sock=self._sock, backlog=BACKLOG)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for each in list(self._state.connections):
                each.shutdown()
            if self._state.tasks:
                await asyncio.wait(set(self._state.tasks), timeout=_DRAIN_SECONDS)

    def _protocol(self) -> _Guarded:
        return _Guarded(self._config, self._state, self._admits)

    def _admits(self, transport: asyncio.BaseTransport) -> bool:
        peer = Peer.of_transport(transport)
        if peer is None:
            return False
        try:
            if self._is_ours(peer):
                return True
        finally:
            peer.release()
        self.refused += 1
        code = NOT_THE_PLATFORM.code
        _log.warning("%s process %d (uid %d) is not the platform's Envoy: cut off", code, peer.pid, peer.uid)
        return False


class _Guarded(H11Protocol):
    """Looks who is there before it reads."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, admits: Callable[[asyncio.BaseTransport], bool]
    ) -> None:
        super().__init__(config, state, {})
        self._admits = admits
        self._cut_off = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._admits(transport):
            super().connection_made(transport)
            return
        self._cut_off = True
        transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._cut_off:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._cut_off:
            super().connection_lost(exc)


def http_config(app: Any) -> uvicorn.Config:
    """How uvicorn speaks HTTP/1.1 here: with h11, which knows Vault's LIST, and without any log of its own."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="h11",
        ws="none",
        interface="asgi3",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
    )
    config.load()
    return config
