"""``vestibule server``: settings in, services and doors up, drained and closed at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule import __version__
from vestibule.app.server_ceremony import FirstIntermediate, StoppedWaiting, ceremony_metrics
from vestibule.app.server_federation import Endpoint, federation_metrics
from vestibule.app.server_mesh import Background, Mesh, mesh_of
from vestibule.app.server_metrics import limit_metrics, server_metrics
from vestibule.app.server_platform import Platform, platform_of
from vestibule.app.server_services import Services, opened
from vestibule.app.server_settings import ServerSettings
from vestibule.app.settled import settle
from vestibule.app.socket_directories import socket_directory
from vestibule.audit import AuditEvent
from vestibule.clock import Clock, SystemClock, steps
from vestibule.doors.access import Access
from vestibule.doors.admin_api import ServerAdminDoor
from vestibule.doors.administrators_api import AdministratorsDoor
from vestibule.doors.ceremony_api import CeremonyDoor
from vestibule.doors.certificate_files import CertificateFiles
from vestibule.doors.crl_http import crl_route
from vestibule.doors.debug_api import ServerDebugDoor
from vestibule.doors.entries_api import EntriesDoor
from vestibule.doors.federation_admin import FederationAdminDoor
from vestibule.doors.grpc_health import HealthDoor
from vestibule.doors.health import Check, HealthServer, health_app
from vestibule.doors.identity_api import identity_services
from vestibule.doors.limits import Limits
from vestibule.doors.logger_api import LoggerDoor
from vestibule.doors.node_api import NodeDoor
from vestibule.doors.oidc_http import oidc_app
from vestibule.doors.presence import PresenceDoor
from vestibule.doors.revocation_admin import RevocationAdminDoor
from vestibule.doors.revocation_feed import RevocationFeedDoor
from vestibule.doors.secrets_peers import SecretsPeersDoor
from vestibule.doors.server_why import ServerWhyDoor
from vestibule.doors.templates_api import TemplatesDoor
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import first
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.names import server_id
from vestibule.identity.revocation_impact import Drill
from vestibule.identity.why import Why
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.listen import listen_tcp
from vestibule.net.tls import ServerTls
from vestibule.net.unix import PRIVATE, UnixListener, listen_unix
from vestibule.pki.chains import is_signed_by
from vestibule.pki.revocation import revoked, unrevoked
from vestibule.processes import Shutdown
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.telemetry.levels import LogControl, LogLevel
from vestibule.telemetry.metrics import Metrics

READY: Final = "vestibule server ready:"
RESTART_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where a server that has opened its doors can be found.

    ``health``, ``oidc`` and ``bundle_endpoint`` are empty if there are no such pages.
    """

    trust_domain: TrustDomain
    grpc: str
    socket: Path
    health: str
    seconds: float
    oidc: str = ""
    bundle_endpoint: str = ""

    def __str__(self) -> str:
        oidc = f"oidc={self.oidc} " if self.oidc else ""
        endpoint = f"bundle_endpoint={self.bundle_endpoint} " if self.bundle_endpoint else ""
        return (
            f"{READY} trust_domain={self.trust_domain} grpc={self.grpc} socket={self.socket} "
            f"health={self.health or 'off'} {oidc}{endpoint}seconds={self.seconds:.2f}"
        )

    @property
    def document(self) -> dict[str, Any]:
        """The same as the envelope carries it."""
        return {
            "trust_domain": str(self.trust_domain),
            "grpc": self.grpc,
            "socket": str(self.socket),
            "health": self.health or None,
            "seconds": round(self.seconds, 3),
        }


def print_ready(ready: Ready) -> None:
    """The one line on standard output."""
    print(ready, flush=True)  # noqa: T201 - the ready line is the program's output


