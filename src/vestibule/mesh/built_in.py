"""The platform's own services as services of the mesh: every proxy can reach them, whatever the intent says.

They are added to the intent that proxies are compiled for, and to the instances, so that nothing else has to know of
them.  Who may do what there is decided behind the connection; in the mesh, all of the trust domain may connect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from vestibule.intent import Intent, Port, Protocol, Service
from vestibule.intent.traffic import Traffic
from vestibule.mesh.intents import Intents
from vestibule.mesh.revision import Revision
from vestibule.policy import IdentityMatch, Rule
from vestibule.records import Address, Health, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ProxyKey

PORT: Final = "http"
TIMEOUT: Final = timedelta(seconds=75)
"""Of one request to the secret manager: who waits for a new version waits for up to a minute."""

_MOST_KNOWN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """One service of the platform, where it is, and by whom it runs.  ``timeout`` is that of one request."""

    name: str
    spiffe_id: SpiffeId
    address: Address
    server_id: SpiffeId
    timeout: timedelta = TIMEOUT

    @property
    def service(self) -> Service:
        """As callers see it."""
        everybody = IdentityMatch(id=SpiffeId.of(self.spiffe_id.trust_domain, ""), below=True)
        return Service(
            name=self.name,
            spiffe_id=self.spiffe_id,
            owner="vestibule",
            ports=MappingProxyType({PORT: Port(name=PORT, protocol=Protocol.HTTP)}),
            allow=(Rule(name=f"{self.name}/everybody", callers=(everybody,), port=PORT),),
            traffic=Traffic(timeout=self.timeout),
        )

    @property
    def instance(self) -> Instance:
        """The one behind this server's own port."""
        return Instance(
            id=f"vestibule-{self.name}",
            service=self.name,
            spiffe_id=self.spiffe_id,
            agent_id=self.server_id,
            ingress={PORT: self.address},
            health=Health.HEALTHY,
        )


class WithBuiltIn:
    """``Intents`` with the platform's services in each."""

    def __init__(self, intents: Intents, built_in: tuple[BuiltIn, ...]) -> None:
        self._intents = intents
        self._services = {each.name: each.service for each in built_in}
        self._known: list[tuple[Intent, Intent]] = []

    @property
    def revision(self) -> Revision:
        return self._intents.revision

    def in_force(self) -> tuple[Intent, ...]:
        return tuple(map(self.complete, self._intents.in_force()))

    def version_for(self, proxy: ProxyKey) -> str | None:
        return self._intents.version_for(proxy)

    def cannot_have(self, proxy: ProxyKey, version: str, why: str) -> None:
        self._intents.cannot_have(proxy, version, why)

    def complete(self, intent: Intent) -> Intent:
        """The intent with them; the same object for the same intent, since much is remembered by it."""
        if not self._services:
            return intent
        for known, made in self._known:
            if known is intent:
                return made
        made = replace(intent, services=MappingProxyType({**intent.services, **self._services}))
        self._known = [(intent, made), *self._known[: _MOST_KNOWN - 1]]
        return made


def instances(built_in: tuple[BuiltIn, ...]) -> Iterator[Instance]:
    """Their instances."""
    for each in built_in:
        yield each.instance
