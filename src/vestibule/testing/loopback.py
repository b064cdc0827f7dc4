"""ASGI apps on loopback ports: what clients are tried against."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vestibule.doors.platform.serving import http_config


@asynccontextmanager
async def served(app: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of an ASGI app while the block is entered."""
    state, config = ServerState(), http_config(app)
    server = await asyncio.get_running_loop().create_server(
        lambda: H11Protocol(config, state, {}), "127.0.0.1", 0, ssl=tls
    )
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for each in list(state.connections):
            each.shutdown()
        if state.tasks:
            for task in state.tasks:
                task.cancel()
            await asyncio.wait(set(state.tasks))
