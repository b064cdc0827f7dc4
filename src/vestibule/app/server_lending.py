"""Leases and credentials of databases on a server: what is served, what goes on behind it, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from vestibule.clock import Clock
from vestibule.doors.vault.database import DatabaseBackend
from vestibule.doors.vault.leases import MOUNT as LEASES
from vestibule.doors.vault.leases import LeasesBackend
from vestibule.doors.vault.operations import Backend
from vestibule.secrets.dynamic import MOUNT as DATABASE
from vestibule.secrets.dynamic import Databases
from vestibule.secrets.dynamic.engines import ENGINES, Open
from vestibule.secrets.leases import Leases, Record
from vestibule.secrets.ports import Barrier
from vestibule.spiffe import SpiffeId
from vestibule.telemetry.metrics import Metrics


class Lending:
    """What is lent, and who lends it."""

    def __init__(
        self,
        barrier: Barrier,
        clock: Clock,
        record: Record,
        leads: Callable[[], bool],
        kinds: Mapping[str, Open] = ENGINES,
    ) -> None:
        """``record`` puts on record what happens in time, and does not keep anything from being taken away."""
        self.leases = Leases(barrier, clock, record=record, leads=leads)
        self.databases = Databases(barrier, self.leases, clock, record=record, leads=leads, kinds=kinds)
        self.backends: Mapping[str, Backend] = {
            DATABASE: DatabaseBackend(self.databases, clock),
            LEASES: LeasesBackend(self.leases, clock),
        }

    def background(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What goes on behind the doors, by name."""
        return {"leases": self.leases.run, "databases": self.databases.run}

    async def revoked(self, *identities: SpiffeId) -> None:
        """Identities that were revoked lose what they were lent."""
        await asyncio.gather(*(self.leases.revoke_owner(each, "identity revoked") for each in identities))

    def measured(self, metrics: Metrics) -> None:
        """Register what is counted."""
        metrics.gauges(
            "leases",
            "Leases by state, on the server that leads; failing: over, and not revoked so far.",
            "state",
            lambda: dict(self.leases.counts),
        )
        metrics.gauge(
            "lease_revocation_failures",
            "Attempts to take a credential away that did not work, since the start.",
            lambda: self.leases.failures,
        )
        metrics.gauge(
            "static_roles_failing",
            "Static roles whose password could not be changed at the last attempt.",
            lambda: self.databases.static_roles.failing,
        )
