"""Everything the compiler may know: the intent, the instances that run, and how long SVIDs last.

A world never changes; a new one is made whenever any of it does.  It is made ``following`` the one before, so that
what is the same is the very same object, and what is known of it need not be found out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final, TypeVar

from vestibule.envoy.injected import injecting, is_injecting
from vestibule.envoy.revoked import Refused
from vestibule.envoy.tokens import Issuers
from vestibule.envoy.told import Told
from vestibule.intent.built_in import TOKENS_SERVICE
from vestibule.intent.model import Decide, Defaults, Intent, Issuer, IssuerKind, Mesh, Port, Service
from vestibule.intent.outside import External, Gateway
from vestibule.intent.port_policies import port_policy
from vestibule.intent.traffic import Route, Traffic
from vestibule.policy import IdentityMatch, Mode, PathPattern, PortPolicy, Rule, may_call
from vestibule.policy.identities import above
from vestibule.policy.terms import Terms
from vestibule.records import Distrust, Emergency, Instance
from vestibule.spiffe import Revocations, RevokedIdentity, RevokedJwtKey, SpiffeId
from vestibule.xds.resources import Resource

_CLOCKS_APART: Final = timedelta(minutes=1)
"""How far those of servers may be from each other, for the order in which permissions of break-glass end."""
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
    _hash: int | None = field(default=None, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        # Every caller looks up the names of all that it may call.
        if (known := self._hash) is None:
            known = hash((self.name, self.service, self.port, self.spiffe_id))
            object.__setattr__(self, "_hash", known)
        return known

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
        yield from _ends((*service.deny, *service.allow))
    for external in intent.externals.values():
        yield from _ends(external.allow)
    for gateway in intent.gateways.values():
        yield from (each.fault.until for each in gateway.routes if each.fault is not None)


def _ends(rules: Iterable[Rule]) -> Iterator[datetime]:
    for rule in rules:
        if rule.expires is not None:
            yield rule.expires
        yield from (match.until for match in rule.callers if match.until is not None)


def last_expiry(intent: Intent, now: datetime) -> datetime | None:
    """The latest instant that has passed at which something ended: a world's ``as_of``."""
    return max((each for each in expiries(intent) if each <= now), default=None)


def next_expiry(intent: Intent, now: datetime) -> datetime | None:
    """When something ends next."""
    return min((each for each in expiries(intent) if each > now), default=None)


def in_force(traffic: Traffic, as_of: datetime | None) -> Traffic:
    """Traffic without faults and permissions that have ended by ``as_of``."""
    if as_of is None:
        return traffic
    if any(each.fault is not None and each.fault.until <= as_of for each in traffic.routes):
        traffic = replace(traffic, routes=tuple(_without_fault(each, as_of) for each in traffic.routes))
    if traffic.permissive is not None and traffic.permissive.until <= as_of:
        traffic = replace(traffic, permissive=None)
    return traffic


def in_time(policy: PortPolicy, as_of: datetime | None) -> PortPolicy:
    """The policy without the rules and memberships that have ended by ``as_of``."""
    if as_of is None:
        return policy
    deny, allow = _in_time(policy.deny, as_of), _in_time(policy.allow, as_of)
    return policy if (deny, allow) == (policy.deny, policy.allow) else replace(policy, deny=deny, allow=allow)


def _in_time(rules: tuple[Rule, ...], now: datetime) -> tuple[Rule, ...]:
    return tuple(
        rule
        if all(match.holds(now) for match in rule.callers)
        else replace(rule, callers=tuple(match for match in rule.callers if match.holds(now)))
        for rule in rules
        if rule.expires is None or now < rule.expires
    )


def _without_fault(route: Route, as_of: datetime) -> Route:
    return replace(route, fault=None) if route.fault is not None and route.fault.until <= as_of else route


@dataclass(frozen=True, slots=True, eq=False)
class HostNames:
    """``names`` of every destination that speaks HTTP, and those of services that speak none.

    No name has two meanings: a service's own name goes before one made of two.
    """

    names: Mapping[Destination, tuple[str, ...]]
    not_http: tuple[str, ...]

    @classmethod
    def of(cls, mesh: str, services: Iterable[Service]) -> HostNames:
        """As the services of a mesh are called."""
        ordered = sorted(services, key=lambda each: each.name)
        meant: dict[str, Destination | None] = {}
        for suffix in ("", f".{mesh}"):
            for service in ordered:
                meant.setdefault(f"{service.name}{suffix}", _default(service))
        for suffix in ("", f".{mesh}"):
            for service in ordered:
                for each in destinations_of(service):
                    if each.port.protocol.is_http:
                        meant.setdefault(f"{each.port.name}.{service.name}{suffix}", each)
        names: dict[Destination, tuple[str, ...]] = {}
        for name, target in meant.items():
            if target is not None:
                names[target] = (*names.get(target, ()), name)
        return cls(MappingProxyType(names), tuple(name for name, target in meant.items() if target is None))


