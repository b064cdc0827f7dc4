"""What every proxy should have, compiled anew whenever the world changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.envoy.compile import Compilation, Compiler
from vestibule.envoy.world import World
from vestibule.errors import VestibuleError
from vestibule.intent import Problem
from vestibule.mesh.discovery import Discovery
from vestibule.mesh.revision import Revision, first_change
from vestibule.mesh.source import CommitInfo, Source
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.xds.resources import ProxyKey, Snapshot

SLICE: Final = 0.01
"""Seconds of compiling after which everybody else has a turn: one change for thousands of proxies must not stop the
server from answering."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentStatus:
    """What is in force, and what is wrong with the files as they are now."""

    version: str | None
    directory: str
    loaded_at: datetime | None
    problems: tuple[Problem, ...]
    services: tuple[str, ...]
    commit: CommitInfo | None = None
    head: str | None = None


class Lifetimes(Protocol):
    """How long SVIDs live (``SvidLifetimes``)."""

    @property
    def default(self) -> timedelta: ...
    @property
    def ttls(self) -> Mapping[SpiffeId, timedelta]: ...
    @property
    def revision(self) -> Revision: ...


class Publisher:
    """An ``xds.resources.SnapshotSource``.  Proxies that wait for something are compiled; nobody else is.

    A proxy whose instance is not registered (yet, or any more) keeps what it has; one whose service was taken out of
    the intent loses everything.
    """

    def __init__(
        self,
        source: Source,
        discovery: Discovery,
        lifetimes: Lifetimes,
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        self._revocations = revocations
        self._source = source
        self._discovery = discovery
        self._lifetimes = lifetimes
        self._compiler = Compiler()
        self._seen: dict[ProxyKey, _Watched] = {}

    @property
    def world(self) -> World | None:
        """The world that was compiled last."""
        return self._compiler.world

    def intent_status(self) -> IntentStatus:
        """For status displays."""
        reading = self._source.reading
        services = sorted(reading.intent.services) if reading.intent is not None else ()
        return IntentStatus(
            version=reading.intent.version if reading.intent is not None else None,
            directory=self._source.place,
            loaded_at=reading.loaded_at,
            problems=reading.problems,
            services=tuple(services),
            commit=reading.commit,
            head=reading.head,
        )

    async def run(self) -> None:
        """Follow the world."""
        revisions = (self._source.revision, self._discovery.instances_revision, self._lifetimes.revision)
        while True:
            seen = [(each, each.value) for each in revisions]
            if (world := self._gather()) is not None:
                self._compiler.take(world)
                await self._compile_all()
            await first_change(*seen)

    async def _compile_all(self) -> None:
        """Those who are concerned first, then those to whom only the version is new."""
        later: list[_Watched] = []
        pause = _Pause()
        for proxy in tuple(self._seen):
            if (watched := self._seen.get(proxy)) is not None and self._compile(proxy, watched):
                later.append(watched)
            await pause.if_due()
        for watched in later:
            watched.revision.bump()
            await pause.if_due()

    async def watch(self, proxy: ProxyKey) -> AsyncIterator[Snapshot]:
        """The proxy's snapshot as soon as there is one, then every newer one."""
        watched = self._seen.setdefault(proxy, _Watched())
        watched.watchers += 1
        try:
            if watched.compilation is None:
                self._compile(proxy, watched)
            given: Snapshot | None = None
            while True:
                seen = watched.revision.value
                if watched.snapshot is not None and watched.snapshot is not given:
                    given = watched.snapshot
                    yield given
                await watched.revision.changed(seen)
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                with suppress(KeyError):
                    del self._seen[proxy]

    def _gather(self) -> World | None:
        intent = self._source.reading.intent
        if intent is None:
            return None
        return World(
            intent=intent,
            instances=self._discovery.instances(),
            svid_ttls=self._lifetimes.ttls,
            default_svid_ttl=self._lifetimes.default,
            revocations=self._revocations(),
        )

    def _compile(self, proxy: ProxyKey, watched: _Watched) -> bool:
        """Compile for one proxy; returns whether there is news that can wait: another version of the same."""
        if self._compiler.world is None:
            return False
        before = watched.compilation
        try:
            compilation = self._compiler.compile(proxy, before)
        except VestibuleError as error:
            _log.debug("nothing to publish for %s: %s", proxy.instance_id, error)
            return False
        except Exception:  # noqa: BLE001 - the next lines
            # A bug in the compiler that one service brings to light must not take all others down with it:
            # its proxies keep what they have, loudly.
            _log.exception("cannot compile for %s of %s", proxy.instance_id, proxy.spiffe_id)
            return False
        watched.compilation = compilation
        if before is not None and compilation.snapshot.resources is before.snapshot.resources:
            return compilation.snapshot.version != before.snapshot.version
        watched.revision.bump()
        return False


class _Watched:
    """A proxy that somebody watches."""

    def __init__(self) -> None:
        self.compilation: Compilation | None = None
        self.revision = Revision()
        self.watchers = 0

    @property
    def snapshot(self) -> Snapshot | None:
        """What the proxy should have."""
        return self.compilation.snapshot if self.compilation is not None else None


class _Pause:
    """Gives way to others whenever a slice of time is used up."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    async def if_due(self) -> None:
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE
