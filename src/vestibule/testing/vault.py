"""The secret manager's API on a loopback port, over storage in memory: what clients are tried against."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.doors.platform.serving import http_config
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Backend
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.secrets.ports import Access
from vestibule.secrets.versions import Versions
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier


class MemoryAudit:
    """``audit.Audit`` in memory."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.events += events


class MemoryVault:
    """Everybody who connects is ``caller``."""

    def __init__(
        self, access: Access, caller: SpiffeId, clock: Clock, backends: Mapping[str, Backend] | None = None
    ) -> None:
        self.barrier = MemoryBarrier()
        self.audit = MemoryAudit()
        self.caller = caller
        self.requests = 0
        self._access = access
        self._backends = dict(backends or {})
        self.keep_in(Versions(self.barrier, clock), self.audit)

    def keep_in(self, versions: Versions, audit: Audit) -> None:
        """Elsewhere than in memory."""
        self.versions = versions
        backends = {"secret": KvBackend(versions), **self._backends}
        self.pipeline = Pipeline(backends, self._access, audit, is_operator=lambda _: False)
        self._app = VaultApp(self.pipeline.answer, lambda _: self.caller)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI wants it; the header is what Envoy would have set."""
        self.requests += 1
        headers = [*scope["headers"], (b"x-forwarded-client-cert", b"known")]
        await self._app({**scope, "headers": headers}, receive, send)

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Its address while the block is entered."""
        state, config = ServerState(), http_config(self)
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
