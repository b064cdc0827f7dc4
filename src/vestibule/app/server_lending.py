"""Leases and credentials of databases on a server: what is served, what goes on behind it, what is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.doors.vault.database import DatabaseBackend
from vestibule.doors.vault.leases import MOUNT as LEASES
from vestibule.doors.vault.leases import LeasesBackend
from vestibule.doors.vault.operations import Backend
from vestibule.errors import VestibuleError
from vestibule.identity.revocation_list import RevocationList
from vestibule.secrets.dynamic import MOUNT as DATABASE
from vestibule.secrets.dynamic import Databases
from vestibule.secrets.dynamic.engines import ENGINES, Open
from vestibule.secrets.leases import Leases, Record
from vestibule.spiffe import RevokedIdentity
from vestibule.store.barrier import Barrier
from vestibule.store.codes import SEALED
from vestibule.telemetry.metrics import Metrics

RETRY: Final = timedelta(seconds=5)

_log = logging.getLogger(__name__)


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
        self._clock = clock
        self.leases = Leases(barrier, clock, record=record, leads=leads)
        self.databases = Databases(barrier, self.leases, clock, record=record, leads=leads, kinds=kinds)
        self.backends: Mapping[str, Backend] = {
            DATABASE: DatabaseBackend(self.databases, clock),
            LEASES: LeasesBackend(self.leases, clock),
        }

    def background(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What goes on behind the doors, by name."""
        return {"secrets-leases": self.leases.run, "secrets-databases": self.databases.run}

    def measured(self, metrics: Metrics) -> None:
        """Register what is counted."""
        lending_metrics(metrics, self)

    async def follow(self, revocations: RevocationList) -> None:
        """Identities that are revoked lose what they were lent before; whenever there are new ones, for ever."""
        done = 0
        while True:
            seen, listed = revocations.revision, revocations.now
            try:
                for each in listed.entries:
                    if each.version > done and isinstance(target := each.target, RevokedIdentity):
                        await self.leases.revoke_owner(target.spiffe_id, "identity revoked", target.means)
                done = listed.version
            except VestibuleError as error:
                if error.code is not SEALED:
                    _log.warning("leases of revoked identities cannot be revoked now: %s", error)
                await self._clock.sleep_until(self._clock.now() + RETRY)
                continue
            await revocations.changed(seen)


def lending_metrics(metrics: Metrics, lending: Lending | None) -> None:
    """Register what is counted; zeros without a secret manager."""
    metrics.gauges(
        "leases",
        "Leases by state, on the server that leads; failing: over, and not revoked so far.",
        "state",
        lambda: dict(lending.leases.counts) if lending else {},
    )
    metrics.gauge(
        "lease_revocation_failures",
        "Attempts to take a credential away that did not work, since the start.",
        lambda: lending.leases.failures if lending else 0,
    )
    metrics.gauge(
        "static_roles_failing",
        "Static roles whose password could not be changed at the last attempt.",
        lambda: lending.databases.static_roles.failing if lending else 0,
    )
