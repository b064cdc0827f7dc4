"""How the mesh is mounted on a server: with an intent, or not at all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from starlette.routing import Route

from vestibule.app.codes import NO_INTENT_DIRECTORY
from vestibule.app.intent_source import source_of
from vestibule.app.known_tokens import FILE, KnownTokens
from vestibule.app.platform_services import platform_services
from vestibule.app.server_issuers import issuer_keys, issuer_metrics, urls
from vestibule.app.server_rollout import break_glass_metrics, rollout_metrics, unenforced_metrics
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.audit import RecordFilter, latest
from vestibule.clock import Clock
from vestibule.doors.admin_api import MeshStatus
from vestibule.doors.ads import ServerAdsDoor
from vestibule.doors.break_glass_api import BreakGlassDoor, BreakGlassReportsDoor
from vestibule.doors.identity_api.values import unix
from vestibule.doors.intent_api import InForce, IntentDoor
from vestibule.doors.limits import Limits
from vestibule.doors.node_api import Discovery
from vestibule.doors.rollout_api import RolloutDoor
from vestibule.doors.traffic_reports import TrafficReportsDoor
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.beacon import Beacon
from vestibule.intent import Intent, load_files
from vestibule.mesh import CommitInfo, Publisher, Rolling, Source, SvidLifetimes, injected
from vestibule.mesh import Discovery as MeshDiscovery
from vestibule.mesh.break_glass import BreakGlass, sentence
from vestibule.mesh.built_in import BuiltIn, WithBuiltIn
from vestibule.mesh.cut_off import CutOff
from vestibule.mesh.departures import Departures
from vestibule.mesh.error_rates import Count, Report, Side
from vestibule.mesh.intents import Intents
from vestibule.mesh.issuer_keys import IssuerKeys
from vestibule.mesh.kept_intents import unpack
from vestibule.mesh.rollout_view import RolloutView, view_of
from vestibule.mesh.unenforced import Unenforced
from vestibule.net.grpc import Servable
from vestibule.pki.bundles import to_oidc_jwks
from vestibule.records import Instance, Lease, ProxyTraffic, Requests, ServiceView
from vestibule.spiffe import SpiffeId, TrustBundle
from vestibule.telemetry.metrics import Metrics
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2 as wire
from vestibule.xds.ledger import Ledger, Row
from vestibule.xds.messages import Event, Settled
from vestibule.xds.resources import ENDPOINTS, EXTENSION, ProxyKey

Background: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Work that lasts as long as the server, and can be begun anew."""


class Mesh(Protocol):
    """What a server needs of the mesh."""

    @property
    def discovery(self) -> Discovery: ...

    @property
    def status(self) -> MeshStatus: ...

    @property
    def services(self) -> Sequence[Servable]:
        """gRPC services to serve to agents besides the server's own."""
        ...

    @property
    def pages(self) -> Sequence[Route]:
        """What is served beside the health pages."""
        ...

    @property
    def operators(self) -> Sequence[Servable]:
        """gRPC services for operators on the server's own socket."""
        ...

    def reports(self, limits: Limits) -> Sequence[Servable]:
        """gRPC services that agents report to."""
        ...

    def instances(self) -> Sequence[Instance]:
        """All instances that are registered."""
        ...

    def warnings(self) -> Sequence[str]:
        """What an operator should know, in sentences."""
        ...

    @property
    def known_tokens(self) -> KnownTokens | None:
        """What is known of the server's own token service, to be connected to it."""
        ...

    def intent_in_force(self) -> Intent | None:
        """The intent of most proxies, before the platform's own services are added."""
        ...

    def fetched_keys(self) -> Mapping[str, str]:
        """The keys of outside issuers of tokens that publish them, by the address that they come from."""
        ...

    def measured(self, metrics: Metrics) -> None:
        """Register what is counted."""
        ...

    def background(self) -> Mapping[str, Background]:
        """What goes on behind the doors, by name."""
        ...