def _default(service: Service) -> Destination | None:
    """What a service's bare name means to an HTTP client."""
    spoken = [each for each in destinations_of(service) if each.port.protocol.is_http]
    return next((each for each in spoken if each.port.name == "http"), spoken[0] if spoken else None)


Grants = Mapping[IdentityMatch, frozenset[str]]
"""Who is named by rules, and the names of the destinations that those rules are about."""


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    """What follows from one service alone."""

    service: Service
    destinations: tuple[Destination, ...]
    grants: Grants
    injecting: frozenset[str]
    """The ports for which callers' proxies are to get tokens."""

    @classmethod
    def of(cls, service: Service) -> _Offer:
        grants: defaultdict[IdentityMatch, set[str]] = defaultdict(set)
        destinations, injects = destinations_of(service), set[str]()
        for destination in destinations:
            for rule in service.rules_for(destination.port.name):
                if is_injecting(rule):
                    injects.add(destination.port.name)
                for match in _named(rule, service.spiffe_id):
                    grants[match].add(destination.name)
        found = {match: frozenset(names) for match, names in grants.items()}
        return cls(service, destinations, found, frozenset(injects))


def _named(rule: Rule, service: SpiffeId) -> Iterator[IdentityMatch]:
    """Whom a rule lets call; rules in shadow mode let nobody."""
    if rule.mode is Mode.ENFORCE:
        if rule.anyone:
            yield IdentityMatch(id=SpiffeId.of(service.trust_domain, ""), below=True)
        yield from rule.callers


def rule_of(emergency: Emergency) -> Rule:
    """What a permission of break-glass allows, as a rule."""
    return Rule(
        name=emergency.rule,
        callers=tuple(IdentityMatch.parse(each) for each in emergency.callers),
        port=emergency.port or None,
        methods=frozenset({emergency.method} if emergency.method else ()),
        paths=(PathPattern.parse(emergency.path),) if emergency.path else (),
        expires=emergency.expires_at,
        reason=emergency.reason,
    )


def _told(version: int) -> str:
    return str(version) if version else ""


@lru_cache(maxsize=8)
def refused_of(revocations: Revocations) -> Refused:
    """What proxies refuse of callers by a list."""
    return Refused.of(revocations.entries)


@lru_cache(maxsize=8)
def _newest(revocations: Revocations) -> _Newest:
    others, identities, below = 0, dict[SpiffeId, int](), dict[SpiffeId, int]()
    for each in revocations.entries:
        if isinstance(each.target, RevokedIdentity):
            named = each.target.spiffe_id
            identities[named] = each.version
            for wider in above(named):
                below[wider] = max(below.get(wider, 0), each.version)
        elif not isinstance(each.target, RevokedJwtKey):
            others = max(others, each.version)
    return _Newest(others, identities, below)


@dataclass(frozen=True, slots=True, eq=False)
class _Newest:
    """The newest version of what names no identity, that of each identity, and of all below one."""

    others: int
    identities: Mapping[SpiffeId, int]
    below: Mapping[SpiffeId, int]

    def of_callers(self, rule: Rule) -> int:
        """Of the identities that a rule speaks of; 0 if none of them is revoked."""
        if rule.anyone:
            return max(self.identities.values(), default=0)
        return max(map(self._of, rule.callers), default=0)

    def _of(self, match: IdentityMatch) -> int:
        exactly = self.identities.get(match.id, 0)
        return max(exactly, self.below.get(match.id, 0)) if match.below else exactly


