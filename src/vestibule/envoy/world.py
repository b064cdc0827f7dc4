"""Everything the compiler may know: the intent, the instances that run, and how long SVIDs last.

A world never changes; a new one is made whenever any of it does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Final

from vestibule.intent.model import Intent, Port, Service
from vestibule.intent.traffic import Route, Traffic
from vestibule.policy import IdentityMatch
from vestibule.records import Instance
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.xds.resources import Resource

DEFAULT_SVID_TTL: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One port of a service, as callers see it.

    ``name`` is what callers call it: the service's name, or ``payments/grpc`` where it has several ports.
    ``cluster`` names the cluster and its endpoints, and always has both parts.
    """

    name: str
    service: str
    port: Port
    spiffe_id: SpiffeId

    @property
    def cluster(self) -> str:
        return f"{self.service}/{self.port.name}"


def destinations_of(service: Service) -> tuple[Destination, ...]:
    """A service's ports, by name."""
    alone = len(service.ports) == 1
    return tuple(
        Destination(
            name=service.name if alone else f"{service.name}/{name}",
            service=service.name,
            port=port,
            spiffe_id=service.spiffe_id,
        )
        for name, port in sorted(service.ports.items())
    )


def expiries(intent: Intent) -> Iterator[datetime]:
    """Every instant at which something in the intent ends by itself."""
    for service in intent.services.values():
        if service.traffic.permissive is not None:
            yield service.traffic.permissive.until
        yield from (each.fault.until for each in service.traffic.routes if each.fault is not None)
    for gateway in intent.gateways.values():
        yield from (each.fault.until for each in gateway.routes if each.fault is not None)


def in_force(traffic: Traffic, as_of: datetime | None) -> Traffic:
    """Traffic without faults and permissions that have ended by ``as_of``."""
    if as_of is None:
        return traffic
    if any(each.fault is not None and each.fault.until <= as_of for each in traffic.routes):
        traffic = replace(traffic, routes=tuple(_without_fault(each, as_of) for each in traffic.routes))
    if traffic.permissive is not None and traffic.permissive.until <= as_of:
        traffic = replace(traffic, permissive=None)
    return traffic


def _without_fault(route: Route, as_of: datetime) -> Route:
    return replace(route, fault=None) if route.fault is not None and route.fault.until <= as_of else route


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """The compiler's input.  ``svid_ttls`` holds the identities whose SVIDs live otherwise than by default.

    ``revocations`` is what is revoked.  Nothing is compiled from it yet: proxies refuse revoked peers once their
    authorization rules do.  ``as_of`` is the latest of the intent's expiries that has passed, if any has: what lasts
    until then or less has ended.
    """

    intent: Intent
    instances: tuple[Instance, ...] = ()
    svid_ttls: Mapping[SpiffeId, timedelta] = field(default_factory=lambda: MappingProxyType({}))
    default_svid_ttl: timedelta = DEFAULT_SVID_TTL
    revocations: Revocations = field(default_factory=Revocations)
    as_of: datetime | None = None
    compiled: dict[tuple[str, str], Resource] = field(default_factory=dict, init=False, repr=False)
    """Endpoints as compiled already, by name and by the place that they are seen from."""

    def svid_ttl(self, spiffe_id: SpiffeId) -> timedelta:
        """How long an SVID of this identity is valid."""
        return self.svid_ttls.get(spiffe_id, self.default_svid_ttl)

    def instance(self, instance_id: str, spiffe_id: SpiffeId) -> Instance | None:
        """The instance, if it is registered with this identity."""
        found = self._instances.get(instance_id)
        return found if found is not None and found.spiffe_id == spiffe_id else None

    def service(self, spiffe_id: SpiffeId) -> Service | None:
        """The service of this identity."""
        return self._services.get(spiffe_id)

    def traffic(self, service: str) -> Traffic:
        """What a service says about calls to it, without what has expired."""
        return self._traffic[service]

    def destination(self, name: str) -> Destination | None:
        """The destination that callers call ``name``, whether or not any rule allows them."""
        return self._destinations.get(name)

    def instances_of(self, destination: Destination) -> tuple[Instance, ...]:
        """The instances that serve a destination with the destination's identity, by ID."""
        return self._serving.get((destination.service, destination.port.name), ())

    def allowed_for(self, caller: SpiffeId) -> frozenset[str]:
        """The names of the destinations that some rule lets ``caller`` call in some way."""
        exact = self._callers.get(caller, frozenset())
        below = (names for match, names in self._callers_below if match.matches(caller))
        return exact.union(*below)

    @cached_property
    def _instances(self) -> dict[str, Instance]:
        return {each.id: each for each in self.instances}

    @cached_property
    def _services(self) -> dict[SpiffeId, Service]:
        return {each.spiffe_id: each for each in self.intent.services.values()}

    @cached_property
    def _destinations(self) -> dict[str, Destination]:
        every = (each for service in self.intent.services.values() for each in destinations_of(service))
        return {each.name: each for each in every}

    @cached_property
    def _traffic(self) -> dict[str, Traffic]:
        return {name: in_force(each.traffic, self.as_of) for name, each in self.intent.services.items()}

    @cached_property
    def _serving(self) -> dict[tuple[str, str], tuple[Instance, ...]]:
        serving: defaultdict[tuple[str, str], list[Instance]] = defaultdict(list)
        for each in sorted(self.instances, key=lambda instance: instance.id):
            service = self.intent.services.get(each.service)
            if service is not None and service.spiffe_id == each.spiffe_id:
                for port in each.ingress:
                    serving[each.service, port].append(each)
        return {key: tuple(found) for key, found in serving.items()}

    @cached_property
    def _callers(self) -> dict[SpiffeId, frozenset[str]]:
        return {match.id: names for match, names in self._grants.items() if not match.below}

    @cached_property
    def _callers_below(self) -> tuple[tuple[IdentityMatch, frozenset[str]], ...]:
        return tuple((match, names) for match, names in self._grants.items() if match.below)

    @cached_property
    def _grants(self) -> dict[IdentityMatch, frozenset[str]]:
        """Who is named by rules, and the destinations those rules are about."""
        grants: defaultdict[IdentityMatch, set[str]] = defaultdict(set)
        for service in self.intent.services.values():
            for destination in destinations_of(service):
                for rule in service.rules_for(destination.port.name):
                    for match in rule.callers:
                        grants[match].add(destination.name)
        return {match: frozenset(names) for match, names in grants.items()}