class IdentityOnly:
    """A server without an intent: it issues identities and knows no services."""

    known_tokens: KnownTokens | None = None

    def __init__(self) -> None:
        self._never = Beacon()
        emergencies = BreakGlassDoor(None)
        self.services: Sequence[Servable] = (emergencies.servable(),)
        self.operators: Sequence[Servable] = (
            RolloutDoor(None).servable(),
            IntentDoor().servable(),
            emergencies.servable(),
        )
        self.pages: Sequence[Route] = ()

    @property
    def discovery(self) -> Discovery:
        return self

    @property
    def status(self) -> MeshStatus:
        return self

    @property
    def revision(self) -> int:
        """Nothing ever changes."""
        return self._never.value

    async def changed(self, since: int) -> int:
        """Waits for what does not come."""
        return await self._never.changed(since)

    def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """There are no services."""
        return None

    async def register(self, instance: Instance, state: bytes = b"") -> int:
        """Raises: VST9113."""
        raise NO_INTENT_DIRECTORY.error("this server runs without an intent and takes no instances")

    def renew(self, agent_id: SpiffeId, leases: Sequence[Lease]) -> tuple[int, list[str]]:
        """Whoever registers again is told why."""
        return 0, [each.instance_id for each in leases]

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId) -> None:
        """There is nothing to forget."""

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId, within: float) -> int:
        """Nobody calls anybody."""
        return 0

    def instances(self) -> tuple[Instance, ...]:
        """There are none."""
        return ()

    def intent(self) -> wire.IntentStatus:
        """No intent."""
        return wire.IntentStatus()

    async def proxies(self) -> Sequence[wire.ProxyStatus]:
        """No proxies."""
        return ()

    def reports(self, limits: Limits) -> Sequence[Servable]:
        """Nothing is reported."""
        del limits
        return ()

    def warnings(self) -> Sequence[str]:
        """There is nothing to say."""
        return ()

    def intent_in_force(self) -> Intent | None:
        """There is none."""
        return None

    def fetched_keys(self) -> Mapping[str, str]:
        """There are none."""
        return {}

    def measured(self, metrics: Metrics) -> None:
        """There is nothing to count."""
        rollout_metrics(metrics)
        break_glass_metrics(metrics)
        unenforced_metrics(metrics)
        issuer_metrics(metrics)

    def background(self) -> Mapping[str, Background]:
        """There is nothing to do."""
        return {}


ELSEWHERE: Final = 1.0
"""Seconds in which callers that other servers of the database lead have left an instance that stops.

Who they are and what they have confirmed is known at those servers only, and which servers there are is kept nowhere:
there is nothing to wait for but the time in which the change feed tells them (well below a second), and some to spare.
"""

_log = logging.getLogger(__name__)


