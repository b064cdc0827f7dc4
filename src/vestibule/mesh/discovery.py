"""Who runs where: instances under leases, as agents register and renew them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.envoy.world import Destination, World, destinations_of
from vestibule.errors import VestibuleError
from vestibule.intent import Intent, Service
from vestibule.intent.bounds import check_port
from vestibule.intent.outside import Gateway
from vestibule.mesh.codes import (
    INSTANCE_TAKEN,
    MALFORMED_INSTANCE,
    NO_INTENT_YET,
    TOO_MANY_INSTANCES,
    UNKNOWN_SERVICE,
)
from vestibule.mesh.denial_places import denial_places
from vestibule.mesh.intents import Intents
from vestibule.mesh.permissions import NoPermissions, Permissions
from vestibule.mesh.revision import Revision, first_change
from vestibule.records import (
    Address,
    CheckView,
    Emergency,
    Health,
    Instance,
    Lease,
    PortView,
    ServiceView,
    UpstreamView,
)
from vestibule.spiffe import SpiffeId
from vestibule.store import Instances

LEASE: Final = timedelta(seconds=30)
_LOOK_EVERY: Final = timedelta(seconds=2)
MOST_PER_AGENT: Final = 1000
"""Instances that one agent may register: a node that was taken over must not bury the mesh under them."""
_MOST_ADDRESSES: Final = 10_000
_SOCKET_PATH_BYTES: Final = 107  # sun_path of struct sockaddr_un, less its terminator
_log = logging.getLogger(__name__)
_INSTANCE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Discovery:
    """Knows every instance.  What is new or different is stored; renewals live in memory only, since every lease is
    extended when the server starts again: for as long as it was away, nobody could renew.

    Of several servers on one database each is told of what is kept and follows (``follow``); there renewals are kept,
    too, so that nobody takes an instance for gone whose agent talks to somebody else.

    ``instances_revision`` grows with every change of who runs where.
    """

    def __init__(
        self,
        kept: Instances,
        intents: Intents,
        clock: Clock,
        permissions: Permissions | None = None,
        *,
        shared: bool = False,
        commit_of: Callable[[str], str] = lambda _version: "",
    ) -> None:
        """``shared``: other servers have the same database.  ``commit_of`` knows the commit of an intent's version."""
        self._commit_of = commit_of
        self._permissions = permissions or NoPermissions()
        self.instances_revision = Revision()
        self._kept = kept
        self._intents = intents
        self._clock = clock
        self._instances: dict[str, Instance] = {}
        self._leases: dict[str, datetime] = {}
        self._states: dict[str, bytes] = {}
        self._fit: dict[str, tuple[Instance, int]] = {}
        """The instances that were found fit for the intents of this revision."""
        self._declared = _Declared()
        self._shared = shared
        self._one_change = asyncio.Lock()
        self._renewed: set[str] = set()
        self._forgotten: set[str] = set()
        self._trusted_from: datetime | None = None

    async def load(self) -> None:
        """Take up what was registered before the server stopped."""
        until = self._clock.now() + LEASE
        await self._kept.extend_leases(until)
        for instance in await self._kept.all():
            self._instances[instance.id] = _without_lease(instance)
            self._leases[instance.id] = until
        self.instances_revision.bump()

    async def run(self) -> None:
        """Forget instances whose leases end."""
        while True:
            now = self._clock.now()
            try:
                await self._keep_up(now)
            except VestibuleError as error:
                # Nobody's lease may end because renewals could not be kept: from then on there is time to renew again.
                if self._trusted_from is None or self._trusted_from <= now:
                    _log.warning("what is registered cannot be kept: %s", error)
                self._trusted_from = now + LEASE
            await self._clock.sleep_until(now + _LOOK_EVERY)

    async def _keep_up(self, now: datetime) -> None:
        over = [each for each, until in self._leases.items() if until <= now]
        if not self._shared:
            self._renewed.clear()
            for instance_id in [*over, *self._forgotten]:
                await self._forget(instance_id)
            return
        if self._renewed:
            renewed, self._renewed = self._renewed, set()
            try:
                await self._kept.renew(sorted(renewed), now + LEASE)
            except VestibuleError:
                self._renewed |= renewed
                raise
        if self._trusted_from is not None and now < self._trusted_from:
            return
        if over:
            await self._kept.expire(now)
            await self.follow()

    async def follow(self) -> None:
        """Take over what is kept: another server may have changed it, or have heard of a renewal."""
        async with self._one_change:
            kept = {each.id: each for each in await self._kept.all() if each.id not in self._forgotten}
            changed = [each for each in kept.values() if self._instances.get(each.id) != _without_lease(each)]
            gone = [each for each in self._instances if each not in kept]
            for each in changed:
                self._instances[each.id] = _without_lease(each)
                # What its agent says of it now was said to somebody else.
                self._states.pop(each.id, None)
            for instance_id in gone:
                self._drop(instance_id)
            now = self._clock.now()
            for each in kept.values():
                self._leases[each.id] = max(
                    self._leases.get(each.id, now), each.lease_expires_at or now + LEASE
                )
            if changed or gone:
                self.instances_revision.bump()

    def instances(self) -> tuple[Instance, ...]:
        """All instances, by ID, without their leases."""
        return tuple(self._instances[each] for each in sorted(self._instances))

    def instance(self, instance_id: str) -> Instance | None:
        """The instance of this ID."""
        return self._instances.get(instance_id)

    def lease_of(self, instance_id: str) -> datetime | None:
        """Until when an instance is believed to run without hearing of it again."""
        return self._leases.get(instance_id)

    async def register(self, instance: Instance, state: bytes = b"") -> int:
        """Keep an instance or renew its lease; the lease in seconds.  Renewals will call what it is now ``state``.

        Who registers was checked before: the instance's identity and agent are what was proven.
        Raises: VST3200, VST3201, VST3202, VST3203, VST3204, VST3205; the errors of the store.
        """
        declared = self._check(instance)
        wanted, known = _without_lease(instance), self._instances.get(instance.id)
        if known is not None and (known.spiffe_id, known.agent_id) != (wanted.spiffe_id, wanted.agent_id):
            raise INSTANCE_TAKEN.error(f"instance {instance.id!r} belongs to another service or agent")
        if known is None and self._registered_by(wanted.agent_id) >= MOST_PER_AGENT:
            raise TOO_MANY_INSTANCES.error(f"{wanted.agent_id} has {MOST_PER_AGENT} instances already")
        if known is None or known.version != wanted.version:
            # What runs is not cut off by an intent that forgets its version; `undeclared` names it.
            _check_version(wanted, declared)
        wanted = _as_known(wanted, known)
        until = self._clock.now() + LEASE
        if known != wanted:
            await self._keep(wanted, until)
        self._leases[instance.id] = until
        self._states[instance.id] = state
        self._renewed.add(instance.id)
        return int(LEASE.total_seconds())

    def renew(self, agent_id: SpiffeId, leases: Sequence[Lease]) -> tuple[int, list[str]]:
        """Renew the leases of an agent's instances: the lease in seconds, and the instances whose was not.

        Those this server knows otherwise or not at all, and those that the intent has no room for any more.
        """
        until = self._clock.now() + LEASE
        refused = []
        for each in leases:
            if self._is_as_said(agent_id, each):
                self._leases[each.instance_id] = until
                self._renewed.add(each.instance_id)
            else:
                refused.append(each.instance_id)
        return int(LEASE.total_seconds()), refused

    def _is_as_said(self, agent_id: SpiffeId, lease: Lease) -> bool:
        known = self._instances.get(lease.instance_id)
        if known is None or (known.spiffe_id, known.agent_id) != (lease.spiffe_id, agent_id):
            return False
        if not lease.state or self._states.get(lease.instance_id) != lease.state:
            return False
        checked = (known, self._intents.revision.value)
        if self._fit.get(known.id) == checked:
            return True
        try:
            self._check(known)
        except VestibuleError:
            return False
        self._fit[known.id] = checked
        return True

    def _check(self, instance: Instance) -> list[Service | Gateway]:
        """Its service or gateway, by every intent that has it.  Raises: VST3200, VST3201, VST3203."""
        declared = self._declarations_of(instance)
        ports = frozenset(port for each in declared for port in _ports_of(each))
        # A gateway has no app: others reach it at addresses of its own choice, where they may be anywhere.
        _check_layout(instance, ports, is_gateway=isinstance(declared[0], Gateway))
        return declared

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId) -> None:
        """Forget an instance of this identity under this agent; nothing happens if there is none."""
        known = self._instances.get(instance_id)
        if known is not None and (known.spiffe_id, known.agent_id) == (spiffe_id, agent_id):
            await self._forget(instance_id)

    async def forget_all_of(self, agent_id: SpiffeId) -> int:
        """Forget every instance under an agent, which was cut off; how many.  Raises: errors of the store."""
        found = [each.id for each in self._instances.values() if each.agent_id == agent_id]
        for instance_id in found:
            await self._forget(instance_id)
        return len(found)

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId) -> Instance | None:
        """An instance of this identity under this agent is about to stop; None if there is none."""
        known = self._instances.get(instance_id)
        if known is None or (known.spiffe_id, known.agent_id) != (spiffe_id, agent_id):
            return None
        if known.health is not Health.DRAINING:
            known = self._instances[instance_id] = replace(known, health=Health.DRAINING)
            self.instances_revision.bump()
            async with self._one_change:
                await self._kept.put(replace(known, lease_expires_at=self._leases.get(instance_id)))
        return known

    def undeclared(self) -> tuple[Instance, ...]:
        """Instances in versions that their services do not list any more, by ID."""
        return tuple(each for each in self.instances() if not _may_run(each, self._found(each)))

    @property
    def revision(self) -> int:
        """Changes when ``describe`` may answer differently."""
        return self._intents.revision.value + self._permissions.revision.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        while self.revision == since:
            revisions = (self._intents.revision, self._permissions.revision)
            await first_change(*((each, each.value) for each in revisions))
        return self.revision

    def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """The service with this identity, and what it may call; ``None`` when there is none.

        While some proxies have another intent than others: by any of them.
        """
        views = [
            view
            for intent in reversed(self._intents.in_force())
            if (view := _described(intent, spiffe_id, self._permissions.holding())) is not None
        ]
        if not views:
            return None
        ports = {each.name: each for view in reversed(views) for each in view.ports}
        upstreams = {each.name: each for view in reversed(views) for each in view.upstreams}
        return replace(
            views[0],
            ports=tuple(ports[name] for name in sorted(ports)),
            upstreams=tuple(upstreams[name] for name in sorted(upstreams)),
            intent_commit=self._commit_of(views[0].intent_version),
        )

    def _registered_by(self, agent_id: SpiffeId) -> int:
        return sum(each.agent_id == agent_id for each in self._instances.values())

    def _declarations_of(self, instance: Instance) -> list[Service | Gateway]:
        """Its service or gateway, by every intent that has it.  Raises: VST3200, VST3203."""
        intents = self._intents.in_force()
        if not intents:
            raise NO_INTENT_YET.error("no valid intent has been read yet")
        found = self._found(instance)
        declared = [each for each in found if each.name == instance.service]
        if not declared:
            raise UNKNOWN_SERVICE.error(f"{instance.spiffe_id} is not the identity of {instance.service!r}")
        return declared

    def _found(self, instance: Instance) -> list[Service | Gateway]:
        return [
            each
            for intent in self._intents.in_force()
            if (each := self._declared.of(intent, instance.spiffe_id)) is not None
        ]

    async def _forget(self, instance_id: str) -> None:
        # First out of sight: callers should leave at once, also when the disk is slow.
        if self._drop(instance_id):
            self.instances_revision.bump()
        self._forgotten.add(instance_id)
        async with self._one_change:
            if instance_id in self._forgotten:
                await self._kept.delete(instance_id)
            self._forgotten.discard(instance_id)

    async def _keep(self, instance: Instance, until: datetime) -> None:
        async with self._one_change:
            await self._kept.put(replace(instance, lease_expires_at=until))
            self._instances[instance.id] = instance
            self._forgotten.discard(instance.id)
        self.instances_revision.bump()

    def _drop(self, instance_id: str) -> bool:
        """Whether it was known."""
        self._leases.pop(instance_id, None)
        self._states.pop(instance_id, None)
        self._fit.pop(instance_id, None)
        self._renewed.discard(instance_id)
        return self._instances.pop(instance_id, None) is not None