async def run_server(
    settings: ServerSettings,
    *,
    on_ready: Callable[[Ready], None] = print_ready,
    shutdown: Shutdown | None = None,
    clock: Clock | None = None,
) -> None:
    """Run until a signal (or ``shutdown``) ends it: the first drains, the second stops at once.

    Raises: VST2310, VST2311, VST2320, VST2321 (places to listen), and what ``opened`` raises.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        shutdown = shutdown or stack.enter_context(Shutdown())
        places = stack.enter_context(_places(settings))
        clock = clock or SystemClock()
        waiting = FirstIntermediate(places.local.sock, places.health, shutdown)
        with suppress(StoppedWaiting):
            async with (
                aclosing(waiting),
                opened(settings, clock, waiting.wait) as services,
                mesh_of(settings, services, clock) as mesh,
                platform_of(settings, services, mesh, clock) as platform,
            ):
                server = _Server(settings, services, mesh, platform, places, clock)
                await server.run(shutdown, lambda: on_ready(server.ready(time.monotonic() - began)))


@dataclass(frozen=True, slots=True)
class _Places:
    """The listening sockets: bound first, so that a taken port is known before anything is changed."""

    tcp: socket.socket
    health: socket.socket | None
    oidc: socket.socket | None
    bundle_endpoint: socket.socket | None
    local: UnixListener


@contextmanager
def _places(settings: ServerSettings) -> Iterator[_Places]:
    with ExitStack() as stack:
        tcp = stack.enter_context(listen_tcp(settings.bind_address, settings.bind_port))
        port = settings.health_port
        health = None if port is None else stack.enter_context(listen_tcp(settings.health_address, port))
        port = settings.oidc_port
        oidc = None if port is None else stack.enter_context(listen_tcp(settings.oidc_address, port))
        port = settings.federation_bundle_endpoint_port
        address = settings.federation_bundle_endpoint_address
        endpoint = None if port is None else stack.enter_context(listen_tcp(address, port))
        socket_directory(settings.socket_path.parent)
        local = listen_unix(settings.socket_path, PRIVATE)
        stack.callback(local.close)
        yield _Places(tcp, health, oidc, endpoint, local)


class _Server:
    """The doors of one server and what runs behind them."""

    def __init__(
        self,
        settings: ServerSettings,
        services: Services,
        mesh: Mesh,
        platform: Platform,
        places: _Places,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._services = services
        self._mesh = mesh
        self._platform = platform
        self._places = places
        self._clock = clock
        self._metrics = _metrics(services)
        server_metrics(self._metrics, services, clock)
        mesh.measured(self._metrics)
        platform.measured(self._metrics)
        self._oidc_tls = _oidc_tls(settings)
        self._endpoint = Endpoint.of(settings, services)
        self._tls = ServerTls(services.identity.svid, services.authorities.bundle())
        limits = Limits(
            limit_metrics(self._metrics),
            attestation=settings.ratelimit_attestation,
            signing=settings.ratelimit_signing,
        )
        access = Access(
            services.nodes,
            self._bundle_of,
            clock,
            self._metrics,
            services.entitlements.powers,
            services.administration.scope_of,
            lambda: services.revocations.now,
            limits,
            self._issued_here,
            server=server_id(settings.trust_domain),
        )
        identity = identity_services(
            services.authorities,
            services.entitlements,
            services.registration,
            services.nodes,
            services.issuance,
            services.jwt_issuance,
            services.wit_issuance,
            services.downstream,
            services.bundles,
            services.relationships,
            services.federation,
            limits,
        )
        node = NodeDoor(services.authorities, services.entitlements, services.bundles, mesh.discovery)
        federation = FederationAdminDoor(services.relationships, services.federation, services.bundles)
        admin = ServerAdminDoor(
            services.authorities,
            services.nodes,
            mesh.status,
            version=__version__,
            trust_domain=settings.trust_domain,
            started_at=clock.now(),
            connected=node.is_connected,
            warnings=self._warnings,
        )
        self._metrics.gauge("agents_connected", "Agents that watch for changes now.", node.connected)
        self._metrics.gauges(
            "instances",
            "Instances that are registered, by what is known of their apps.",
            "health",
            lambda: Counter(each.health.value for each in mesh.instances()),
        )
        drill = Drill(
            services.store,
            services.issued,
            services.signers,
            clock,
            entitled=services.entitlements.is_entitled,
            connected=node.is_connected,
        )
        revoke = RevocationAdminDoor(services.revoking, drill, services.crls)
        feed = RevocationFeedDoor(services.revocations)
        self._metrics.gauge("revocations", "Revocations on the list.", lambda: len(services.revocations.now))
        debug = ServerDebugDoor(
            store=services.store,
            chain=lambda: services.identity.svid.chain,
            bundle=services.authorities.bundle,
            bundles=services.bundles.count,
            clock=clock,
        )
        logger = LoggerDoor(LogControl(), self._record_log_level)
        # On both sides, as in SPIRE: who may not have them is refused, and not told that they do not exist.
        both = [
            *identity,
            *self._operators_services(node),
            debug.servable(),
            logger.for_server(),
            HealthDoor(self._problem).servable(),
        ]
        presence = PresenceDoor(services.returning, clock, settings.trust_domain, limits)
        templates = TemplatesDoor(services.templating, services.entitlements, limits)
        remote = [
            *both,
            node.servable(),
            templates.servable(),
            presence.servable(),
            feed.servable(),
            SecretsPeersDoor(platform.answers).servable(),
            *mesh.services,
            *mesh.reports(limits),
        ]
        self._remote = GrpcServer([access.guard(each) for each in remote])
        upstream = services.upstream
        self._ceremony = upstream if isinstance(upstream, CeremonyUpstream) else None
        ceremony = CeremonyDoor(self._ceremony)
        own = (admin, revoke, federation, ceremony)
        local = (*both, *(each.servable() for each in own), *mesh.operators, *platform.operators)
        self._local = GrpcServer([access.guard(each) for each in local])

    def _why_revoked(self, spiffe_id: SpiffeId) -> str:
        found = self._services.revocations.now.issuing(spiffe_id, self._clock.now())
        return "" if found is None else str(found)

    def _operators_services(self, node: NodeDoor) -> Iterator[Servable]:
        """What SPIRE's own APIs have no words for, for operators on either side."""
        services = self._services
        yield EntriesDoor(services.registration, services.entitlements, self._clock).servable()
        yield AdministratorsDoor(services.administration).servable()
        why = Why(
            services.store,
            services.entitlements,
            services.issuance,
            services.authorities,
            self._clock,
            connected=node.is_connected,
            revoked=self._why_revoked,
        )
        yield ServerWhyDoor(why, self._settings.trust_domain).servable()

    def ready(self, seconds: float) -> Ready:
        """Where everything is."""
        health, oidc, endpoint = self._places.health, self._places.oidc, self._places.bundle_endpoint
        return Ready(
            trust_domain=self._settings.trust_domain,
            grpc=_address(self._places.tcp),
            socket=self._settings.socket_path,
            health="" if health is None else _address(health),
            seconds=seconds,
            oidc="" if oidc is None else _address(oidc),
            bundle_endpoint="" if endpoint is None else _address(endpoint),
        )

    async def run(self, shutdown: Shutdown, on_ready: Callable[[], None]) -> None:
        """Open the doors, wait for the end, close the doors, then stop what runs behind them."""
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(_enduring(name, work), name=name) for name, work in self._background()
                ]
                try:
                    await self._local.listen(self._places.local.sock)
                    await self._remote.listen(self._places.tcp, tls=self._tls.context)
                    on_ready()
                    settle()
                    await shutdown.drain.wait()
                    _log.info("draining")
                    await first(self._drain(), shutdown.at_once.wait())
                finally:
                    await asyncio.gather(self._remote.close(), self._local.close())
                    for task in background:
                        task.cancel()
        except BaseExceptionGroup as failures:
            raise _cause(failures) from failures

    def _background(self) -> Iterator[tuple[str, Background]]:
        services = self._services
        yield "store", services.store.run
        yield "deferred-records", services.audit.run
        yield from services.following.background()
        yield "clock", self._watch_clock
        yield "entitlements", services.entitlements.run
        yield "authorities", services.authorities.run
        if self._ceremony is not None:
            yield "ceremony", self._ceremony.run
        yield "registration", services.registration.run
        yield "administration", services.administration.run
        yield "nodes", services.nodes.run
        yield "server-identity", services.identity.run
        yield "revocations", services.revocations.run
        if services.inherited is not None:
            yield "inherited-revocations", services.inherited.run
        yield "own-revocation", self._replace_own_when_revoked
        yield "crls", services.crls.run
        yield "distrusting", services.distrusting.run
        yield "tls", self._keep_tls_current
        yield "federated-bundles", services.bundles.run
        yield "federation", services.federation.run
        yield from self._mesh.background().items()
        yield from self._platform.background()
        if self._places.health is not None:
            pages = health_app(
                self._checks(), self._metrics, [crl_route(services.crls.get), *self._mesh.pages]
            )
            yield "health", HealthServer(pages, self._places.health).run
        if self._places.oidc is not None:
            pages = oidc_app(
                self._settings.jwt_issuer, services.authorities.bundle, [crl_route(services.crls.get)]
            )
            tls = self._oidc_tls
            yield "oidc", HealthServer(pages, self._places.oidc, tls.context if tls else None).run
            if tls is not None:
                yield "oidc-tls", tls.run
        if self._places.bundle_endpoint is not None and self._endpoint is not None:
            yield from self._endpoint.background(self._places.bundle_endpoint)

    async def _watch_clock(self) -> None:
        """Whoever looks for the cause of failing handshakes finds it here, too."""
        async for step in steps(self._clock):
            _log.warning(
                "this machine's clock was set %+.0f s: where it is wrong, agents and server refuse each other",
                step.total_seconds(),
            )

    async def _drain(self) -> None:
        grace = self._settings.drain.total_seconds()
        await asyncio.gather(self._platform.drain(), self._remote.drain(grace), self._local.drain(grace))

    async def _keep_tls_current(self) -> None:
        """New certificate or bundle: new handshakes use it."""
        authorities, identity = self._services.authorities, self._services.identity
        while True:
            seen = authorities.revision, identity.revision
            self._tls.update(identity.svid, authorities.bundle())
            await first(authorities.changed(seen[0]), identity.changed(seen[1]))

    async def _replace_own_when_revoked(self) -> None:
        """Agents refuse a server whose SVID is revoked: it gets another one at once."""
        revocations, identity = self._services.revocations, self._services.identity
        while True:
            seen = revocations.revision
            if revoked(revocations.now, identity.svid.chain, self._clock.now()) is not None:
                await identity.renew()
            await revocations.changed(seen)

    def _bundle_of(self, trust_domain: TrustDomain) -> TrustBundle | None:
        own = self._services.authorities.bundle()
        if own.trust_domain != trust_domain:
            return None
        return unrevoked(own, self._services.revocations.now, self._clock.now())

    def _issued_here(self, leaf: bytes) -> bool:
        authorities = self._services.authorities
        chains = (der for each in authorities.all() for der in each.chain)
        return is_signed_by(leaf, tuple(dict.fromkeys((*chains, *authorities.bundle().x509_authorities))))

    async def _record_log_level(self, action: str, level: LogLevel) -> None:
        event = AuditEvent(
            actor=str(current_caller()),
            action=action,
            subject="server",
            details={"level": level.name.lower()},
        )
        await self._services.audit.record([event])

    async def _problem(self) -> str | None:
        """The first of the checks that is not content, for probes that speak gRPC."""
        for name, check in self._checks().items():
            if (problem := await check()) is not None:
                return f"{name}: {problem}"
        return None

    def _warnings(self) -> list[str]:
        own = (self._ceremony_warning(), self._upstream_warning())
        return [*(each for each in own if each), *self._mesh.warnings(), *self._platform.warnings()]

    def _ceremony_warning(self) -> str:
        return "" if self._ceremony is None else self._ceremony.warning()

    def _upstream_warning(self) -> str:
        problem = self._services.authorities.upstream_problem
        return f"the upstream is not followed: {problem}" if problem else ""

    def _checks(self) -> dict[str, Check]:
        services = self._services

        async def store() -> str | None:
            await services.store.authorities.all()
            return None

        async def signing() -> str | None:
            expired = services.authorities.active.not_after <= self._clock.now()
            return "the active authority has expired" if expired else services.authorities.problem

        return {"store": store, "signing": signing, **self._platform.checks()}