class IntentMesh:
    """The mesh that an intent describes; ``pages`` are what its source has served."""

    def __init__(
        self,
        source: Source,
        services: Services,
        default_ttl: timedelta,
        clock: Clock,
        pages: Sequence[Route] = (),
        environment: str | None = None,
        *,
        shared: bool = False,
        built_in: tuple[BuiltIn, ...] = (),
        issuers: Callable[[Intents], IssuerKeys],
        known_tokens: KnownTokens | None = None,
    ) -> None:
        """``shared``: other servers have the same database.  ``built_in`` are services of the server's own.

        ``issuers`` makes what follows the outside issuers of the intents in force.  ``known_tokens`` is what is known
        of the server's own token service, if it has one.
        """
        self._issuance = services.issuance
        self._entitlements = services.entitlements
        self._clock = clock
        self._source = source
        self.pages = pages
        self._store = services.store
        self._aborting: tuple[tuple[Intent, ...], frozenset[int]] = (), frozenset()
        self._lifetimes = SvidLifetimes(services.store, default_ttl)
        self._ledger = Ledger(heard=self._heard)
        self.rolling: Rolling = Rolling(
            self._source,
            services.store.intents,
            services.audit,
            clock,
            instances=self.instances,
            proxy=self._ledger.state,
            leads=lambda: services.store.leads,
            load=partial(load_files, environment=environment),
        )
        self.break_glass = BreakGlass(
            services.store,
            services.audit,
            clock,
            intents=self.rolling.in_force,
            entitled=services.entitlements.is_entitled,
            recorded=partial(_reported, services.audit_log.path),
        )
        self.issuers = issuers(self.rolling)
        self._discovery = MeshDiscovery(
            services.store.instances,
            WithBuiltIn(self.rolling, built_in),
            clock,
            self.break_glass,
            shared=shared,
            commit_of=self._commit_of,
        )
        self._unenforced = Unenforced()
        self._cut_off = CutOff(services.revocations, self._discovery)
        self._departures = Departures(self._ledger.state, self._discovery.instance)
        self.discovery: Discovery = Draining(self._discovery, self._departures, shared=shared)
        self._shared = shared
        self._publisher = Publisher(
            self.rolling,
            self._discovery,
            self._lifetimes,
            services.revocations,
            clock,
            self.break_glass,
            services.distrusting,
            _JwtKeys(services.authorities),
            built_in,
            self._commit_of,
            self.issuers,
            None if known_tokens is None else known_tokens.own,
        )
        self.known_tokens = known_tokens
        self.rolling.compares_with(self._publisher.compiled)
        ads = ServerAdsDoor(
            self._publisher, services.entitlements, self._discovery.instance, self._ledger, clock
        )
        # Administrators come to the port, operators to the socket.
        emergencies = BreakGlassDoor(self.break_glass)
        self.services: Sequence[Servable] = (*ads.servables(), emergencies.servable())
        rollout = RolloutDoor(self.rolling, self.rollout)
        self.operators: Sequence[Servable] = (
            rollout.servable(),
            IntentDoor(self.in_force).servable(),
            emergencies.servable(),
        )

    @property
    def status(self) -> MeshStatus:
        return self

    async def load(self) -> None:
        """Read everything once, before anybody asks."""
        await self._source.load()
        await self._discovery.load()
        await self._lifetimes.load()
        await self.break_glass.load()
        await self.break_glass.take_up()
        await self.rolling.load()
        self.issuers.load()

    def background(self) -> Mapping[str, Background]:
        """What goes on behind the doors."""
        return {
            "intent": self._source.run,
            "discovery": self._discovery.run,
            "svid-lifetimes": self._lifetimes.run,
            "publisher": self._publisher.run,
            "issuer-keys": self.issuers.run,
            **({"known-tokens": self.known_tokens.run} if self.known_tokens is not None else {}),
            "cut-off": self._cut_off.run,
            "break-glass": self.break_glass.run,
            "rollout": self.rolling.run,
            "rollout-elsewhere": self._follow_rollout,
            **({"instances-elsewhere": self._follow_instances} if self._shared else {}),
        }

    def _heard(self, proxy: ProxyKey, event: Event) -> None:
        if not isinstance(event, Settled):
            return  # Nobody here wants to know.
        self.rolling.heard(proxy, event)
        if event.type_url == ENDPOINTS:
            self._departures.heard(proxy, event)
        elif event.type_url == EXTENSION:
            self._unenforced.heard(proxy, event)

    def instances(self) -> tuple[Instance, ...]:
        """All instances that are registered."""
        return self._discovery.instances()

    def rollout(self) -> RolloutView:
        """How far the rollout is."""
        return view_of(self.rolling, self._clock.now())

    def reports(self, limits: Limits) -> Sequence[Servable]:
        """What proxies count."""
        door = TrafficReportsDoor(self._entitlements, self._discovery.instance, self._counted, limits)
        uses = BreakGlassReportsDoor(self.break_glass.used, limits)
        return (door.servable(), uses.servable())

    def intent_in_force(self) -> Intent | None:
        """None before the first."""
        return next(iter(self.rolling.in_force()), None)

    def warnings(self) -> Sequence[str]:
        """What an operator should know of the rollout, and of instances."""
        undeclared = [
            f"instance {each.id} runs in version {each.version}, which {each.service} does not list"
            for each in self._discovery.undeclared()
        ]
        emergencies = [f"{each.rule} is open: {sentence(each)}" for each in self.break_glass.holding()]
        others = (*self._unenforced.warnings(), *self.issuers.warnings(), *self.rollout().warnings)
        return [*emergencies, *others, *undeclared]

    def fetched_keys(self) -> Mapping[str, str]:
        """The keys of outside issuers, by the address that they come from."""
        return self.issuers.now

    def measured(self, metrics: Metrics) -> None:
        """How rollouts go."""
        rollout_metrics(metrics, self.rolling, self.rollout)
        break_glass_metrics(metrics, self.break_glass)
        unenforced_metrics(metrics, self._unenforced)
        issuer_metrics(metrics, self.issuers, lambda: urls(self.rolling.in_force()))

    def _counted(self, instance: Instance, traffic: ProxyTraffic) -> None:
        report = Report(
            instance_id=instance.id,
            service=instance.service,
            counts=(
                (Side.INBOUND, self._count(traffic.inbound)),
                (Side.OUTBOUND, self._count(traffic.outbound)),
            ),
        )
        self.rolling.take_report(ProxyKey(instance.spiffe_id, instance.id), report)

    def _count(self, requests: Requests) -> Count:
        intents = self.rolling.in_force()
        if requests.aborted and intents != self._aborting[0]:
            self._aborting = intents, injected.statuses(intents)
        failed = injected.failures(requests, self._aborting[1])
        return Count(requests.requests, requests.denied, failed)

    def _commit_of(self, version: str) -> str:
        return next((each.commit for each in self.rolling.history if each.version == version), "")

    async def _follow_rollout(self) -> None:
        """What other servers of the database decided holds here, too."""
        async for _ in self._store.changes.subscribe("rollout"):
            await self.rolling.follow()

    async def _follow_instances(self) -> None:
        """What other servers of the database were told of instances holds here, too."""
        async for _ in self._store.changes.subscribe("instances"):
            try:
                await self._discovery.follow()
            except VestibuleError as error:
                # The feed tells of everything again when the database is back.
                _log.warning("cannot follow the other servers: %s", error)

    async def in_force(self) -> InForce:
        """The files of the intent that most proxies are to have: the source's, or older ones after a rollback."""
        version = next((each.version for each in self.rolling.in_force()), "")
        reading = self._source.reading
        if not version:
            return InForce(place=self._source.place, files={})
        if reading.intent is not None and reading.intent.version == version:
            return InForce(version=version, place=self._source.place, files=reading.files)
        kept = await self._store.intents.latest(version)
        files = {} if kept is None else await asyncio.to_thread(unpack, kept.files)
        return InForce(version=version, place=self._source.place, files=files)

    def intent(self) -> wire.IntentStatus:
        """The intent in force, and what is wrong with the files as they are now."""
        reading, intents = self._source.reading, self.rolling.in_force()
        return wire.IntentStatus(
            version=intents[0].version if intents else "",
            directory=self._source.place,
            loaded_at=unix(reading.loaded_at),
            problems=[
                wire.Problem(
                    code=each.code.code,
                    message=each.message,
                    advice=each.advice,
                    where=str(each.where),
                    severity=each.severity.value,
                )
                for each in reading.problems
            ],
            services=sorted(intents[0].services) if intents else (),
            commit=None if reading.commit is None else _commit(reading.commit),
            head=reading.head or "",
        )

    async def proxies(self) -> Sequence[wire.ProxyStatus]:
        """Every registered instance's proxy."""
        return [self._proxy(instance) for instance in self._discovery.instances()]

    def _proxy(self, instance: Instance) -> wire.ProxyStatus:
        state = self._ledger.state(ProxyKey(instance.spiffe_id, instance.id))
        expiry = self._issuance.newest_expiry(instance.agent_id, instance.spiffe_id)
        return wire.ProxyStatus(
            service=instance.service,
            spiffe_id=str(instance.spiffe_id),
            instance_id=instance.id,
            agent_id=str(instance.agent_id),
            connected=state is not None and state.connected,
            version=instance.version,
            boundary=instance.boundary.value,
            locality=instance.locality,
            health=instance.health.value,
            ingress={name: str(address) for name, address in instance.ingress.items()},
            types=[_type_sync(row) for row in state.rows] if state is not None else (),
            svid_expires_at=unix(expiry),
        )


