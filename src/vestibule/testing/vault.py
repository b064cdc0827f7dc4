"""The secret manager's API on a loopback port, over storage in memory: what clients are tried against."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Backend
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.secrets.ports import Access
from vestibule.secrets.versions import Versions
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.loopback import served


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

    def served(self, tls: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[str]:
        """Its address while the block is entered."""
        return served(self, tls)
