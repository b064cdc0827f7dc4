"""Instances of agents that are revoked: nobody knows any more who answers at their addresses."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from vestibule.errors import VestibuleError
from vestibule.mesh.publish import RevocationSource
from vestibule.spiffe import RevokedAgent, SpiffeId

RETRY_SECONDS: Final = 2.0
_log = logging.getLogger(__name__)


class Instances(Protocol):
    """Who runs where (``mesh.discovery``)."""

    async def forget_all_of(self, agent_id: SpiffeId) -> int: ...


class CutOff:
    """Forgets them as soon as the agent is on the list.

    An agent that attests again after ``agent evict`` gets another mark, and registers its instances anew: what was
    seen on the list once is not looked at again.
    """

    def __init__(self, revocations: RevocationSource, instances: Instances) -> None:
        self._revocations = revocations
        self._instances = instances
        self._seen = frozenset(self._marks())

    async def run(self) -> None:
        """Never ends by itself."""
        while True:
            revision = self._revocations.revision
            try:
                await self.look()
            except VestibuleError as error:
                # Out of sight they are all the same; only the store has them still.
                _log.error("instances of a revoked agent are not forgotten for good: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._revocations.changed(revision)

    async def look(self) -> None:
        """Forget the instances of agents that are new on the list.  Raises: errors of the store."""
        now = self._marks()
        for target in now.keys() - self._seen:
            if count := await self._instances.forget_all_of(now[target]):
                _log.warning("%d instances of %s are called no more: it is revoked", count, now[target])
        self._seen = frozenset(now)

    def _marks(self) -> dict[str, SpiffeId]:
        entries = self._revocations.now.entries
        return {each.id: each.target.agent_id for each in entries if isinstance(each.target, RevokedAgent)}