class _Declared:
    """Services and gateways by their identities, for the intents that were asked for last."""

    def __init__(self) -> None:
        self._known: list[tuple[Intent, dict[SpiffeId, Service | Gateway]]] = []

    def of(self, intent: Intent, spiffe_id: SpiffeId) -> Service | Gateway | None:
        for known, found in self._known:
            if known is intent:
                return found.get(spiffe_id)
        every: list[Service | Gateway] = [*intent.gateways.values(), *intent.services.values()]
        found = {each.spiffe_id: each for each in every}
        self._known = [(intent, found), *self._known[:1]]
        return found.get(spiffe_id)


def _without_lease(instance: Instance) -> Instance:
    return replace(instance, lease_expires_at=None)


def _as_known(wanted: Instance, known: Instance | None) -> Instance:
    """What is known of an instance's app outlives its agent, which starts without knowing anything.

    Who said that it stops does not come back.
    """
    if known is not None and known.health is Health.DRAINING:
        return replace(wanted, health=Health.DRAINING)
    if known is None or wanted.health is not Health.STARTING or not known.ingress:
        return wanted
    same = (known.ingress, known.apps) == (wanted.ingress, wanted.apps)
    return replace(wanted, health=known.health) if same else wanted


def _may_run(instance: Instance, declared: Sequence[Service | Gateway]) -> bool:
    lists = [each.traffic.versions for each in declared if isinstance(each, Service)]
    return not all(lists) or any(instance.version in each for each in lists) or not lists


