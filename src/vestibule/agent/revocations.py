"""Keeping up with what is revoked: followed at the server, in force here at once, kept on disk."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

from vestibule.agent.cache import SvidCache
from vestibule.agent.changed import Changed
from vestibule.agent.codes import REVOCATIONS_UNKNOWN
from vestibule.agent.pause import Pause
from vestibule.agent.revocation_file import RevocationFile
from vestibule.clock import Clock
from vestibule.errors import ErrorCode, VestibuleError
from vestibule.spiffe import Revocation, Revocations

SAVE_AGAIN_SECONDS: Final = 2.0
_log = logging.getLogger(__name__)


class Update(Protocol):
    """Changes, with which the list is at ``version``; ``more`` of the same change follow at once."""

    @property
    def version(self) -> int: ...

    @property
    def changes(self) -> Sequence[Revocation]: ...

    @property
    def more(self) -> bool: ...


class RevocationUpstream(Protocol):
    """Who has the list."""

    def watch(self, since: int) -> AsyncGenerator[Update, None]: ...


class AgentRevocations:
    """The agent's list, and a source of it for the libraries on its node (``doors.revocation_feed``)."""

    def __init__(
        self,
        *,
        cache: SvidCache,
        file: RevocationFile,
        upstream: RevocationUpstream,
        until_joined: Callable[[], Awaitable[None]],
        clock: Clock,
        news: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        """``news`` hears when the list changed, after the cache has dropped what is on it."""
        self._cache = cache
        self._file = file
        self._upstream = upstream
        self._until_joined = until_joined
        self._clock = clock
        self._news = news
        self._jitter = jitter
        self._changed = Changed()
        self._saved = Revocations()
        self._latest = clock.now()
        self._whole = True
        self.following = False
        """Whether every change is pushed to us now."""
        self.not_saved: VestibuleError | None = None
        """Why the list on disk is older than the one in force, while it is."""

    @property
    def now(self) -> Revocations:
        """The list."""
        return self._cache.revocations

    @property
    def revision(self) -> int:
        """Counts the changes since the start."""
        return self._changed.version

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._changed.after(since)

    def hear(self, version: int) -> None:
        """Somebody was told more by another agent: nothing to be done here."""

    def load(self) -> None:
        """Take up the list on disk; one that does not open keeps everything from being served (VST2114).

        Raises: VST2107.
        """
        try:
            self._saved = self._file.load()
        except VestibuleError as error:
            if error.code is not REVOCATIONS_UNKNOWN:
                raise
            _log.error("%s; nobody is served until the server has told it anew (%s)", error, error.advice)
            self._cache.doubt = error
            return
        self._cache.revoke(self._saved.merged((), 0, self._clock.now()))

    async def run(self) -> None:
        """Never ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="revocations-follow")
            tasks.create_task(self._keep(), name="revocations-keep")

    async def _follow(self) -> None:
        pause = Pause(self._jitter)
        told: ErrorCode | None = None
        while True:
            await self._until_joined()
            try:
                async with aclosing(self._upstream.watch(self._since())) as updates:
                    async for update in updates:
                        pause.reset()
                        self.following, told = not update.more, None
                        self.take(update)
                        self._whole &= update.more
                        if not self._whole:
                            self._know()
            except VestibuleError as error:
                level = logging.DEBUG if told is error.code else logging.WARNING
                told = error.code
                _log.log(level, "not following what is revoked: %s", error)
            self.following = False
            await asyncio.sleep(pause.next())

    def _know(self) -> None:
        """All of the list is here."""
        if self._cache.doubt is not None:
            _log.warning("it is known again what is revoked: the server has told all of it")
            self._cache.believe()
            self._changed.notify()

    def _since(self) -> int:
        """From which version on to be told.

        What is over is forgotten here, and over is said by a clock that may have been wrong: at each start, and once
        the clock was set back, everything is told again.
        """
        now = self._clock.now()
        self._whole |= now < self._latest
        self._latest = now
        return 0 if self._whole else self.now.version

    def take(self, update: Update) -> None:
        """Changes of the list: in force when this returns."""
        before, now = self.now, self._clock.now()
        self._latest = max(self._latest, now)
        after = before.merged(update.changes, update.version, now)
        if after is before:
            return
        dropped = self._cache.revoke(after)
        for each in update.changes[:20]:
            _log.warning("revoked: %s", each)
        if dropped:
            _log.warning("%d SVIDs in hand are revoked and served no more", dropped)
        self._changed.notify()
        self._news()

    async def _keep(self) -> None:
        """Write the newest list to disk, until cancelled; then what is still to be written."""
        seen = self._changed.version
        try:
            while True:
                await self._save()
                if self.not_saved is not None:
                    await asyncio.sleep(SAVE_AGAIN_SECONDS)
                    continue
                seen = await self._changed.after(seen)
        finally:
            # At an orderly end nothing is lost: who was revoked a moment ago stays so through a restart.
            await self._save()

    async def _save(self) -> None:
        """A disk that is full is reported, and does not weaken what is in force."""
        now = self.now
        try:
            # What is not known must not stand in for what can be repaired.
            if now is not self._saved and self._cache.doubt is None:
                await self._file.save(now)
        except VestibuleError as error:
            if self.not_saved is None:
                _log.error("%s (%s)", error, error.advice)
            self.not_saved = error
        else:
            if self._cache.doubt is None:
                self._saved, self.not_saved = now, None
