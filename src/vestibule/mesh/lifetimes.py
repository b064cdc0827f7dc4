"""How long the SVIDs of each identity live, as registration entries say: it bounds the age of connections."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from vestibule.mesh.revision import Revision
from vestibule.spiffe import SpiffeId
from vestibule.store import Store


class SvidLifetimes:
    """Follows the entries.  Of several entries for one identity the shortest life counts."""

    def __init__(self, store: Store, default: timedelta) -> None:
        self.default = default
        self.revision = Revision()
        self._store = store
        self._ttls: Mapping[SpiffeId, timedelta] = MappingProxyType({})

    @property
    def ttls(self) -> Mapping[SpiffeId, timedelta]:
        """The identities whose SVIDs live otherwise than by default."""
        return self._ttls

    async def load(self) -> None:
        """Read the entries."""
        ttls: dict[SpiffeId, timedelta] = {}
        for entry in await self._store.entries.all():
            ttl = entry.x509_svid_ttl or self.default
            ttls[entry.spiffe_id] = min(ttl, ttls.get(entry.spiffe_id, ttl))
        found = MappingProxyType({each: ttl for each, ttl in ttls.items() if ttl != self.default})
        if found != self._ttls:
            self._ttls = found
            self.revision.bump()

    async def run(self) -> None:
        """Read them again whenever they change."""
        changes = self._store.changes.subscribe("entries")
        await self.load()
        async for _ in changes:
            await self.load()
