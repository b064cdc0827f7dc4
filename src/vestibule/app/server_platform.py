"""The server's own services behind the platform's Envoy: the secret manager, and the token service beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from vestibule.app.platform_front import Front, FrontPlan
from vestibule.app.platform_part import Part
from vestibule.app.server_mesh import Background, Mesh
from vestibule.app.server_secrets import Secrets, secrets_of
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.app.server_tokens import tokens_of
from vestibule.clock import Clock
from vestibule.doors.health import Check
from vestibule.doors.platform.sds import Credentials
from vestibule.identity.beacon import first
from vestibule.net.grpc import Servable
from vestibule.pki.revocation import unrevoked
from vestibule.proxy.binary import find_envoy
from vestibule.secrets.seals.peers import PeerAnswers
from vestibule.telemetry.metrics import Metrics

SOCKETS: Final = ".d"
"""What the directory of the private sockets is called after the operator's socket."""


class Platform:
    """What a server needs of its own services, whether or not there are any; ``opened`` opens their front."""

    def __init__(
        self, settings: ServerSettings, services: Services, clock: Clock, secrets: Secrets, *others: Part
    ) -> None:
        self._services = services
        self._clock = clock
        self._secrets = secrets
        self._parts: tuple[Part, ...] = (secrets, *others)
        self.tenancies = tuple(each.tenancy for each in self._parts if each.tenancy is not None)
        self._front = self._made_front(settings)

    def _made_front(self, settings: ServerSettings) -> Front | None:
        if not self.tenancies:
            return None
        return Front(_plan(settings), [each.house for each in self.tenancies], self._credentials)

    @property
    def operators(self) -> Sequence[Servable]:
        """gRPC services for operators on the server's own socket."""
        return [servable for each in self._parts for servable in each.operators]

    @property
    def answers(self) -> PeerAnswers | None:
        """What other servers are given to unseal with; None where that is not configured."""
        return self._secrets.answers

    def background(self) -> Iterator[tuple[str, Background]]:
        """What goes on behind the doors, by name."""
        for each in self._parts:
            yield from each.background().items()
        for tenancy in self.tenancies:
            yield from tenancy.identity.background().items()
        if self._front is not None:
            yield "platform-front", self._front.run

    def checks(self) -> Mapping[str, Check]:
        """What readiness depends on."""
        found = {name: check for each in self._parts for name, check in each.checks().items()}
        if (front := self._front) is None:
            return found

        async def up() -> str | None:
            return None if front.envoy.is_ready else "the Envoy in front of the secret manager is not up"

        return {"secrets": up, **found}

    def warnings(self) -> Sequence[str]:
        """What an operator should know."""
        return [text for each in self._parts for text in each.warnings()]

    def measured(self, metrics: Metrics) -> None:
        """Register what is counted."""
        front = self._front
        metrics.gauge(
            "secrets_proxy_restarts",
            "How often the Envoy in front of it was started again.",
            lambda: 0 if front is None else front.envoy.restarts,
        )
        metrics.gauge(
            "secrets_strangers",
            "Other processes that came to its private socket.",
            lambda: 0 if front is None else front.refused,
        )
        for each in self._parts:
            each.measured(metrics)

    async def drain(self) -> None:
        """Finish what is in flight."""
        for each in self._parts:
            await each.drain()
        if self._front is not None:
            await self._front.stop()

    def opened(self, stack: ExitStack) -> None:
        """Take the sockets.  Raises: VST2310, VST2311, VST7003, VST7004 (its private directory)."""
        if self._front is not None:
            stack.enter_context(self._front)

    async def _credentials(self) -> AsyncIterator[Credentials]:
        authorities, revocations = self._services.authorities, self._services.revocations
        identities = [each.identity for each in self.tenancies]
        while True:
            seen = authorities.revision, revocations.revision
            shown = [(each, each.revision) for each in identities]
            yield Credentials(
                svids={each.name: each.svid for each in identities},
                bundle=unrevoked(authorities.bundle(), revocations.now, self._clock.now()),
                webs={each.name: web for each in identities if (web := each.web) is not None},
            )
            await first(
                authorities.changed(seen[0]),
                revocations.changed(seen[1]),
                *(each.changed(revision) for each, revision in shown),
            )


def _plan(settings: ServerSettings) -> FrontPlan:
    socket = settings.socket_path
    return FrontPlan(
        trust_domain=settings.trust_domain,
        directory=socket.with_name(f"{socket.name.removesuffix('.sock')}{SOCKETS}"),
        binary=find_envoy(),
        log=settings.data_dir / "platform-envoy.log",
        svid_seconds=settings.default_x509_svid_ttl.total_seconds(),
        drain=settings.drain.total_seconds(),
    )


@asynccontextmanager
async def platform_of(
    settings: ServerSettings, services: Services, mesh: Mesh, clock: Clock
) -> AsyncIterator[Platform]:
    """The services that the settings ask for, and their front.

    Raises: VST2310, VST2311, VST7003, VST7004 (its private directory), VST7100 (no Envoy), VST2202 (a certificate for
    clients with tokens), errors of the audit log.
    """
    secrets = secrets_of(settings, services, mesh, clock)
    tokens = tokens_of(settings, services, mesh, clock, secrets)
    platform = Platform(settings, services, clock, secrets, tokens)
    for each in platform.tenancies:
        await each.identity.start()
    with ExitStack() as stack:
        platform.opened(stack)
        yield platform
