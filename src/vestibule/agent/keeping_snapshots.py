"""Writes down what the proxies of this node took, off the path that changes take to them.

A change comes to all proxies of a node within moments.  What they took is written by one thread, one file after the
other, instead of by a thread for each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from vestibule.agent.codes import CACHE_UNUSABLE
from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.xds.relayed import Relayed
from vestibule.xds.resources import ProxyKey, Snapshot

SAVE_AFTER: Final = 0.1
"""Seconds: types settle one after the other, and proxies, too; a moment later there is one thing to write."""
SAVE_AGAIN: Final = 2.0
"""Seconds after which what could not be written is tried again."""

_log = logging.getLogger(__name__)


class Files:
    """The files of all proxies of this node.  ``run`` must be running."""

    def __init__(self, kept: KeptSnapshots) -> None:
        self._kept = kept
        self._unsaved: dict[ProxyKey, Relayed] = {}
        self._news = asyncio.Event()
        self._complained: set[ProxyKey] = set()

    def keep(self, proxy: ProxyKey, relayed: Relayed) -> None:
        """The proxy took something: it is written in a moment, as it then is."""
        self._unsaved[proxy] = relayed
        self._news.set()

    def forget(self, proxy: ProxyKey) -> None:
        """The proxy is gone for good."""
        self._unsaved.pop(proxy, None)
        self._complained.discard(proxy)
        self._kept.forget(proxy)

    async def run(self) -> None:
        """Write what is to be written, until cancelled; then write the rest."""
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(SAVE_AFTER)
                await self._save()
                if self._complained:
                    await asyncio.sleep(SAVE_AGAIN)
        finally:
            # At an orderly end nothing is lost, nor written over by an older write that is still under way.
            if self._unsaved:
                await self._save()

    async def _save(self) -> None:
        self._news.clear()
        unsaved, self._unsaved = self._unsaved, {}
        found = {proxy: each.good for proxy, each in unsaved.items()}
        writing = asyncio.create_task(asyncio.to_thread(self._write, found))
        try:
            failures = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            writing.exception()  # there is no later try to be told of it
            raise
        for proxy in unsaved.keys() - failures.keys():
            self._complained.discard(proxy)
        for proxy, error in failures.items():
            self._unsaved.setdefault(proxy, unsaved[proxy])
            self._news.set()
            if proxy not in self._complained:
                reason = f"cannot keep the configuration of {proxy.spiffe_id}: {error.strerror}"
                full = CACHE_UNUSABLE.error(reason)
                _log.error("%s (%s)", full, full.advice)
            self._complained.add(proxy)

    def _write(self, found: Mapping[ProxyKey, Snapshot | None]) -> dict[ProxyKey, OSError]:
        """Write all that can be written; returns what could not be."""
        failures: dict[ProxyKey, OSError] = {}
        for proxy, good in found.items():
            try:
                if good is not None:
                    self._kept.save(proxy, good)
            except OSError as error:
                failures[proxy] = error
        return failures
