"""What every proxy should have, compiled anew whenever the world changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.clock import Clock, SystemClock
from vestibule.envoy.codes import UNKNOWN_INSTANCE
from vestibule.envoy.compile import Compilation, Compiler, compile_proxy
from vestibule.envoy.names import BOOTSTRAP_CLUSTERS
from vestibule.envoy.world import World, last_expiry, next_expiry
from vestibule.errors import VestibuleError
from vestibule.intent import Intent
from vestibule.mesh.discovery import Discovery
from vestibule.mesh.intents import Intents
from vestibule.mesh.revision import Revision, first_change
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.xds.inspection import check
from vestibule.xds.resources import ProxyKey, Snapshot

SLICE: Final = 0.01
"""Seconds of compiling after which everybody else has a turn: one change for thousands of proxies must not stop the
server from answering."""

_log = logging.getLogger(__name__)


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
        intents: Intents,
        discovery: Discovery,
        lifetimes: Lifetimes,
        revocations: Callable[[], Revocations] = Revocations,
        clock: Clock | None = None,
    ) -> None:
        self._revocations = revocations
        self._intents = intents
        self._clock = clock or SystemClock()
        self._discovery = discovery
        self._lifetimes = lifetimes
        self._compiler = Compiler()
        self._first_wave: Compiler | None = None
        self._seen: dict[ProxyKey, _Watched] = {}

    @property
    def world(self) -> World | None:
        """The world that was compiled last, of the intent that most proxies are to have."""
        return self._compiler.world

    def compiled(self, proxy: ProxyKey, intent: Intent) -> Snapshot | None:
        """What a proxy would have by another intent; None if nothing can be compiled for it."""
        try:
            return compile_proxy(self._world(intent, self._clock.now()), proxy)
        except Exception:  # noqa: BLE001 - to compare with, it is as good as none
            return None

    async def run(self) -> None:
        """Follow the world."""
        revisions = (self._intents.revision, self._discovery.instances_revision, self._lifetimes.revision)
        while True:
            seen = [(each, each.value) for each in revisions]
            now = self._clock.now()
            if self._gather(now):
                await self._compile_all()
            endings = (next_expiry(each, now) for each in self._intents.in_force())
            await self._next_change(seen, min((each for each in endings if each is not None), default=None))

    async def _next_change(self, seen: Iterable[tuple[Revision, int]], ends: datetime | None) -> None:
        """Until something changes, or the instant at which something in the intent ends by itself."""
        change = asyncio.ensure_future(first_change(*seen))
        waiting = [change]
        if ends is not None:
            waiting.append(asyncio.ensure_future(self._clock.sleep_until(ends)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

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

    def _gather(self, now: datetime) -> bool:
        """Take up the world as it is now; whether there is any."""
        intents = self._intents.in_force()
        if not intents:
            return False
        self._compiler.take(self._world(intents[0], now))
        if len(intents) == 1:
            self._first_wave = None
            return True
        if self._first_wave is None:
            # What both have in common is not made twice.
            self._first_wave = Compiler()
            self._first_wave.world = self._compiler.world
        self._first_wave.take(self._world(intents[1], now))
        return True

    def _world(self, intent: Intent, now: datetime) -> World:
        return World(
            intent=intent,
            instances=self._discovery.instances(),
            svid_ttls=self._lifetimes.ttls,
            default_svid_ttl=self._lifetimes.default,
            revocations=self._revocations(),
            as_of=last_expiry(intent, now),
        )

    def _compiler_of(self, version: str | None) -> Compiler | None:
        for each in (self._compiler, self._first_wave):
            if each is not None and each.world is not None and each.world.version == version:
                return each
        return None

    def _compile(self, proxy: ProxyKey, watched: _Watched) -> bool:
        """Compile for one proxy; returns whether there is news that can wait: another version of the same."""
        version = self._intents.version_for(proxy)
        compiler = self._compiler_of(version)
        if compiler is None or version is None:
            # It is taken up in a moment, for all that are watched.
            return False
        before = watched.compilation
        try:
            compilation = compiler.compile(proxy, before)
            if before is None or compilation.snapshot.resources is not before.snapshot.resources:
                # What a proxy would refuse, or would answer errors by, does not leave here.
                known = before.snapshot if before is not None else None
                check(compilation.snapshot, given=BOOTSTRAP_CLUSTERS, before=known)
        except VestibuleError as error:
            if error.code is UNKNOWN_INSTANCE:
                _log.debug("nothing to publish for %s: %s", proxy.instance_id, error)
                return False
            log = _log.error if watched.refused != (refusal := (version, error.message)) else _log.debug
            log("%s of %s keeps what it has: %s", proxy.instance_id, proxy.spiffe_id, error)
            watched.refused = refusal
            self._intents.cannot_have(proxy, version, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - the next lines
            # A bug in the compiler that one service brings to light must not take all others down with it:
            # its proxies keep what they have, loudly.
            _log.exception("cannot compile for %s of %s", proxy.instance_id, proxy.spiffe_id)
            self._intents.cannot_have(proxy, version, f"it cannot be compiled: {error!r}")
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
        self.refused: tuple[str, str] | None = None
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
            await asyncio.sleep(0)  # for those who were given something to send,
            await asyncio.sleep(0)  # and for it to leave
            self._until = time.monotonic() + SLICE
