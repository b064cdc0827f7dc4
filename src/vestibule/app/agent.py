"""The agent put together: ports filled, doors mounted, one TaskGroup; and taken apart in the right order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from vestibule import __version__
from vestibule.agent.bootstrap import FirstTrust, JoinTokenFile
from vestibule.agent.cache import SvidCache
from vestibule.agent.changed import Changed
from vestibule.agent.codes import AGENT_IS_BANNED, ALREADY_RUNNING
from vestibule.agent.deciding import Deciding
from vestibule.agent.delegation import Delegation
from vestibule.agent.jwt_svids import JwtSvids
from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.agent.rebootstrap import REBOOTSTRAP_DELAY, Rebootstrap
from vestibule.agent.relay import Relay
from vestibule.agent.revocation_file import RevocationFile
from vestibule.agent.revocations import AgentRevocations
from vestibule.agent.sidecars import Checks, Grants, Sidecars, ViewCache
from vestibule.agent.skew import ServerTime, SkewWatch
from vestibule.agent.strangers import Strangers
from vestibule.agent.sync import Sync
from vestibule.agent.templates import Template, Templates
from vestibule.agent.traffic_reports import TrafficReporting
from vestibule.agent.vault import Vault
from vestibule.agent.why import Why
from vestibule.agent.wit_svids import WitSvids
from vestibule.agent.workloads import Workloads
from vestibule.app.agent_attestors import DEFAULT as DEFAULT_ATTESTORS
from vestibule.app.agent_attestors import JOIN_TOKEN, proof_source, workload_attestors
from vestibule.app.agent_decisions import Decisions
from vestibule.app.attestor_choices import Choice
from vestibule.app.codes import INVALID_SETTING
from vestibule.app.settled import settle
from vestibule.app.socket_directories import socket_directory
from vestibule.attest.workload.supervised import Vouched, is_descendant
from vestibule.calls import break_glass
from vestibule.calls.ads import AdsCalls
from vestibule.calls.app_checks import ask
from vestibule.calls.break_glass import BreakGlassReports
from vestibule.calls.channel import ServerChannel, UnverifiedChannel
from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.mesh_api import NODE, MeshApi
from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.templates_api import TemplatesApi
from vestibule.calls.traffic_reports import REPORTS, TrafficReports
from vestibule.clock import Clock, SystemClock
from vestibule.doors.access_entries import Reporter
from vestibule.doors.ads import AgentAdsDoor
from vestibule.doors.agent_admin import AgentAdminDoor
from vestibule.doors.agent_why import AgentWhyDoor
from vestibule.doors.als import AccessLogDoor
from vestibule.doors.checks import Answering
from vestibule.doors.debug_api import AgentDebugDoor
from vestibule.doors.delegated_identity import DelegatedIdentityDoor
from vestibule.doors.ext_authz import MAX_MESSAGE, METHOD, Attested, AuthorizationDoor
from vestibule.doors.grpc_health import HealthDoor
from vestibule.doors.logger_api import LoggerDoor
from vestibule.doors.reflection import reflection
from vestibule.doors.revocation_feed import RevocationFeedDoor
from vestibule.doors.sds import SdsDoor
from vestibule.doors.sds_secrets import SdsSettings
from vestibule.doors.sidecar_api import SidecarDoor
from vestibule.doors.supervisor_api import SupervisorDoor
from vestibule.doors.wit_api import WitWorkloadDoor
from vestibule.doors.workload_api import WorkloadDoor
from vestibule.errors import VestibuleError
from vestibule.keys.kek import kek_home, load_or_create_kek
from vestibule.keys.sealing import Sealer
from vestibule.net.codes import PEER_GONE, SOCKET_PATH
from vestibule.net.grpc import Client, Servable, Stream
from vestibule.net.grpc_server import Connection, Fast, GrpcServer
from vestibule.net.listen import listen_tcp
from vestibule.net.peer import Peer, ProcessHandle, peer_of
from vestibule.net.unary_http2 import Answer
from vestibule.net.unix import PRIVATE, PUBLIC, UnixListener, check_path, listen_unix
from vestibule.observe.access_log import AccessLog
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.denials import Denials
from vestibule.observe.emergency_uses import EmergencyUses, UsesFile
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.processes.directories import private_directory
from vestibule.processes.signals import Shutdown
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.telemetry.levels import LogControl
from vestibule.xds.ledger import Ledger
from vestibule.xds.resources import ProxyKey, Snapshot

DRAIN_SECONDS: Final = 3.0
_WORD: Final = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"  # regions as the intent names them
_LOCALITY: Final = rf"{_WORD}(/{_WORD})?"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Everything an agent is told at its start.

    ``supervisor_fd`` is an inherited end of a connected socket pair, whose other end may grant supervisor keys.
    ``locality`` is where this node is, ``region`` or ``region/zone``.
    ``authorized_delegates`` may ask for others' identities, on ``delegation_socket_path``; there is neither or both.
    """

    trust_domain: TrustDomain
    server: Address
    data_dir: Path
    socket_path: Path
    admin_socket_path: Path
    first_trust: FirstTrust = field(default_factory=FirstTrust)
    rebootstrap: Rebootstrap = Rebootstrap.AUTO
    rebootstrap_delay: timedelta = REBOOTSTRAP_DELAY
    join_token_file: Path | None = None
    kek_file: Path | None = None
    supervisor_fd: int | None = None
    health: Address | None = None
    workload_attestors: tuple[Choice, ...] = DEFAULT_ATTESTORS
    node_attestor: Choice = JOIN_TOKEN
    delegation_socket_path: Path | None = None
    authorized_delegates: tuple[SpiffeId, ...] = ()
    sds: SdsSettings = field(default_factory=SdsSettings)
    experimental_wit_svids: bool = False
    locality: str = ""
    decision_log: DecisionLogSettings = field(default_factory=DecisionLogSettings)

    def __post_init__(self) -> None:
        if (self.delegation_socket_path is None) != (not self.authorized_delegates):
            raise INVALID_SETTING.error("a delegation socket and authorized delegates belong together")
        if self.locality and not re.fullmatch(_LOCALITY, self.locality):
            raise INVALID_SETTING.error(f"{self.locality[:80]!r} is not a locality, REGION or REGION/ZONE")
        for delegate in self.authorized_delegates:
            if delegate.trust_domain != self.trust_domain or not delegate.path:
                raise INVALID_SETTING.error(f"{delegate} is no identity of a workload of this trust domain")

    @property
    def socket_paths(self) -> tuple[Path, ...]:
        """Where this agent listens."""
        delegation = self.delegation_socket_path
        return (self.admin_socket_path, self.socket_path, *([delegation] if delegation else ()))

    @property
    def kek(self) -> Path:
        """The file that holds the key-encryption key."""
        return self.kek_file or self.data_dir / "kek"