def _check_version(instance: Instance, declared: Sequence[Service | Gateway]) -> None:
    """Who splits by version must not meet one that nobody speaks of."""
    if not _may_run(instance, declared):
        known = next(each.traffic.versions for each in declared if isinstance(each, Service))
        message = f"{instance.service} has no version {instance.version!r}, only {', '.join(known)}"
        raise MALFORMED_INSTANCE.error(message)


def _declared_in(intent: Intent, spiffe_id: SpiffeId) -> Service | Gateway | None:
    every: list[Service | Gateway] = [*intent.services.values(), *intent.gateways.values()]
    return next((each for each in every if each.spiffe_id == spiffe_id), None)


def _ports_of(declared: Service | Gateway) -> Iterable[str]:
    return declared.listeners if isinstance(declared, Gateway) else declared.ports


def _described(
    intent: Intent, spiffe_id: SpiffeId, emergencies: tuple[Emergency, ...] = ()
) -> ServiceView | None:
    declared = _declared_in(intent, spiffe_id)
    if declared is None:
        return None
    if isinstance(declared, Gateway):
        return _described_gateway(intent, declared)
    service = declared
    world = World(intent=intent, emergencies=emergencies)
    return ServiceView(
        service=service.name,
        spiffe_id=spiffe_id,
        ports=tuple(
            PortView(name=each.port.name, protocol=each.port.protocol.value)
            for each in destinations_of(service)
        ),
        upstreams=(
            *_upstreams(found for name in world.allowed_for(spiffe_id) if (found := world.destination(name))),
            *_outside(world, spiffe_id),
        ),
        intent_version=intent.version,
        mesh=intent.mesh.name,
        environment=intent.mesh.environment,
        check=_check_of(service),
        places=denial_places(service, intent.externals.values()),
    )


