"""What every proxy should have, compiled anew whenever the world changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Protocol

from vestibule.clock import Clock, SystemClock
from vestibule.envoy.codes import UNKNOWN_INSTANCE
from vestibule.envoy.compile import Compilation, Compiler, compile_proxy
from vestibule.envoy.names import BOOTSTRAP_CLUSTERS
from vestibule.envoy.revoked import slots
from vestibule.envoy.world import World, last_expiry, next_expiry, refused_of
from vestibule.errors import VestibuleError
from vestibule.intent import Intent
from vestibule.intent.model import IssuerKind
from vestibule.mesh.built_in import BuiltIn, WithBuiltIn, instances
from vestibule.mesh.discovery import Discovery
from vestibule.mesh.intents import Intents
from vestibule.mesh.own_tokens import OwnTokens, RevokedSlots, service_name
from vestibule.mesh.permissions import NoPermissions, Permissions
from vestibule.mesh.revision import Revision, first_change
from vestibule.records import Distrust
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.xds.inspection import check
from vestibule.xds.resources import ProxyKey, Resource, Snapshot

SLICE: Final = 0.01
"""Seconds of compiling after which everybody else has a turn: one change for thousands of proxies must not stop the
server from answering."""

OVER_FOR: Final = timedelta(hours=1)
"""How long proxies go on refusing what is over: their clocks may be behind."""

_log = logging.getLogger(__name__)


class Lifetimes(Protocol):
    """How long SVIDs live (``SvidLifetimes``)."""

    @property
    def default(self) -> timedelta: ...
    @property
    def ttls(self) -> Mapping[SpiffeId, timedelta]: ...
    @property
    def revision(self) -> Revision: ...


class RevocationSource(Protocol):
    """What is revoked (``identity.revocation_list``)."""

    @property
    def now(self) -> Revocations: ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        ...


class DistrustSource(Protocol):
    """Whose certificates are in wrong hands (``identity.distrusting``)."""

    @property
    def now(self) -> Distrust: ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """As above."""
        ...


class JwtKeySource(Protocol):
    """The keys of the trust domain's JWT-SVIDs."""

    @property
    def now(self) -> str:
        """As a JWK set."""
        ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """As above."""
        ...


class FetchedKeySource(Protocol):
    """The keys that outside issuers publish (``mesh.issuer_keys``)."""

    @property
    def now(self) -> Mapping[str, str]:
        """JWK sets by the address that they come from."""
        ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """As above."""
        ...


class NothingFetched:
    """Where nobody asks."""

    now: Mapping[str, str] = MappingProxyType({})
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


class NoJwtKeys:
    """Where there is nobody to say which."""

    now = ""
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


class NobodyDistrusted:
    """Where there is nobody to say so."""

    now = Distrust()
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


class _Changing(Protocol):
    async def changed(self, since: int) -> int: ...


class _Numbered(_Changing, Protocol):
    @property
    def revision(self) -> int: ...


class NothingRevoked:
    """Where there is no list."""

    now = Revocations()
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