class Draining:
    """Discovery, whose callers' departure is waited for."""

    def __init__(
        self,
        discovery: MeshDiscovery,
        departures: Departures,
        *,
        shared: bool,
        elsewhere: float = ELSEWHERE,
    ) -> None:
        """``shared``: other servers have the same database; callers that they lead get ``elsewhere`` seconds."""
        self._shared = shared
        self._elsewhere = elsewhere
        self._discovery = discovery
        self._departures = departures
        self.changed = discovery.changed
        self.describe = discovery.describe
        self.register = discovery.register
        self.renew = discovery.renew
        self.deregister = discovery.deregister

    @property
    def revision(self) -> int:
        """Changes when ``describe`` may answer differently."""
        return self._discovery.revision

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId, within: float) -> int:
        """Its callers leave an instance; how many have not so many seconds later."""
        instance = await self._discovery.drain(instance_id, spiffe_id, agent_id)
        if instance is None:
            return 0
        if not self._shared:
            return await self._departures.left(instance, within)
        # Callers that other servers lead do not say here that they have left: they are given time to.
        behind, _ = await asyncio.gather(
            self._departures.left(instance, within), asyncio.sleep(min(within, self._elsewhere))
        )
        return behind


def _commit(commit: CommitInfo) -> wire.IntentCommit:
    return wire.IntentCommit(
        id=commit.id,
        author=commit.author,
        subject=commit.subject,
        signed_by=commit.signed_by or "",
        committed_at=unix(commit.committed_at),
    )


