"""The sidecars attached to this agent: who they are, what they vouched for, which instances they registered.

A sidecar holds one stream to the agent open (``doors/sidecar_api.py``); a ``Session`` is its half of the
conversation without the wire.  All that it registered ends with it.  The server may be away: the session then
goes on with the last known description of its service, and registers the instance once the server is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from vestibule.agent.sidecars.codes import (
    NO_SERVICE_IDENTITY,
    NOT_A_PROXY,
    NOT_ITS_PROCESS,
    OUT_OF_STEP,
    UNKNOWN_SUPERVISOR_KEY,
)
from vestibule.agent.sidecars.health import AppHealth, Checks, Target
from vestibule.agent.sidecars.leases import RETRY_FIRST, RETRY_LONGEST, Leases, Renewing, state_of
from vestibule.agent.sidecars.views import ViewCache
from vestibule.agent.sidecars.waiting import first_of
from vestibule.errors import Kind, VestibuleError
from vestibule.records import Boundary, Health, Instance, Keeper, PrintedUse, ProxyTraffic, ServiceView
from vestibule.spiffe import Selector, SpiffeId
from vestibule.xds.resources import ProxyKey

ENVOY: Final = "envoy"
SUPERVISED: Final = "supervised"
MAX_PROCESSES: Final = 64
"""So many processes of one sidecar may be vouched for at a time; it needs two."""

_log = logging.getLogger(__name__)


class MeshUpstream(Renewing, Protocol):
    """What the server tells and takes about services and instances.  Raises: VST2300 while it is away."""

    async def describe(self, spiffe_id: SpiffeId) -> ServiceView | None: ...

    async def register(self, instance: Instance, state: bytes) -> float:
        """Register, or renew; renewals will call it ``state``.  The answer is the lease in seconds."""
        ...

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId) -> None: ...

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, within: float) -> int:
        """Callers leave the instance; how many have not confirmed it within so many seconds."""
        ...


class VouchedProcesses(Protocol):
    """The registry behind the ``supervised`` attestor."""

    def vouch(self, service: str, pid: int, start_time: int, role: str) -> None: ...

    def withdraw(self, pid: int, start_time: int) -> None: ...


Process: TypeAlias = tuple[int, int]
"""A process by pid and start time (field 22 of ``/proc/PID/stat``), which together are never reused."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session knows who it is."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Done:
    """A step was carried out."""

    what: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Uses of break-glass up to this number are on disk."""

    number: int


class Uses(Protocol):
    """Where uses of break-glass are kept (``observe.emergency_uses``)."""

    async def take(
        self, service: str, spiffe_id: SpiffeId, instance_id: str, uses: Sequence[PrintedUse]
    ) -> None:
        """Returns once they are on disk.  Raises: VST8201."""
        ...


Event: TypeAlias = Welcomed | ServiceView | Done | Taken | VestibuleError
"""What a session tells its sidecar."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Who attaches: the service it names, its own process, and what was attested of it."""

    service: str
    instance_id: str
    process: Process
    selectors: frozenset[Selector]


class Grants:
    """Supervisor keys, by their SHA-256, and the service each may vouch for."""

    def __init__(self) -> None:
        self._services: dict[bytes, str] = {}

    def grant(self, key_sha256: bytes, service: str) -> None:
        self._services[key_sha256] = service

    def revoke(self, key_sha256: bytes) -> None:
        self._services.pop(key_sha256, None)

    def check(self, key: bytes, service: str) -> None:
        """Raises: VST2130 unless the key was granted for just this service."""
        # The digest is looked up, not the key: how long that takes tells nothing about any key.
        if self._services.get(hashlib.sha256(key).digest()) != service:
            raise UNKNOWN_SUPERVISOR_KEY.error(
                f"the supervisor key is not one granted for service {service!r}"
            )


