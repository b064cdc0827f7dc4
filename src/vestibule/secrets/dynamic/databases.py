"""The database engine: everything that is done with databases for which credentials are made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from vestibule.clock import Clock
from vestibule.secrets.dynamic.catalog import Catalog
from vestibule.secrets.dynamic.configuration import Configuration
from vestibule.secrets.dynamic.credentials import MOUNT, DynamicCredentials
from vestibule.secrets.dynamic.engines import ENGINES, Engines, Open
from vestibule.secrets.dynamic.static_roles import StaticRoles
from vestibule.secrets.leases import Leases, Record
from vestibule.store.barrier import Barrier


class Databases:
    """Connects the parts, and takes its leases."""

    def __init__(
        self,
        barrier: Barrier,
        leases: Leases,
        clock: Clock,
        *,
        record: Record,
        leads: Callable[[], bool] = lambda: True,
        kinds: Mapping[str, Open] = ENGINES,
    ) -> None:
        """``kinds`` are the engines that there are, by ``plugin_name``."""
        catalog = Catalog(barrier)
        self._engines = Engines(catalog, kinds)
        self.configuration = Configuration(catalog, self._engines, leases)
        self.credentials = DynamicCredentials(catalog, self._engines, leases, clock)
        self.static_roles = StaticRoles(catalog, self._engines, clock, record, leads)
        leases.mount(MOUNT, self.credentials)

    async def run(self) -> None:
        """Change passwords in time; connections are closed in the end."""
        try:
            await self.static_roles.run()
        finally:
            # Also when this is cancelled: what listens at the other end should not have to find out by itself.
            await asyncio.shield(self.close())

    async def close(self) -> None:
        """Close all connections; they are opened again when they are needed."""
        await self._engines.close()
