"""The token service of a server: what it consists of, and what stands in front of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from prometheus_client import Histogram

from vestibule.app.platform_front import House
from vestibule.app.platform_identity import PlatformIdentity
from vestibule.app.platform_part import Absent, Part, Tenancy
from vestibule.app.server_mesh import Background, Mesh
from vestibule.app.server_secrets import SecretManager, Secrets
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.app.token_settings import TokenSettings
from vestibule.clock import Clock
from vestibule.doors.health import Check
from vestibule.doors.oauth.app import OAuthApp
from vestibule.doors.oauth.clients import Clients
from vestibule.doors.oauth.metadata import Metadata
from vestibule.doors.oauth.records import Records
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.tokens_admin import TokensAdminDoor
from vestibule.envoy.platform import OAUTH_REPLIES
from vestibule.identity.names import tokens_id
from vestibule.intent.built_in import TOKENS_SERVICE
from vestibule.net.grpc import Servable
from vestibule.pki.revocation import unrevoked
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.telemetry.metrics import Metrics
from vestibule.tokens import service as core
from vestibule.tokens.access import IntentIssuers, IntentTokenAccess
from vestibule.tokens.keyring import KeyTimes

LOOK_SECONDS: Final = 0.1


class NoTokens(Absent):
    """A server that issues no tokens."""

    def __init__(self, services: Services) -> None:
        super().__init__((TokensAdminDoor(None, services.audit).servable(),))

    def measured(self, metrics: Metrics) -> None:
        """Nothing is counted."""
        _register(metrics)


class TokenDoor:
    """The token service, connected."""

    def __init__(
        self,
        settings: ServerSettings,
        said: TokenSettings,
        services: Services,
        mesh: Mesh,
        clock: Clock,
        secrets: SecretManager,
    ) -> None:
        self._services = services
        self._clock = clock
        self._barrier = secrets.barrier
        self._seconds: Histogram | None = None
        self.service = core.TokenService(
            core.TokenSettings(
                issuer=said.issuer,
                trust_domain=settings.trust_domain,
                times=KeyTimes(life=said.key_life, publication=said.key_publication),
                transaction_tokens=said.transactions,
            ),
            barrier=secrets.barrier,
            access=IntentTokenAccess(mesh.intent_in_force, clock),
            outside=IntentIssuers(mesh.intent_in_force, mesh.fetched_keys),
            clock=clock,
            changes=services.store.changes,
            record=services.audit.record,
            leads=lambda: services.store.leads,
        )
        if mesh.known_tokens is not None:
            mesh.known_tokens.connect(self.service.key_source, self.service.revoked)
        revocations = services.revocations
        certificates = Certificates(services.authorities.bundle, lambda: revocations.now, clock)
        clients = Clients(
            certificates.presented,
            said.issuer,
            self._bundle_of,
            lambda: revocations.now,
            self.service.once,
            clock,
        )
        app = OAuthApp(
            self.service,
            clients,
            Metadata(said.issuer, _hosts(said)),
            Records(services.audit, secrets.hashed),
            self._count,
        )
        self.tenancy: Tenancy | None = self._tenancy(said, app)
        admin = TokensAdminDoor(self.service, services.audit)
        self.operators: Sequence[Servable] = (admin.servable(),)

    def _tenancy(self, said: TokenSettings, app: OAuthApp) -> Tenancy:
        identity = PlatformIdentity(
            self._services,
            self._clock,
            TOKENS_SERVICE,
            tokens_id(said.trust_domain),
            dns_names=said.names,
            web=said.web,
        )
        house = House(
            name=TOKENS_SERVICE,
            listen=said.listen,
            app=app,
            replies=OAUTH_REPLIES,
            open_listen=said.open_listen,
            web=identity.has_web,
        )
        return Tenancy(house=house, identity=identity)

    def background(self) -> Mapping[str, Background]:
        """What keeps keys and revocations current."""
        return {"tokens": self._run}

    def checks(self) -> Mapping[str, Check]:
        """None: a server whose secret manager is sealed is ready for all else."""
        return {}

    def warnings(self) -> Sequence[str]:
        """What keeps the service from following others; that it is sealed is said elsewhere."""
        if self._barrier.is_sealed or not self.service.trouble:
            return ()
        return (f"signing keys and revoked tokens are not followed: {self.service.trouble}",)

    def measured(self, metrics: Metrics) -> None:
        """How long requests take, and what came of them; keys, and what is revoked."""
        self._seconds = _register(metrics, self.service)

    async def drain(self) -> None:
        """What is in flight, the front waits for."""

    async def _run(self) -> None:
        """As soon as it is unsealed for the first time there are keys, not a moment later."""
        while self._barrier.is_sealed:  # noqa: ASYNC110 - nothing tells when it is not any more
            await asyncio.sleep(LOOK_SECONDS)
        await self.service.start()
        await self.service.run()

    def _count(self, verb: str, outcome: str, seconds: float) -> None:
        if self._seconds is not None:
            self._seconds.labels(verb, outcome).observe(seconds)

    def _bundle_of(self, trust_domain: TrustDomain) -> TrustBundle | None:
        own = self._services.authorities.bundle()
        if own.trust_domain != trust_domain:
            return None
        return unrevoked(own, self._services.revocations.now, self._clock.now())


def _hosts(said: TokenSettings) -> Collection[str]:
    """Under which names and addresses clients without a sidecar come."""
    ports = [said.listen.port, *(() if said.open_port is None else (said.open_port,))]
    hosts = dict.fromkeys((*said.names, said.listen.host, said.place.host))
    return [f"{host}:{port}" for host in hosts for port in ports]


def _register(metrics: Metrics, service: core.TokenService | None = None) -> Histogram:
    metrics.gauges(
        "tokens_keys",
        "Keys that sign tokens, by state (next, current, former).",
        "state",
        lambda: Counter(each.state.value for each in (service.keys() if service else ())),
    )
    metrics.gauges(
        "tokens_revoked",
        "Entries on the list of revoked tokens, by what the tokens have in common.",
        "by",
        lambda: Counter(each.by.value for each in (service.revoked.now if service else ())),
    )
    return metrics.histogram(
        "tokens_request_seconds",
        "How long requests to the token service took, by what was asked for and what came of it.",
        "verb",
        "outcome",
    )


def tokens_of(
    settings: ServerSettings, services: Services, mesh: Mesh, clock: Clock, secrets: Secrets
) -> Part:
    """The token service that the settings ask for.  Raises: VST2202 (the certificate for clients without one)."""
    said = settings.token_service
    if said is None or not isinstance(secrets, SecretManager):
        return NoTokens(services)
    return TokenDoor(settings, said, services, mesh, clock, secrets)