def _type_sync(row: Row) -> wire.TypeSync:
    return wire.TypeSync(
        type_url=row.type_url,
        status=row.status.name,
        version_sent=row.sent,
        version_acked=row.accepted,
        error=row.error or "",
        updated_at=unix(row.updated_at),
    )


@asynccontextmanager
async def mesh_of(settings: ServerSettings, services: Services, clock: Clock) -> AsyncIterator[Mesh]:
    """The mesh that the settings ask for, with everything read that there is."""
    source, webhook = source_of(settings, clock)
    if source is None:
        yield IdentityOnly()
        return
    pages = () if webhook is None else (webhook.route,)
    ttl, environment = settings.default_x509_svid_ttl, settings.environment
    shared = settings.database is not None
    built_in = platform_services(settings)
    issuers = partial(issuer_keys, settings, services, clock)
    mesh = IntentMesh(
        source,
        services,
        ttl,
        clock,
        pages,
        environment,
        shared=shared,
        built_in=built_in,
        issuers=issuers,
        known_tokens=_known_tokens(settings),
    )
    await mesh.load()
    yield mesh


def _known_tokens(settings: ServerSettings) -> KnownTokens | None:
    said = settings.token_service
    return None if said is None else KnownTokens(said.issuer, settings.data_dir / FILE)


_LATEST: Final = 4 * 2**20
"""Bytes of the audit log: reports that were not answered come again within seconds."""


def _reported(log: Path) -> Iterator[tuple[str, str]]:
    """Agents and the names of their reports of uses of break-glass that are on record."""
    for record in latest(log, RecordFilter(action="break-glass.use"), _LATEST):
        yield record["details"]["agent"], record["details"]["batch"]


class _JwtKeys:
    """The keys of the trust domain's JWT-SVIDs, as proxies are told them; they follow the rotation of authorities."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities
        self._of: TrustBundle | None = None
        self._written = ""

    @property
    def now(self) -> str:
        """As a JWK set; empty where there are none."""
        bundle = self._authorities.bundle()
        if bundle is not self._of:
            self._of = bundle
            self._written = json.dumps(to_oidc_jwks(bundle)) if bundle.jwt_authorities else ""
        return self._written

    @property
    def revision(self) -> int:
        """Counts the changes."""
        return self._authorities.revision

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._authorities.changed(since)