def _as_seen_by(caller: SpiffeId, external: External, as_of: datetime | None) -> External:
    """With the rules about a caller: they end when its membership does."""
    rules = external.allow if as_of is None else _in_time(external.allow, as_of)
    ends = ((rule, Terms.of(rule, caller).until) for rule in rules if rule.calls_from(caller))
    allow = tuple(rule if rule.expires == end else replace(rule, expires=end) for rule, end in ends)
    return replace(external, allow=allow)


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """The compiler's input.  ``svid_ttls`` holds the identities whose SVIDs live otherwise than by default.

    ``revocations`` is what is revoked, without what is over, and ``distrust`` which callees that concerns. ``as_of``
    is the latest of the intent's expiries that has passed, if any has: what lasts until then or less has ended.
    ``emergencies`` are the permissions of break-glass that hold, ``ended`` those that have ended. ``jwt_keys`` are the
    keys of the trust domain's JWT-SVIDs, as a JWK set, ``token_keys`` those of the mesh's own token service, whose
    tokens have ``token_issuer`` as ``iss``; ``fetched_keys`` are those of others, by the address that they come from.
    ``commit`` is the intent's, if it comes from a repository.
    ``read`` is the very intent that was read, where ``intent`` has
    parts of older ones.
    """

    intent: Intent
    instances: tuple[Instance, ...] = ()
    svid_ttls: Mapping[SpiffeId, timedelta] = field(default_factory=lambda: MappingProxyType({}))
    default_svid_ttl: timedelta = DEFAULT_SVID_TTL
    revocations: Revocations = field(default_factory=Revocations)
    distrust: Distrust = field(default_factory=Distrust)
    as_of: datetime | None = None
    emergencies: tuple[Emergency, ...] = ()
    ended: tuple[Emergency, ...] = ()
    jwt_keys: str = ""
    token_issuer: str = ""
    token_keys: str = ""
    fetched_keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    commit: str = ""
    read: Intent | None = field(default=None, repr=False)
    compiled: dict[tuple[str, str], Resource] = field(default_factory=dict, init=False, repr=False)
    """Endpoints as compiled already, by name and by the place that they are seen from."""
    _policies: dict[tuple[str, str], PortPolicy] = field(default_factory=dict, init=False, repr=False)
    """Of ports, as far as they follow from their services and the mesh alone."""

    def following(self, before: World | None) -> World:
        """The same world, with all that is equal in an earlier one taken from there."""
        if before is None:
            return self
        if self.intent is before.read:
            world = replace(self, intent=before.intent, read=before.read)
            world.__dict__.update({name: getattr(before, name) for name in _OF_THE_INTENT})
            world._policies.update(before._policies)
            return world
        services = _taken_over(before.intent.services, self.intent.services)
        mesh = before.intent.mesh if before.intent.mesh == self.intent.mesh else self.intent.mesh
        world = replace(
            self,
            intent=replace(self.intent, services=MappingProxyType(services), mesh=mesh),
            read=self.intent,
        )
        known, old = world.__dict__, before._offers
        kept = {
            name: old[name] for name, each in services.items() if name in old and old[name].service is each
        }
        offers = {name: kept.get(name) or _Offer.of(each) for name, each in services.items()}
        gone = [each for name, each in old.items() if name not in kept]
        come = [each for name, each in offers.items() if name not in kept]
        known["_offers"] = offers
        nothing = not (self.revocations.entries or before.revocations.entries)
        if self.instances == before.instances and (nothing or self.revocations is before.revocations):
            known["_instances"] = before._instances
            if _identities(gone) == _identities(come):
                known["_serving"] = before._serving
        known["_grants"] = _regranted(before._grants, gone, come)
        if mesh is before.intent.mesh:
            world._policies.update({key: each for key, each in before._policies.items() if key[0] in kept})
        if mesh.name == before.mesh.name and _called(gone) == _called(come):
            known["host_names"] = before.host_names
        return world

    @property
    def mesh(self) -> Mesh:
        """What holds for the whole mesh."""
        return self.intent.mesh

    @property
    def defaults(self) -> Defaults:
        """What holds for calls whose callee says nothing else."""
        return self.intent.mesh.defaults

    @property
    def decide(self) -> Decide:
        """Who decides where a proxy alone could."""
        return self.intent.mesh.decide

    @cached_property
    def issuers(self) -> Issuers:
        """Whose tokens count."""
        known = sorted(self.mesh.issuers.values(), key=lambda each: each.name)
        said = (self._issuer(each) for each in known)
        service = next((each.name for each in known if each.kind is IssuerKind.TOKENS), "")
        return Issuers(tuple(each for each in said if each.keys), str(self.mesh.trust_domain), service)

    def _issuer(self, issuer: Issuer) -> Issuer:
        """With its keys, where the intent does not have them."""
        match issuer.kind:
            case IssuerKind.SPIFFE:
                return replace(issuer, keys=self.jwt_keys)
            case IssuerKind.TOKENS:
                return replace(
                    issuer, issuer=self.token_issuer, keys=self.token_keys if self.token_issuer else ""
                )
            case IssuerKind.URL:
                return replace(issuer, keys=self.fetched_keys.get(issuer.url, ""))
            case IssuerKind.FILE:
                return issuer

    @property
    def version(self) -> str:
        """The intent's."""
        return self.intent.version

    def told(self, service: str) -> Told:
        """What callers of a service may learn of its denials: places are those of the intent that was read last."""
        read = self.read or self.intent
        return Told.of(read.services.get(service), read.version, self.commit)

    @cached_property
    def host_names(self) -> HostNames:
        """Which host names lead where."""
        return HostNames.of(self.mesh.name, self.intent.services.values())

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

    def gateway(self, spiffe_id: SpiffeId) -> Gateway | None:
        """The gateway of this identity."""
        return self._gateways.get(spiffe_id)

    def policy(self, service: str, port: str) -> PortPolicy:
        """All that decides about calls to one port of a service."""
        policy = in_time(self._policy(service, port), self.as_of)
        # What asks for a method or a path asks for HTTP.
        emergencies = tuple(
            rule
            for rule in self._emergencies.get(service, ())
            if rule.port in (None, port) and (policy.is_http or not (rule.methods or rule.paths))
        )
        return replace(policy, emergencies=emergencies) if emergencies else policy

    def _policy(self, service: str, port: str) -> PortPolicy:
        if (known := self._policies.get((service, port))) is not None:
            return known
        found = self.intent.services[service]
        policy = port_policy(self.intent, found, found.ports[port])
        if all(rule.when is None for rule in (*policy.deny, *policy.allow)):
            # Conditions ask for the labels of other services.
            self._policies[service, port] = policy
        return policy

    @property
    def refused(self) -> Refused:
        """What proxies refuse of callers, whatever rules say."""
        return refused_of(self.revocations)

    def crl_about(self, callee: SpiffeId) -> bytes:
        """The lists (PEM) to look at before a callee is believed; empty for none."""
        return self.distrust.lists_about(callee)

    def cut(self, policy: PortPolicy) -> str:
        """What was last taken from callers of a port; what it is worth is only that it changes.

        That is the newest revocation, and the end of the last permission of break-glass.  Of a revocation that names no
        identity nobody knows here whose it is: it concerns everybody.
        """
        newest = _newest(self.revocations)
        concerned = map(newest.of_callers, (*policy.allow, *policy.emergencies))
        revoked = _told(max(newest.others, max(concerned, default=0)))
        return "/".join(filter(None, (revoked, self._last_ended(policy))))

    def _last_ended(self, policy: PortPolicy) -> str:
        ended = [
            each
            for each in self._ended.get(policy.service, ())
            if each.port in ("", policy.port) and (policy.is_http or not (each.method or each.path))
        ]
        newest = max((each.ends_at for each in ended), default=None)
        if newest is None:
            return ""
        # What another server ended may seem to be older than what ended before.
        return ",".join(sorted(each.id for each in ended if newest - each.ends_at < _CLOCKS_APART))

    def cut_off(self, callee: SpiffeId) -> str:
        """The newest revocation that concerns a callee, likewise."""
        newest = _newest(self.revocations)
        others = newest.others if self.distrust.means(callee) else 0
        return _told(max(newest.identities.get(callee, 0), others))

    def traffic(self, service: str) -> Traffic:
        """What a service says about calls to it, without what has expired."""
        return self._traffic[service]

    def destination(self, name: str) -> Destination | None:
        """The destination that callers call ``name``, whether or not any rule allows them."""
        return self._destinations.get(name)

    def injecting(self, target: Destination) -> tuple[Rule, ...]:
        """The rules of a destination that let in who shows a token which callers' proxies are to send along."""
        offer = self._offers[target.service]
        if target.port.name not in offer.injecting or TOKENS_SERVICE not in self.intent.services:
            return ()
        return injecting(self.policy(target.service, target.port.name).allow)

    def outside(self, name: str, caller: SpiffeId) -> External | None:
        """The host outside that callers call ``name``, with the rules about this caller, possibly none."""
        external = self.intent.externals.get(name)
        return None if external is None else _as_seen_by(caller, external, self.as_of)

    def outside_for(self, caller: SpiffeId) -> tuple[External, ...]:
        """Every host outside by name, each with the rules about this caller, possibly none."""
        return tuple(
            _as_seen_by(caller, each, self.as_of) for _, each in sorted(self.intent.externals.items())
        )

    def instances_of(self, destination: Destination) -> tuple[Instance, ...]:
        """The instances that serve a destination with the destination's identity, by ID."""
        return self._serving.get((destination.service, destination.port.name), ())

    def allowed_for(self, caller: SpiffeId) -> frozenset[str]:
        """The names of the destinations that some rule lets ``caller`` call in some way."""
        exact = self._grants.get(IdentityMatch(id=caller), _NOBODY)
        if not (self._callers_below or self._emergencies):
            return exact
        below = (names for match, names in self._callers_below if match.matches(caller))
        return exact.union(*below, self._allowed_in_emergency(caller))

    def _allowed_in_emergency(self, caller: SpiffeId) -> Iterator[str]:
        for service, rules in self._emergencies.items():
            known = self.intent.services.get(service)
            if known is None or not may_call(rules, caller):
                continue
            for each in destinations_of(known):
                if may_call(self.policy(service, each.port.name).emergencies, caller, each.port.name):
                    yield each.name

    @cached_property
    def _emergencies(self) -> dict[str, tuple[Rule, ...]]:
        """By service, in the order in which they were opened."""
        found: defaultdict[str, list[Rule]] = defaultdict(list)
        for each in self.emergencies:
            found[each.service].append(rule_of(each))
        return {service: tuple(rules) for service, rules in found.items()}

    @cached_property
    def _ended(self) -> dict[str, list[Emergency]]:
        """By service."""
        found: defaultdict[str, list[Emergency]] = defaultdict(list)
        for each in self.ended:
            found[each.service].append(each)
        return found

    @cached_property
    def _instances(self) -> dict[str, Instance]:
        return {each.id: each for each in self.instances}

    @cached_property
    def _services(self) -> dict[SpiffeId, Service]:
        return {each.spiffe_id: each for each in self.intent.services.values()}

    @cached_property
    def _gateways(self) -> dict[SpiffeId, Gateway]:
        return {each.spiffe_id: each for each in self.intent.gateways.values()}

    @cached_property
    def _destinations(self) -> dict[str, Destination]:
        return {each.name: each for offer in self._offers.values() for each in offer.destinations}

    @cached_property
    def _traffic(self) -> dict[str, Traffic]:
        return {name: in_force(each.traffic, self.as_of) for name, each in self.intent.services.items()}

    @cached_property
    def _serving(self) -> dict[tuple[str, str], tuple[Instance, ...]]:
        serving: defaultdict[tuple[str, str], list[Instance]] = defaultdict(list)
        for each in sorted(self.instances, key=lambda instance: instance.id):
            service = self.intent.services.get(each.service)
            if service is not None and service.spiffe_id == each.spiffe_id and not self._is_out(each):
                for port in each.ingress:
                    serving[each.service, port].append(each)
        return {key: tuple(found) for key, found in serving.items()}

    def _is_out(self, instance: Instance) -> bool:
        """Whether its identity is revoked for good, so that nobody may call it."""
        known = self.revocations.get(f"{RevokedIdentity.kind}:{instance.spiffe_id}")
        target = None if known is None else known.target
        return isinstance(target, RevokedIdentity) and target.issued_before is None

    @cached_property
    def _offers(self) -> dict[str, _Offer]:
        return {name: _Offer.of(each) for name, each in self.intent.services.items()}

    @cached_property
    def _grants(self) -> Grants:
        return _regranted({}, (), self._offers.values())

    @cached_property
    def _callers_below(self) -> tuple[tuple[IdentityMatch, frozenset[str]], ...]:
        return tuple((match, names) for match, names in self._grants.items() if match.below)