async def run_agent(
    settings: AgentSettings,
    *,
    on_ready: Callable[[SpiffeId], None],
    shutdown: Shutdown,
    clock: Clock | None = None,
) -> None:
    """Run until told to stop.  ``on_ready`` hears once, when the agent serves and knows who it is.

    Raises: VST2310 and VST2311 (sockets), VST7003, VST2107, VST2108, VST1104 (data directory), VST2100 (banned), and at
    the first start whatever makes joining impossible.
    """
    # Found out before anything is created or the join token is spent.
    for path in settings.socket_paths:
        check_path(path)
    _prepare(settings)
    with ExitStack() as held:
        held.enter_context(_only_one(settings.data_dir))
        agent = Agent(settings, clock or SystemClock())
        try:
            await agent.run(on_ready, shutdown)
        except* VestibuleError as group:
            failure = _first(group)
            if failure.code is AGENT_IS_BANNED:
                agent.forget_everything()
            raise failure from None


class Agent:
    """All parts of one agent, connected."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        sealer = Sealer(load_or_create_kek(settings.kek))
        # What it holds
        self.cache = SvidCache()
        self.vault = Vault(settings.data_dir / "holdings.sealed", sealer, settings.trust_domain)
        # The way to the server
        self.channel = ServerChannel(
            settings.server,
            bundle=self._bundle,
            svid=lambda: self.sync.credential,
            clock=clock,
            revocations=lambda: self.cache.revocations,
        )
        tokens = JoinTokenFile(settings.join_token_file, settings.trust_domain)
        proofs = proof_source(settings.node_attestor, tokens.proof)
        identity_api = IdentityApi(self.channel, settings.trust_domain)
        self.sync = Sync(
            trust_domain=settings.trust_domain,
            cache=self.cache,
            vault=self.vault,
            upstream=identity_api,
            fetch_unverified=self._fetch_unverified,
            skew=SkewWatch(clock, partial(identity_api.time, clock), self._ask_anybody_the_time),
            first_trust=settings.first_trust,
            proof=proofs.make,
            clock=clock,
            rebootstrap=settings.rebootstrap,
            rebootstrap_delay=settings.rebootstrap_delay,
            reattests=proofs.reattests,
            renewed=self.channel.renew,
        )
        self.revocations = AgentRevocations(
            cache=self.cache,
            file=RevocationFile(settings.data_dir / "revocations.sealed", sealer, settings.trust_domain),
            upstream=RevocationFeed(self.channel),
            until_joined=self.sync.until_joined,
            clock=clock,
            news=self.sync.revocations_changed,
        )
        self.jwt_svids = JwtSvids(self.cache, identity_api, clock, self.sync.refresh_bundle)
        self.wit_svids = WitSvids(self.cache, identity_api, clock, self.sync.refresh_bundle)
        # Who calls
        self.vouched = Vouched(ProcessHandle)
        vouched_changed = Changed()
        self.vouched.on_change(vouched_changed.notify)
        attestors = workload_attestors(settings.workload_attestors, self.vouched)
        self.templates = Templates(TemplatesApi(self.channel, Template), clock, self.cache.changed)
        self.sync.on_news(self.templates.refresh)
        self.workloads = Workloads(self.cache, attestors, vouched_changed, clock, self.templates)
        self.why = Why(
            self.cache,
            attestors,
            self.templates,
            clock,
            open_process=ProcessHandle,
            refused_until=self.sync.refused_until,
        )
        # Sidecars and their Envoys
        self.grants = Grants()
        self.views = ViewCache(settings.data_dir / "views.json")
        self.emergency_uses = EmergencyUses(
            UsesFile(settings.data_dir / "break-glass.sealed", sealer, settings.trust_domain),
            BreakGlassReports(Client(self.channel, break_glass.REPORTS)),
        )
        self.sidecars = Sidecars(
            upstream=MeshApi(Client(self.channel, NODE)),
            identities=self.workloads.ids,
            vouched=self.vouched,
            is_descendant=partial(is_descendant, ProcessHandle),
            views=self.views,
            checks=Checks(ask, enters_networks=os.geteuid() == 0),
            locality=settings.locality,
            uses=self.emergency_uses,
        )
        self.traffic = TrafficReporting(self.sidecars, TrafficReports(Client(self.channel, REPORTS)))
        self.sync.on_news(self.sidecars.wake)
        self.proxies = settings.data_dir / "proxies"
        self.relay = Relay(AdsCalls(self.channel), KeptSnapshots(self.proxies, sealer))
        self.deciding = Deciding(self.relay.holdings, settings.trust_domain, self.relay.expect)
        self.relay.prepare = self.deciding.prepare
        self.relay.revise = self._overlaid
        self.ledger = Ledger()
        self.strangers = Strangers(clock)
        self.access_log = AccessLog(settings.data_dir / "access.jsonl")
        self.denials = Denials()
        self.decisions = Decisions(settings.decision_log, settings.data_dir, self.views.commit_of)
        self.started_at = clock.now()

    # ---------------------------------------------------------------------------------- running

    async def run(self, on_ready: Callable[[SpiffeId], None], shutdown: Shutdown) -> None:
        """Serve until ``shutdown`` asks for the end."""
        self._load()
        public = GrpcServer(self.public_services(), fast=self.fast())
        private = GrpcServer(self.private_services())
        delegated = GrpcServer(self.delegated_services())
        supervisor = GrpcServer([SupervisorDoor(self.grants).servable()])
        listeners: list[UnixListener] = []
        health: socket.socket | None = None
        try:
            # Known to be ours before the join token is spent; callers who come now wait a moment.
            listeners.append(listen_unix(self.settings.admin_socket_path, PRIVATE))
            listeners.append(listen_unix(self.settings.socket_path, PUBLIC))
            if self.settings.delegation_socket_path is not None:
                listeners.append(listen_unix(self.settings.delegation_socket_path, PUBLIC))
            if self.settings.health is not None:
                health = listen_tcp(self.settings.health.host, self.settings.health.port)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self.access_log.run(), name="access-log"),
                    tasks.create_task(self.emergency_uses.run(), name="break-glass-uses"),
                    *(tasks.create_task(work(), name=name) for name, work in self.decisions.work()),
                    tasks.create_task(self.relay.run(), name="relay"),
                    tasks.create_task(self.sync.run(), name="sync"),
                    tasks.create_task(self.revocations.run(), name="revocations"),
                    tasks.create_task(self._wake_sidecars(), name="wake-sidecars"),
                    tasks.create_task(self.sidecars.leases.run(), name="leases"),
                    tasks.create_task(self.templates.run(), name="templates"),
                    tasks.create_task(self.traffic.run(), name="traffic-reports"),
                ]
                # Doors open last and close first.
                if self.settings.supervisor_fd is not None:
                    await supervisor.adopt(_inherited(self.settings.supervisor_fd))
                await private.listen(listeners[0].sock)
                await public.listen(listeners[1].sock)
                for listener in listeners[2:]:
                    await delegated.listen(listener.sock)
                if health is not None:
                    # Imported only where it is asked for: an HTTP server is a quarter of the agent's start.
                    from vestibule.app.agent_health import serve_health

                    running.append(tasks.create_task(serve_health(self, health), name="health"))
                ready = tasks.create_task(self._report_ready(on_ready), name="ready")
                await self._until(shutdown)
                _log.info("stopping")
                self.sidecars.stop()
                await self._close(public, (delegated, supervisor), shutdown)
                for task in (*running, ready):
                    task.cancel()
        finally:
            for server in (public, private, delegated, supervisor):
                await server.close()
            for listener in listeners:
                listener.close()
            if health is not None:
                health.close()
            self.channel.close()

    def public_services(self) -> list[Servable]:
        """What is served on the public socket, which every process of the node can open."""
        services = [
            self._workload_door().servable(),
            RevocationFeedDoor(self.revocations, self._has_identity).servable(),
            SdsDoor(self.workloads, self.settings.sds, self.sidecars_identity).servable(),
            *AgentAdsDoor(self.proxy_of, self.relay, self.ledger, self.clock, self.client_of).servables(),
            SidecarDoor(self.sidecars, self.grants, self.workloads.attest).servable(),
            AccessLogDoor(
                self.reporter_of, self.access_log, self.emergency_uses, self.decisions.log, self.denials
            ).servable(),
            AuthorizationDoor(lambda stream: self._answering_to(self.proxy_of(stream))).servable(),
            HealthDoor(self._problem).servable(),
        ]
        return [*services, *reflection(services)]

    def fast(self) -> Fast:
        """Decisions, which Envoys ask for with every request."""

        def answer_of(connection: Connection) -> Answer:
            return Attested(partial(self.answering, connection)).answer

        return Fast(path=METHOD, answer_of=answer_of, max_message=MAX_MESSAGE)

    def answering(self, connection: Connection) -> Answering:
        """Who answers an Envoy's questions, by what it was attested to be.  Raises: VST2133, VST2312."""
        if connection.peer is None:
            raise PEER_GONE.error("the connection does not tell which process calls")
        connection.peer.check()
        return self._answering_to(self.sidecars.proxy_of((connection.peer.pid, connection.peer.start_time)))

    def _answering_to(self, proxy: ProxyKey) -> Answering:
        self.deciding.check(proxy)
        return Answering(
            lambda _, port: self.deciding.of(proxy, port), explains=False, counts=self.deciding.counts
        )

    def _workload_door(self) -> WorkloadDoor:
        doors = (self.workloads, self.jwt_svids, self.clock, lambda: self.cache.revocations)
        if not self.settings.experimental_wit_svids:
            return WorkloadDoor(*doors)
        return WitWorkloadDoor(*doors, self.wit_svids)

    def delegated_services(self) -> list[Servable]:
        """What is served to delegates, on a socket of their own: any process can open it, and is attested."""
        delegates = self.settings.authorized_delegates
        delegation = Delegation(self.workloads, self.cache, delegates, self.clock)
        return [DelegatedIdentityDoor(delegation, self.jwt_svids).servable()] if delegates else []

    def private_services(self) -> list[Servable]:
        """What is served on the private socket, which only this user and root can open."""
        debug = AgentDebugDoor(
            holdings=lambda: self.cache.now,
            jwt_svids=lambda: len(self.jwt_svids),
            seen_at=lambda: self.sync.contact.seen_at,
            clock=self.clock,
        )
        why = AgentWhyDoor(
            self.why,
            holdings=lambda: self.cache.now,
            ready=lambda: self.cache.ready,
            contact=self.sync.contact,
            trust_domain=self.settings.trust_domain,
            clock=self.clock,
        )
        logger = LoggerDoor(LogControl()).for_agent()
        return [self._admin_service(), debug.servable(), logger, why.servable()]

    def _admin_service(self) -> Servable:
        return AgentAdminDoor(
            holdings=lambda: self.cache.now,
            contact=self.sync.contact,
            sessions=lambda: self.sidecars.sessions,
            connected_proxies=self._connected_proxies,
            problems=lambda: filter(
                None,
                (
                    self.sync.not_saved,
                    self.cache.doubt,
                    self.revocations.not_saved,
                    self.access_log.problem,
                    self.emergency_uses.not_saved,
                    self.decisions.problem,
                ),
            ),
            version=__version__,
            started_at=self.started_at,
            kek_home=kek_home(self.settings.kek),
        ).servable()

    def proxy_of(self, stream: Stream) -> ProxyKey:
        """Whose Envoy calls.  Raises: VST2133, VST2312."""
        peer = peer_of(stream)
        return self.sidecars.proxy_of((peer.pid, peer.start_time))

    def sidecars_identity(self, peer: Peer) -> SpiffeId | None:
        """The identity of the sidecar whose Envoy a process is; None for all others."""
        try:
            return self.sidecars.proxy_of((peer.pid, peer.start_time)).spiffe_id
        except VestibuleError:
            return None

    async def client_of(self, stream: Stream) -> SpiffeId:
        """The default identity of whoever calls.  Raises: VST2105, VST2050, VST2312."""
        peer = peer_of(stream)
        with self.strangers.noted(peer):
            return (await self.workloads.entries(peer))[0].spiffe_id

    def reporter_of(self, stream: Stream) -> Reporter:
        """Whose access log is being sent.  Raises: VST2133, VST2312."""
        peer = peer_of(stream)
        with self.strangers.noted(peer):
            session = self.sidecars.session_of((peer.pid, peer.start_time))
            proxy = self.sidecars.proxy_of((peer.pid, peer.start_time))
        return Reporter(
            session.service,
            str(session.spiffe_id),
            session.instance_id,
            lambda: self._confirmed_version(proxy),
            self.views.commit_of,
            partial(self.views.place_of, proxy.spiffe_id),
        )

    async def _has_identity(self, stream: Stream) -> None:
        """Who has an identity has peers, and so a use for what is revoked.  Raises: VST2105, VST2106, VST2050."""
        await self.workloads.entries(peer_of(stream))

    def forget_everything(self) -> None:
        """The agent may not come back: what it kept for outages goes, too."""
        shutil.rmtree(self.proxies, ignore_errors=True)
        with suppress(OSError):
            (self.settings.data_dir / "views.json").unlink(missing_ok=True)
            (self.settings.data_dir / "revocations.sealed").unlink(missing_ok=True)

    def _load(self) -> None:
        # First, so that nothing that is revoked is taken up.
        self.revocations.load()
        holdings = self.vault.load()
        self.cache.become(holdings)
        self.views.load()
        self.emergency_uses.load()
        if holdings.own is not None:
            self.cache.get_ready()
            _log.info("took up %d SVIDs from disk", len(holdings.svids))
        elif holdings.bundle is None:
            self.settings.first_trust.check()

    async def _problem(self) -> str | None:
        """Why the agent cannot serve workloads now, if it cannot; callers without an identity are no problem."""
        if self.cache.doubt is not None:
            return str(self.cache.doubt)
        if not self.cache.ready:
            return "the agent has not yet learned from the server what it may serve"
        return None if self.cache.now.bundle is not None else "the agent has no trust bundle"

    def _overlaid(self, kept: Snapshot) -> Snapshot:
        """What a proxy took last, with what was revoked since: the two are kept in different files."""
        if not self.cache.revocations.entries:
            return kept
        # A third of a second, at every start of an agent, for what is needed rarely.
        from vestibule.envoy.overlay import overlaid

        return overlaid(kept, self.cache.revocations)

    async def _wake_sidecars(self) -> None:
        """A sidecar that waits for its identity looks again when the entries have changed."""
        seen, entries = self.cache.changed.version, self.cache.now.entries
        while True:
            seen = await self.cache.changed.after(seen)
            if self.cache.now.entries != entries:
                entries = self.cache.now.entries
                self.sidecars.wake()

    def _confirmed_version(self, proxy: ProxyKey) -> str:
        state = self.ledger.state(proxy)
        return (state.version if state else None) or ""

    def _connected_proxies(self) -> list[ProxyKey]:
        return [state.proxy for state in self.ledger.proxies() if state.connected]

    async def _report_ready(self, on_ready: Callable[[SpiffeId], None]) -> None:
        seen = self.cache.changed.version
        while not self.cache.ready or self.cache.now.own is None:
            seen = await self.cache.changed.after(seen)
        on_ready(self.cache.now.own.svid.spiffe_id)
        settle()

    async def _until(self, shutdown: Shutdown) -> None:
        await shutdown.drain.wait()

    async def _close(self, public: GrpcServer, others: Sequence[GrpcServer], shutdown: Shutdown) -> None:
        draining = asyncio.create_task(public.drain(DRAIN_SECONDS))
        at_once = asyncio.create_task(shutdown.at_once.wait())
        await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        at_once.cancel()
        for server in (public, *others):
            await server.close()

    # ------------------------------------------------------------------------ towards the server

    def _bundle(self) -> TrustBundle | None:
        return self.cache.now.bundle

    async def _ask_anybody_the_time(self) -> ServerTime:
        channel = UnverifiedChannel(self.settings.server, self.clock)
        try:
            return await IdentityApi(channel, self.settings.trust_domain).time(self.clock)
        finally:
            channel.close()

    async def _fetch_unverified(self) -> TrustBundle:
        channel = UnverifiedChannel(self.settings.server, self.clock)
        try:
            return await IdentityApi(channel, self.settings.trust_domain).bundle()
        finally:
            channel.close()


def _prepare(settings: AgentSettings) -> None:
    private_directory(settings.data_dir)
    for path in settings.socket_paths:
        socket_directory(path.parent, 0o755)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two agents on one directory would take each other's SVIDs for stolen ones."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NOT_WRITABLE.error(f"cannot write in {data_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ALREADY_RUNNING.error(f"another agent uses {data_dir}") from error
        yield
    finally:
        os.close(descriptor)


def _inherited(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
        sock.getpeername()
    except OSError as error:
        raise SOCKET_PATH.error(
            f"descriptor {descriptor} is not a connected socket: {error.strerror}",
            advice="--supervisor-fd is for the process that starts the agent: it passes one end of a socketpair.",
        ) from error
    return sock


def _first(group: BaseExceptionGroup[VestibuleError]) -> VestibuleError:
    for each in group.exceptions:
        return each if isinstance(each, VestibuleError) else _first(each)
    raise AssertionError("a group is never empty")