class Publisher:
    """An ``xds.resources.SnapshotSource``.  Proxies that wait for something are compiled; nobody else is.

    A proxy whose instance is not registered (yet, or any more) keeps what it has; one whose service was taken out of
    the intent loses everything.

    What is revoked goes to all proxies at once, whichever intent they have, and before anything is compiled: neither
    waves nor pins nor rollbacks keep it from anybody, nor an intent of which nothing can be compiled.
    """

    def __init__(
        self,
        intents: Intents,
        discovery: Discovery,
        lifetimes: Lifetimes,
        revocations: RevocationSource | None = None,
        clock: Clock | None = None,
        permissions: Permissions | None = None,
        distrust: DistrustSource | None = None,
        jwt_keys: JwtKeySource | None = None,
        built_in: tuple[BuiltIn, ...] = (),
        commit_of: Callable[[str], str] = lambda _version: "",
        fetched_keys: FetchedKeySource | None = None,
        own_tokens: OwnTokens | None = None,
    ) -> None:
        """``commit_of`` knows the commit of an intent's version."""
        self._commit_of = commit_of
        self._permissions = permissions or NoPermissions()
        self._revocations = NothingRevoked() if revocations is None else revocations
        self._distrust = NobodyDistrusted() if distrust is None else distrust
        self._jwt_keys = NoJwtKeys() if jwt_keys is None else jwt_keys
        self._fetched_keys = NothingFetched() if fetched_keys is None else fetched_keys
        self._own_tokens = own_tokens or OwnTokens()
        self._revoked_tokens = RevokedSlots(self._own_tokens)
        self._unexpired = Unexpired()
        self._slots: tuple[Resource, ...] = ()
        self._completed = WithBuiltIn(intents, built_in)
        self._intents: Intents = self._completed
        self._built_in = tuple(instances(built_in))
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
            completed = self._completed.complete(intent)
            return compile_proxy(self._world(completed, self._clock.now()), proxy)
        except Exception:  # noqa: BLE001 - to compare with, it is as good as none
            return None

    async def run(self) -> None:
        """Follow the world, and what is revoked."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_world(), name="publisher-world")
            tasks.create_task(self._follow(self._revocations), name="publisher-revocations")
            tasks.create_task(self._follow(self._own_tokens.revoked), name="publisher-revoked-tokens")

    async def _follow(self, revoked: _Numbered) -> None:
        """Beside the compiling, which takes its time: it is done for everybody before the next revocation."""
        while True:
            seen = revoked.revision
            self._enforce(self._clock.now())
            await revoked.changed(seen)

    async def _follow_world(self) -> None:
        revisions = (
            self._intents.revision,
            self._discovery.instances_revision,
            self._lifetimes.revision,
            self._permissions.revision,
        )
        while True:
            seen = [(each, each.value) for each in revisions]
            followed = (
                *(self._revocations, self._distrust, self._jwt_keys),
                *(self._fetched_keys, self._own_tokens.keys),
            )
            others = [(each, each.revision) for each in followed]
            now = self._clock.now()
            if self._gather(now):
                await self._compile_all()
            endings = [next_expiry(each, now) for each in self._intents.in_force()]
            endings.append(self._permissions.next_end(now))
            ends = min((each for each in endings if each is not None), default=None)
            await self._next_change(seen, others, ends)

    def _enforce(self, now: datetime) -> None:
        """What is revoked is refused by everybody who has anything, from now on."""
        self._fill_slots(now)
        for watched in self._seen.values():
            if (before := watched.compilation) is not None:
                watched.compilation = self._enforcing(before)
                if watched.compilation is not before:
                    watched.revision.bump()

    def _fill_slots(self, now: datetime) -> None:
        refused = refused_of(self._unexpired.of(self._revocations.now, now))
        self._slots = (*slots(refused).values(), *self._revoked_tokens.of(self._intents.in_force()))

    def _enforcing(self, compilation: Compilation) -> Compilation:
        """The same with what is revoked by now, which may be more than when the world was taken up."""
        snapshot = compilation.snapshot.with_resources(*self._slots)
        if snapshot is compilation.snapshot:
            return compilation
        # What was asked of the world for it, and what it was made of, stay as they were: of what is revoked, the one is
        # compiled anew, and the other said here whatever is compiled.
        return replace(compilation, snapshot=snapshot)

    async def _next_change(
        self,
        seen: Iterable[tuple[Revision, int]],
        others: Iterable[tuple[_Changing, int]],
        ends: datetime | None,
    ) -> None:
        """Until something changes, or the instant at which something in the intent ends by itself."""
        waiting: list[asyncio.Future[None] | asyncio.Future[int]] = [
            asyncio.ensure_future(first_change(*seen)),
            *(asyncio.ensure_future(each.changed(since)) for each, since in others),
        ]
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
        self._fill_slots(now)
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
            instances=(*self._discovery.instances(), *self._built_in),
            svid_ttls=self._lifetimes.ttls,
            default_svid_ttl=self._lifetimes.default,
            distrust=self._distrust.now,
            revocations=self._unexpired.of(self._revocations.now, now),
            as_of=last_expiry(intent, now),
            emergencies=self._permissions.holding(),
            ended=self._permissions.ended(),
            commit=self._commit_of(intent.version),
            jwt_keys=self._jwt_keys.now
            if any(each.kind is IssuerKind.SPIFFE for each in intent.mesh.issuers.values())
            else "",
            fetched_keys=self._fetched_of(intent),
            token_issuer=self._own_tokens.issuer if service_name(intent) else "",
            token_keys=self._own_tokens.keys.now if service_name(intent) else "",
        )

    def _fetched_of(self, intent: Intent) -> Mapping[str, str]:
        """What other intents name is no reason to compile anything anew."""
        now = self._fetched_keys.now
        return {each.url: now[each.url] for each in intent.mesh.issuers.values() if each.url in now}

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
            compilation = self._enforcing(compiler.compile(proxy, before))
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


class Unexpired:
    """A list without what has been over for a while, which servers keep on for a week: no certificate of it holds."""

    def __init__(self) -> None:
        self._of: Revocations | None = None
        self._kept = Revocations()
        self._until: datetime | None = None

    def of(self, revocations: Revocations, now: datetime) -> Revocations:
        """The same object as long as it is the same."""
        if revocations is not self._of or (self._until is not None and self._until <= now):
            kept = tuple(each for each in revocations.entries if not each.is_over(now - OVER_FOR))
            whole = len(kept) == len(revocations.entries)
            self._of, self._kept = (
                revocations,
                revocations if whole else Revocations(revocations.version, kept),
            )
            ends = self._kept.next_expiry()
            self._until = None if ends is None else ends + OVER_FOR
        return self._kept


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