def _check_of(service: Service) -> CheckView | None:
    check = service.traffic.health
    port = check_port(service) if check is not None else None
    if check is None or port is None:
        return None
    return CheckView(
        kind=check.kind.value,
        port=port,
        path=check.path,
        grpc_service=check.grpc_service,
        every=check.every.total_seconds(),
        timeout=check.timeout.total_seconds(),
        unhealthy=check.unhealthy,
        healthy=check.healthy,
    )


def _described_gateway(intent: Intent, gateway: Gateway) -> ServiceView:
    """It calls services by its routes alone, and nobody stands beside it who could call anything else."""
    return ServiceView(
        service=gateway.name,
        spiffe_id=gateway.spiffe_id,
        ports=tuple(
            PortView(
                name=name,
                protocol="http",
                listen=Address(host=each.address, port=each.port),
                certificate=each.tls.certificate if each.tls is not None else "",
                key=each.tls.key if each.tls is not None else "",
            )
            for name, each in sorted(gateway.listeners.items())
        ),
        upstreams=(),
        intent_version=intent.version,
        mesh=intent.mesh.name,
        environment=intent.mesh.environment,
    )


def _upstreams(found: Iterable[Destination]) -> tuple[UpstreamView, ...]:
    return tuple(
        UpstreamView(
            name=each.name, service=each.service, port=each.port.name, protocol=each.port.protocol.value
        )
        for each in sorted(found, key=lambda each: each.name)
    )