class Sidecars:
    """All sessions of this agent, and the answers that other doors need: whose Envoy is this process?"""

    def __init__(
        self,
        *,
        upstream: MeshUpstream,
        identities: Callable[[frozenset[Selector]], list[SpiffeId]],
        vouched: VouchedProcesses,
        is_descendant: Callable[[Process, Process], bool],
        views: ViewCache,
        checks: Checks,
        locality: str = "",
        uses: Uses | None = None,
    ) -> None:
        self.uses = uses
        self.upstream = upstream
        self.identities = identities
        self.vouched = vouched
        self.is_descendant = is_descendant
        self.views = views
        self.checks = checks
        self.locality = locality
        self.sessions: set[Session] = set()
        self.counted = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False
        self.leases = Leases(upstream, self.changed)

    @property
    def stopping(self) -> bool:
        """Whether sessions end because the agent does."""
        return self._stopping

    def stop(self) -> None:
        """The agent ends, the sidecars go on: their instances keep their leases, for the agent that comes next."""
        self._stopping = True

    def wake(self) -> None:
        """Something upstream changed (entries, intent, or the server is back): every session looks again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def changed(self) -> asyncio.Event:
        """Set at the next ``wake``."""
        return self._changed

    def proxy_of(self, process: Process) -> ProxyKey:
        """The proxy that a calling Envoy is, whatever it says of itself.  Raises: VST2133."""
        session = self.session_of(process)
        if session.spiffe_id is None:
            raise NOT_A_PROXY.error(f"the sidecar of process {process[0]} has no identity yet")
        return ProxyKey(session.spiffe_id, session.instance_id)

    def session_of(self, process: Process) -> Session:
        """The session that vouched for this very process as its Envoy.  Raises: VST2133."""
        for session in self.sessions:
            if session.roles.get(process) == ENVOY:
                return session
        raise NOT_A_PROXY.error(f"process {process[0]} is not the Envoy of an attached sidecar")


@dataclass(eq=False, slots=True)
class Session:
    """One attached sidecar.  ``run`` drives it; ``events`` is what to tell it."""

    sidecars: Sidecars
    attachment: Attachment
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    spiffe_id: SpiffeId | None = None
    roles: dict[Process, str] = field(default_factory=dict)
    waiting: dict[Process, str] = field(default_factory=dict)
    """Processes that it named before it was known whether it speaks for the service."""
    instance: Instance | None = None
    registered: bool = False
    traffic: ProxyTraffic | None = None
    """What its proxy has counted, as it says."""
    _view: ServiceView | None = None
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _given: asyncio.Event = field(default_factory=asyncio.Event)
    _looked_before: asyncio.Event = field(default_factory=asyncio.Event)
    _app: AppHealth = field(init=False)
    _draining: bool = False

    def __post_init__(self) -> None:
        pid = self.attachment.process[0]
        owner = Keeper(uid=_owner_of(self.attachment.process), pid=pid)
        self._app = AppHealth(self.instance_id, owner, self.sidecars.checks, self._given.set)

    @property
    def service(self) -> str:
        return self.attachment.service

    @property
    def instance_id(self) -> str:
        return self.attachment.instance_id

    async def run(self) -> None:
        """Find the identity, then keep the description and the registration current, until cancelled.

        Raises: VST2131 once no entry gives the identity to the sidecar any more.
        """
        self.sidecars.sessions.add(self)
        try:
            await self._find_identity()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_description(), name=f"describe-{self.service}")
                tasks.create_task(self._keep_registered(), name=f"register-{self.service}")
                tasks.create_task(self._app.run(), name=f"check-{self.service}")
        except* VestibuleError as failures:
            raise failures.exceptions[0] from None
        finally:
            self.sidecars.sessions.discard(self)
            for pid, start_time in self.roles:
                self.sidecars.vouched.withdraw(pid, start_time)
            self.sidecars.leases.drop(self.instance_id)
            if not self.sidecars.stopping:
                await self._leave()

    def vouch(self, process: Process, role: str) -> None:
        """Give a process of this sidecar the sidecar's identity, as soon as it has one.  Raises: VST2132, VST2134.

        Anybody may attach and name a service.  What makes a vouch count is the service's supervisor key, or that
        an entry gives the service's identity to the sidecar's own process.
        """
        if not self.sidecars.is_descendant(process, self.attachment.process):
            raise NOT_ITS_PROCESS.error(
                f"process {process[0]} is not one that the sidecar of {self.service} (process "
                f"{self.attachment.process[0]}) started"
            )
        if len(self.roles) + len(self.waiting) >= MAX_PROCESSES:
            raise OUT_OF_STEP.error(f"a sidecar vouches for {MAX_PROCESSES} processes at most")
        if self._speaks_for_service():
            self._vouch(process, role)
        else:
            self.waiting[process] = role

    def _speaks_for_service(self) -> bool:
        own = Selector(SUPERVISED, f"service:{self.service}")
        return self.spiffe_id is not None or own in self.attachment.selectors

    def _vouch(self, process: Process, role: str) -> None:
        self.sidecars.vouched.vouch(self.service, *process, role)
        self.roles[process] = role
        self.events.put_nowait(Done("vouch"))

    def _vouch_for_waiting(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for process, role in waiting.items():
            try:
                self._vouch(process, role)
            except VestibuleError as error:
                self.events.put_nowait(error)

    def withdraw(self, pid: int) -> None:
        """Take a process's identity back."""
        for process in [process for process in self.roles if process[0] == pid]:
            self.sidecars.vouched.withdraw(*process)
            del self.roles[process]
        for process in [process for process in self.waiting if process[0] == pid]:
            del self.waiting[process]
        self.events.put_nowait(Done("withdraw"))

    def register(self, instance: Instance) -> None:
        """The instance is up: announce it, and keep its lease.  Raises: VST2134."""
        if self.spiffe_id is None or instance.service != self.service or instance.id != self.instance_id:
            raise OUT_OF_STEP.error("a sidecar registers one instance of its own service, after its welcome")
        self.instance = replace(instance, spiffe_id=self.spiffe_id)
        self._expect()
        self.registered = False
        self._given.set()
        self._wanted.set()

    def count(self, traffic: ProxyTraffic) -> None:
        """What the sidecar's proxy has counted."""
        self.traffic = traffic
        self.sidecars.counted.set()

    async def used(self, number: int, uses: Sequence[PrintedUse]) -> None:
        """What its proxy printed of calls that break-glass let through.  Raises: VST2134, VST8201."""
        if self.spiffe_id is None or self.sidecars.uses is None:
            raise OUT_OF_STEP.error("a sidecar tells of uses of break-glass after its welcome")
        await self.sidecars.uses.take(self.service, self.spiffe_id, self.instance_id, uses)
        self.events.put_nowait(Taken(number))

    async def drain(self, within: float) -> None:
        """The instance is about to stop: callers leave it, which is waited for, for so many seconds at most."""
        self._draining = True
        self._given.set()
        if (instance := self.instance) is not None and self.registered:
            try:
                behind = await self.sidecars.upstream.drain(instance.id, instance.spiffe_id, within)
            except VestibuleError as error:
                _log.info("the callers of %s are not told that it stops: %s", instance.id, error)
            else:
                if behind:
                    _log.warning("%d callers of %s have not heard that it stops", behind, instance.id)
        self.events.put_nowait(Done("drain"))

    async def deregister(self) -> None:
        """The instance is gone."""
        await self._leave()
        self.events.put_nowait(Done("deregister"))

    async def _find_identity(self) -> None:
        told = False
        while self.spiffe_id is None:
            # Taken before looking, so that a change during the look is not missed.
            changed = self._looked_before = self.sidecars.changed()
            for candidate in self.sidecars.identities(self.attachment.selectors):
                view = await self._describe(candidate)
                if view is not None and view.service == self.service:
                    self.spiffe_id = candidate
                    self.events.put_nowait(Welcomed(candidate))
                    self._tell(view)
                    self._vouch_for_waiting()
                    return
            if not told:
                told = True
                self.events.put_nowait(self._no_identity())
            await first_of(changed, timeout=RETRY_LONGEST)

    def _no_identity(self) -> VestibuleError:
        selectors = ", ".join(sorted(map(str, self.attachment.selectors))) or "none"
        return NO_SERVICE_IDENTITY.error(
            f"no entry gives service {self.service!r} an identity here (attested selectors: {selectors})"
        )

    async def _describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        try:
            view = await self.sidecars.upstream.describe(spiffe_id)
        except VestibuleError as error:
            if error.code.kind is not Kind.UNAVAILABLE:
                _log.warning("cannot describe %s: %s", spiffe_id, error)
            return self.sidecars.views.get(spiffe_id)
        if view is not None:
            self.sidecars.views.put(view)
        return view

    async def _follow_description(self) -> None:
        while self.spiffe_id is not None:
            await self._looked_before.wait()
            self._looked_before = self.sidecars.changed()
            if self.spiffe_id not in self.sidecars.identities(self.attachment.selectors):
                # What it vouched for, and its instance, were its service's only as long as it was.
                raise self._no_identity()
            view = await self._describe(self.spiffe_id)
            if view is not None:
                self._tell(view)

    def _tell(self, view: ServiceView) -> None:
        if view != self._view:
            self._view = view
            self._expect()
            self.events.put_nowait(view)

    def _expect(self) -> None:
        """Whom to ask, by what the service and the sidecar say."""
        instance, view, before = self.instance, self._view, self.health
        target: Target | None = None
        if instance is not None and view is not None and (check := view.check) is not None:
            address = instance.apps.get(check.port) if check.port in instance.ingress else None
            protocol = next((each.protocol for each in view.ports if each.name == check.port), "")
            # Loopback of a namespace of its own is not ours: whoever answered at this port would be somebody else.
            elsewhere = instance.boundary is Boundary.NETNS and address is not None and not address.path
            elsewhere &= not self.sidecars.checks.enters_networks
            target = Target(check, address, protocol) if address is not None and not elsewhere else None
        self._app.expect(target, reachable=instance is not None and bool(instance.ingress))
        if self.health is not before:
            self._given.set()

    @property
    def health(self) -> Health:
        """What is known of the instance; what its sidecar says of it counts only if it is yet to begin, or stops."""
        if self._draining:
            return Health.DRAINING
        starts = self.instance is not None and self.instance.health is Health.STARTING
        return Health.STARTING if starts else self._app.health

    async def _keep_registered(self) -> None:
        pause = RETRY_FIRST
        while True:
            await self._wanted.wait()
            changed = self.sidecars.changed()
            self._given.clear()
            if (instance := self.instance) is None:
                self._wanted.clear()
                continue
            try:
                known = replace(instance, health=self.health, locality=self.sidecars.locality)
                self.sidecars.leases.drop(known.id)
                lease = await self.sidecars.upstream.register(known, state := state_of(known))
            except VestibuleError as error:
                self.registered = False
                if error.code.kind is not Kind.UNAVAILABLE:
                    self.events.put_nowait(error)
                await first_of(changed, self._given, timeout=pause)
                pause = min(pause * 2, RETRY_LONGEST)
                continue
            pause = RETRY_FIRST
            if self.instance is not instance:
                continue  # given anew meanwhile, or gone
            if not self.registered:
                self.registered = True
                self.events.put_nowait(Done("register"))
            # The lease is renewed together with others; what the sidecar gives anew is announced at once.
            self.sidecars.leases.hold(known, state, lease, self._given.set)
            await self._given.wait()

    async def _leave(self) -> None:
        instance, self.instance, was = self.instance, None, self.registered
        self.registered = False
        self.sidecars.leases.drop(self.instance_id)
        self._app.expect(None, reachable=False)
        self._wanted.clear()
        if instance is None or not was:
            return
        try:
            await self.sidecars.upstream.deregister(instance.id, instance.spiffe_id)
        except VestibuleError as error:
            _log.info("the lease of instance %s will run out instead: %s", instance.id, error)


def _owner_of(process: Process) -> int:
    """The uid of a process; one that is gone is nobody's."""
    try:
        return Path(f"/proc/{process[0]}").stat().st_uid
    except OSError:
        return -1