async def _enduring(name: str, work: Background) -> None:
    """Background work outlives foreseen failures, such as a full disk; bugs end the server, visibly."""
    while True:
        try:
            return await work()
        except (VestibuleError, OSError) as error:
            # An OSError, too, is the world's doing: a lack of descriptors, say.
            _log.error("%s has to begin anew: %s", name, error)
            await asyncio.sleep(RESTART_SECONDS)


def _oidc_tls(settings: ServerSettings) -> CertificateFiles | None:
    if settings.oidc_port is None or settings.oidc_tls_cert is None or settings.oidc_tls_key is None:
        return None
    return CertificateFiles(settings.oidc_tls_cert, settings.oidc_tls_key)


def _metrics(services: Services) -> Metrics:
    metrics = Metrics("server", __version__)
    authorities = services.authorities
    metrics.gauge(
        "authority_expires_timestamp_seconds",
        "When the active signing authority ends.",
        lambda: authorities.active.not_after.timestamp(),
    )
    if isinstance(services.upstream, CeremonyUpstream):
        ceremony_metrics(metrics, services.upstream)
    metrics.gauge("bundle_sequence", "Of the trust bundle.", lambda: authorities.bundle().sequence)
    federation_metrics(metrics, services)
    metrics.gauge("entries_revision", "Changes of entries seen.", lambda: services.entitlements.revision)
    return metrics


def _cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first foreseen error among several, to be shown as such; else all of them."""
    foreseen = failures.subgroup(VestibuleError)
    while foreseen is not None and isinstance(foreseen, BaseExceptionGroup):
        inner = foreseen.exceptions[0]
        if not isinstance(inner, BaseExceptionGroup):
            return inner
        foreseen = inner
    return failures


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