_OF_THE_INTENT: Final = (
    "_offers",
    "_grants",
    "_services",
    "_gateways",
    "_destinations",
    "_callers_below",
    "host_names",
)
"""What follows from an intent alone."""

_NOBODY: Final[frozenset[str]] = frozenset()
_Value = TypeVar("_Value")


def _taken_over(before: Mapping[str, _Value], now: Mapping[str, _Value]) -> dict[str, _Value]:
    return {
        name: old if (old := before.get(name)) is each or old == each else each for name, each in now.items()
    }


def _regranted(before: Grants, gone: Iterable[_Offer], come: Iterable[_Offer]) -> Grants:
    """The grants without those of some services, and with those of others."""
    grants = dict(before)
    for offer in gone:
        for match, names in offer.grants.items():
            if left := grants[match] - names:
                grants[match] = left
            else:
                del grants[match]
    for offer in come:
        for match, names in offer.grants.items():
            grants[match] = grants.get(match, frozenset()) | names
    return grants


def _identities(offers: Iterable[_Offer]) -> dict[str, SpiffeId]:
    return {each.service.name: each.service.spiffe_id for each in offers}


def _called(offers: Iterable[_Offer]) -> dict[str, tuple[Destination, ...]]:
    return {offer.service.name: offer.destinations for offer in offers}
