"""Emergency cuts go first: where somebody is shut out, a full disk under the audit log must not keep the door open.

Everything that gives (an SVID, an entry, a token) fails closed: no record, no action.  A ban takes away, and whoever
can fill the disk of the audit log, which those who may issue can, could otherwise not be banned.  Such an action is
done, and its record is written before any other as soon as there is room.  Until then it is kept in memory and in the
server's log; a restart loses the former.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from vestibule.audit.ports import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError

RETRY_SECONDS: Final = 2.0
MOST_DEFERRED: Final = 1000
"""So many fit into memory for certain; beyond, an emergency waits for room like everything else."""

_log = logging.getLogger(__name__)


class DeferringAudit:
    """``audit.Audit``, and a way to act before there is room for the record."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._deferred: list[AuditEvent] = []
        self._waits = asyncio.Event()

    @property
    def deferred(self) -> int:
        """How many records wait for room."""
        return len(self._deferred)

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """As ``Audit.record``; what waited is written before, or nothing is."""
        if not self._deferred:
            await self._audit.record(events)
            return
        late, self._deferred = self._deferred, []
        try:
            await self._audit.record([*late, *events])
        except BaseException:
            self._deferred = late + self._deferred
            raise
        _log.warning("%d deferred records are in the audit log", len(late))

    async def record_or_defer(self, events: Sequence[AuditEvent]) -> None:
        """Keep the events; where that fails, remember them for later, and let the caller act.

        Raises: VST8100 when too many wait already.
        """
        try:
            await self.record(events)
        except VestibuleError as error:
            if len(self._deferred) + len(events) > MOST_DEFERRED:
                raise
            acted_at = self._clock.now().isoformat()
            for event in events:
                _log.error(
                    "not on record yet: %s %s by %s: %s",
                    event.action,
                    event.subject,
                    event.actor,
                    error.message,
                )
                self._deferred.append(replace(event, details={**event.details, "deferred_from": acted_at}))
            self._waits.set()

    async def run(self) -> None:
        """Write what waits as soon as there is room, whether or not anybody else records something."""
        while True:
            await self._waits.wait()
            try:
                await self.record([])
            except VestibuleError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._waits.clear()