def _outside(world: World, caller: SpiffeId) -> Iterator[UpstreamView]:
    """The hosts outside that a service may call; one that has a service's name is not reached by it."""
    for each in world.outside_for(caller):
        if each.allow and world.destination(each.name) is None:
            yield UpstreamView(
                name=each.name, service=f"external:{each.name}", port="", protocol=each.protocol.value
            )


def _check_layout(instance: Instance, ports: Set[str], *, is_gateway: bool) -> None:
    """1. The ID can be a name.  2. Every port is one of the service, with an app, or of the gateway.

    3. Addresses differ.  4. Proxies can use the addresses: one that they refuse would keep from all callers of the
    service whatever else changes among its instances.
    """
    if not _INSTANCE_ID.fullmatch(instance.id):
        raise MALFORMED_INSTANCE.error(
            "an instance ID is 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '-'"
        )
    for port in instance.ingress:
        if port not in ports:
            raise MALFORMED_INSTANCE.error(f"{instance.service} has no port {port!r}")
        if port not in instance.apps and not is_gateway:
            raise MALFORMED_INSTANCE.error(f"port {port!r} has no app behind it")
    listening: list[Address] = [*instance.ingress.values(), *instance.upstreams.values()]
    listening += [instance.egress] if instance.egress is not None else []
    twice = [address for address, times in Counter(listening).items() if times > 1]
    if twice:
        raise MALFORMED_INSTANCE.error(f"two listeners are at {twice[0]}")
    if len(instance.apps) + len(instance.upstreams) > _MOST_ADDRESSES:
        raise MALFORMED_INSTANCE.error(f"an instance has at most {_MOST_ADDRESSES} addresses")
    for address in (*listening, *instance.apps.values()):
        if not _is_usable(address, anywhere=is_gateway):
            raise MALFORMED_INSTANCE.error(f"{str(address)[:120]!r} is no address that a proxy can use")


def _is_usable(address: Address, *, anywhere: bool = False) -> bool:
    if address.path:
        return len(os.fsencode(address.path)) <= _SOCKET_PATH_BYTES and "\0" not in address.path
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return (anywhere or not ip.is_unspecified) and not (ip.is_multicast or "%" in address.host)
