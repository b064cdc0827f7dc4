"""The holdings in memory and on disk: what changed is served at once and written soon."""

from __future__ import annotations

import logging

from vestibule.agent.cache import Holdings, SvidCache
from vestibule.agent.vault import Vault
from vestibule.errors import VestibuleError

_log = logging.getLogger(__name__)


class Keeping:
    """The one who changes the holdings."""

    def __init__(self, cache: SvidCache, vault: Vault) -> None:
        self.cache = cache
        self._vault = vault
        self.unsaved = False
        """Whether what is held is newer than what is on disk."""
        self.not_saved: VestibuleError | None = None
        """Why, where writing failed."""

    @property
    def now(self) -> Holdings:
        """What is held."""
        return self.cache.now

    def become(self, holdings: Holdings) -> None:
        """Serve these from now on; they are written with the next ``save``."""
        self.unsaved |= self.cache.become(holdings)

    async def save(self, holdings: Holdings) -> None:
        """Write these holdings; a disk that is full is reported, and does not keep from serving."""
        try:
            await self._vault.save(holdings)
        except VestibuleError as error:
            # Serving goes on from memory; the next round tries again.
            if self.not_saved is None:
                _log.error("%s (%s)", error, error.advice)
            self.unsaved, self.not_saved = True, error
        else:
            if self.not_saved is not None:
                _log.info("the agent's cache is written again")
            self.unsaved, self.not_saved = False, None

    def destroy(self) -> None:
        """Hold nothing any more, in memory and on disk.  Raises: VST2107."""
        self.cache.become(Holdings())
        self.unsaved = False
        self._vault.destroy()
