"""The secret manager of a server: what it consists of, what is in front of it, and what goes on behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import Histogram

from vestibule.app.platform_front import House
from vestibule.app.platform_identity import PlatformIdentity
from vestibule.app.platform_part import Absent, Part, Tenancy
from vestibule.app.server_lending import Lending, lending_metrics
from vestibule.app.server_mesh import Background, Mesh
from vestibule.app.server_seals import former_seals, seal_of
from vestibule.app.server_services import Services
from vestibule.app.server_settings import SealKind, ServerSettings
from vestibule.clock import Clock
from vestibule.doors.health import Check
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.secrets_admin import SecretsAdminDoor
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.callers import Callers
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Backend
from vestibule.doors.vault.pipeline import Pipeline, operators_of
from vestibule.doors.vault.policies import policies_of
from vestibule.doors.vault.sys import SysBackend
from vestibule.doors.vault.sys_seal import SealBackend
from vestibule.doors.vault.token_hashes import unless_sealed
from vestibule.doors.vault.transit import TransitBackend
from vestibule.doors.vault.wrapping import WrappingBackend, wrapped_answer
from vestibule.envoy.platform import VAULT_REPLIES
from vestibule.identity.names import secrets_id
from vestibule.intent.built_in import SECRETS_SERVICE
from vestibule.net.grpc import Servable
from vestibule.pki.revocation import unrevoked
from vestibule.records import Address
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.anchor import Anchors, AuditAnchor, FileAnchor
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.secrets.sealing import Sealing
from vestibule.secrets.seals.peers import PeerAnswers
from vestibule.secrets.transit.engine import Transit
from vestibule.secrets.versions import Versions
from vestibule.secrets.wrapping import Wrapping
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.telemetry.metrics import Metrics


class Secrets(Part, Protocol):
    """What a server needs of its secret manager, whether or not there is one."""

    @property
    def answers(self) -> PeerAnswers | None:
        """What other servers are given to unseal with; None where that is not configured."""
        ...


class NoSecrets(Absent):
    """A server without a secret manager."""

    answers: PeerAnswers | None = None

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        door = SecretsAdminDoor(None, None, settings.trust_domain, clock)
        super().__init__((door.servable(),))

    def measured(self, metrics: Metrics) -> None:
        """Nothing is counted."""
        _register(metrics, lambda: 0, lambda: 0, lambda: 0)
        lending_metrics(metrics, None)


class SecretManager:
    """All of it, connected."""

    def __init__(self, settings: ServerSettings, services: Services, mesh: Mesh, clock: Clock) -> None:
        self._settings = settings
        self._services = services
        self._clock = clock
        self._seconds: Histogram | None = None
        store = services.store
        self.barrier = SealedBarrier(store.sealed_rows, store.changes, services.audit)
        self.sealing = Sealing(
            self.barrier,
            seal_of(settings, services, clock),
            audit=services.audit,
            anchor=_anchor(settings),
            leads=lambda: store.leads,
            former=former_seals(settings),
        )
        asks_peers = settings.secrets_seal is SealKind.PEERS
        self.answers = PeerAnswers(self.barrier, store.sealed_rows, services.audit) if asks_peers else None
        self._lending = Lending(self.barrier, clock, services.audit.record_or_defer, lambda: store.leads)
        self._tokens = ClientTokens(self.barrier, clock)
        self.hashed = unless_sealed(self._hashed)
        """The keyed hash of a token, for records; empty while sealed."""
        self._wrapping = Wrapping(self.barrier, clock)
        self._transit = Transit(self.barrier, clock)
        self._versions = Versions(self.barrier, clock)
        self.access = IntentAccess(mesh.intent_in_force, clock)
        self.pipeline = Pipeline(
            self._backends(),
            self.access,
            services.audit,
            is_operator=operators_of(self._is_administrator),
            wrap=partial(wrapped_answer, self._wrapping),
            counts=self._count,
            hashed=self.hashed,
        )
        certificates = Certificates(services.authorities.bundle, lambda: services.revocations.now, clock)
        callers = Callers(
            self._tokens,
            self._bundle_of,
            str(secrets_id(settings.trust_domain)),
            clock,
            lambda: services.revocations.now,
        )
        self.pipeline.backends["sys"] = self._sys()
        self.operators: Sequence[Servable] = (
            SecretsAdminDoor(
                self.pipeline.answer,
                self.sealing,
                settings.trust_domain,
                clock,
                forget=self._transit.forget,
            ).servable(),
        )
        app = VaultApp(self.pipeline.answer, certificates.caller_of, callers, services.audit, self.hashed)
        self.tenancy: Tenancy | None = self._tenancy(app)

    def _backends(self) -> dict[str, Backend]:
        return {
            "secret": KvBackend(self._versions),
            "transit": TransitBackend(self._transit),
            "auth": AuthBackend(self._tokens, self._clock),
            "sys/wrapping": WrappingBackend(self._wrapping),
            **self._lending.backends,
        }

    def _sys(self) -> Backend:
        settings = self._settings
        seal = SealBackend(
            self.sealing,
            self._clock,
            cluster=str(settings.trust_domain),
            storage="sqlite" if settings.database is None else "postgresql",
            forget=self._transit.forget,
        )
        return SysBackend(seal, may=self.pipeline.may, policies=self._policies, hashed=self._hashed)

    def _policies(self) -> Mapping[str, str]:
        intent = self.access.intent
        return {} if intent is None else policies_of(intent)

    def _hashed(self, text: str) -> str:
        return f"hmac-sha256:{self.barrier.mac('audit', text.encode()).hex()}"

    def _tenancy(self, app: VaultApp) -> Tenancy:
        settings = self._settings
        identity = PlatformIdentity(
            self._services,
            self._clock,
            SECRETS_SERVICE,
            secrets_id(settings.trust_domain),
            dns_names=settings.secrets_names,
            web=(settings.secrets_token_tls_cert, settings.secrets_token_tls_key),
        )
        house = House(
            name=SECRETS_SERVICE,
            listen=Address(host=settings.secrets_address, port=settings.secrets_port),
            app=app,
            replies=VAULT_REPLIES,
            open_listen=settings.secrets_token_place,
            web=identity.has_web,
            # Vault's LIST is a method of its own.
            custom_methods=True,
        )
        return Tenancy(house=house, identity=identity)

    def background(self) -> Mapping[str, Background]:
        return {
            "secrets-sealing": self.sealing.run,
            "secrets-tokens": self._tokens.run,
            "secrets-wrapping": self._wrapping.run,
            "secrets-versions": self._follow_versions,
            "secrets-lent": self._take_back_what_was_lent,
            **self._lending.background(),
        }

    def checks(self) -> Mapping[str, Check]:
        return {}  # that its front is up is what there is to it

    def warnings(self) -> Sequence[str]:
        return ()  # how it is, ``status`` and ``check`` ask for themselves

    def measured(self, metrics: Metrics) -> None:
        self._seconds = _register(
            metrics,
            lambda: self.barrier.is_sealed,
            lambda: len(self.sealing.damaged),
            lambda: self._versions.watching.waiting,
        )
        self._lending.measured(metrics)

    async def drain(self) -> None:
        self._versions.watching.close()  # who waits for something new is not waited for

    def _count(self, verb: str, outcome: str, seconds: float) -> None:
        if self._seconds is not None:
            self._seconds.labels(verb, outcome).observe(seconds)

    def _bundle_of(self, trust_domain: TrustDomain) -> TrustBundle | None:
        own = self._services.authorities.bundle()
        if own.trust_domain != trust_domain:
            return None
        return unrevoked(own, self._services.revocations.now, self._clock.now())

    def _is_administrator(self, spiffe_id: SpiffeId) -> bool:
        return self._services.administration.scope_of(spiffe_id).full

    async def _follow_versions(self) -> None:
        """Who waits for a new version hears of one that another server has written."""
        await self._versions.follow(self._services.store.changes.subscribe("secrets"))

    async def _take_back_what_was_lent(self) -> None:
        """Who is revoked loses the credentials that were made for it."""
        await self._lending.follow(self._services.revocations)


def _anchor(settings: ServerSettings) -> Anchors:
    data = settings.data_dir
    return Anchors([FileAnchor(data / "secrets.generation"), AuditAnchor(data / "audit.jsonl")])


def _register(
    metrics: Metrics,
    sealed: Callable[[], int],
    damaged: Callable[[], int],
    waiting: Callable[[], int],
) -> Histogram:
    """What is counted; the histogram hears of each request."""
    metrics.gauge("secrets_sealed", "1 while the secret manager is sealed.", sealed)
    metrics.gauge("secrets_damaged", "Engines of which rows were tampered with in the database.", damaged)
    metrics.gauge("secrets_waiting", "Requests that wait for a new version of a secret.", waiting)
    return metrics.histogram(
        "secrets_request_seconds",
        "How long requests to the secret manager took, by what was asked for and what came of it.",
        "verb",
        "outcome",
    )


def secrets_of(settings: ServerSettings, services: Services, mesh: Mesh, clock: Clock) -> Secrets:
    """The secret manager that the settings ask for.

    Raises: VST2202 (the certificate for clients with tokens), errors of the audit log.
    """
    if settings.secrets_seal is SealKind.OFF:
        return NoSecrets(settings, clock)
    return SecretManager(settings, services, mesh, clock)
