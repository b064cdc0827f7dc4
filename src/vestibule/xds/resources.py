"""xDS resources as immutable bytes, shared by every stream that serves them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Protocol

from vestibule.spiffe import SpiffeId

_PREFIX: Final = "type.googleapis.com/envoy."
LISTENER: Final = _PREFIX + "config.listener.v3.Listener"
CLUSTER: Final = _PREFIX + "config.cluster.v3.Cluster"
ROUTES: Final = _PREFIX + "config.route.v3.RouteConfiguration"
ENDPOINTS: Final = _PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
SECRET: Final = _PREFIX + "extensions.transport_sockets.tls.v3.Secret"
EXTENSION: Final = _PREFIX + "config.core.v3.TypedExtensionConfig"
TOKEN_BUCKET: Final = _PREFIX + "type.v3.TokenBucket"
DECISIONS: Final = "type.googleapis.com/vestibule.policy.v1.PortPolicy"
"""A port's policy for the decision service beside a proxy, named as the port (``policy.documents``); not for Envoy."""

AGGREGATED_TYPES: Final = (EXTENSION, CLUSTER, ENDPOINTS, LISTENER, ROUTES, TOKEN_BUCKET)
"""What a proxy gets over ADS.  Secrets have a stream of their own (SDS)."""

RELAYED_TYPES: Final = (DECISIONS, *AGGREGATED_TYPES)
"""What an agent gets for a proxy over ADS: all that the proxy gets, and what it decides by itself in its place."""


def short_hash(*parts: str | bytes) -> str:
    """16 hex digits that name these parts, in this order, whatever they contain."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Resource:
    """One named resource.  ``body`` is the serialised message of type ``type_url``."""

    type_url: str
    name: str
    body: bytes = field(repr=False)
    version: str
    entry: bytes | None = field(default=None, init=False, repr=False, compare=False)
    """As part of a response, once it was written (``xds.protobuf``): everybody is sent the same bytes."""
    patch: tuple[str, bytes | None] | None = field(default=None, init=False, repr=False, compare=False)
    """The same for those who have this version already, if that is shorter (``xds.patches``)."""

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> Resource:
        """A resource whose version is a hash of its bytes: same bytes, same version, also after a restart."""
        return cls(type_url, name, body, short_hash(body))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one proxy should have.  ``version`` names what it was made from (the intent's version).

    ``known`` are the types whose set is complete: a type outside it is not answered yet, where one that is
    known and has no resources is answered as empty.  ``None`` means that all are.  ``revision`` counts up
    within one source, for sources that want to recognise their own snapshots again.
    """

    version: str
    resources: Mapping[str, Mapping[str, Resource]]
    known: frozenset[str] | None = None
    revision: int = field(default=0, compare=False)

    @classmethod
    def of(cls, version: str, resources: Iterable[Resource], *, before: Snapshot | None = None) -> Snapshot:
        """Group resources by type; types that are as in the snapshot ``before`` are the same objects again.

        Raises: ValueError for a name that occurs twice in a type.

        The version of a cluster becomes part of the version of its endpoints: Envoy keeps a changed cluster
        warming until endpoints arrive anew, even if they are the same, and does not always ask for them.
        """
        grouped: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            names = grouped.setdefault(resource.type_url, {})
            if resource.name in names:
                raise ValueError(f"resource {resource.name!r} of {resource.type_url} occurs twice")
            names[resource.name] = resource
        clusters = grouped.get(CLUSTER, {})
        for name, endpoints in grouped.get(ENDPOINTS, {}).items():
            if (cluster := clusters.get(name)) is not None:
                grouped[ENDPOINTS][name] = _behind(endpoints, cluster.version)
        types: dict[str, Mapping[str, Resource]] = {}
        for url, by_name in grouped.items():
            same = before.of_type(url) if before is not None else None
            types[url] = same if same == by_name else MappingProxyType(by_name)
        return cls(version, MappingProxyType(types))

    def relabelled(self, version: str) -> Snapshot:
        """The same resources, made from another version of the intent."""
        if version == self.version:
            return self
        return Snapshot(version, self.resources, self.known, self.revision)

    def with_resources(self, *changed: Resource) -> Snapshot:
        """The same with other resources in place of those of their names; names that it has not are left out."""
        others: dict[str, dict[str, Resource]] = {}
        for each in changed:
            by_name = self.of_type(each.type_url)
            if each.name in by_name and by_name[each.name] != each:
                others.setdefault(each.type_url, {})[each.name] = each
        if not others:
            return self
        types = dict(self.resources)
        types.update({url: MappingProxyType({**types[url], **named}) for url, named in others.items()})
        return Snapshot(self.version, MappingProxyType(types), self.known, self.revision)

    def fitted(self, resource: Resource) -> Resource:
        """The resource as it is among these: endpoints with the version of their cluster in theirs (``of``)."""
        if resource.type_url != ENDPOINTS:
            return resource
        cluster = self.of_type(CLUSTER).get(resource.name)
        return resource if cluster is None else _behind(resource, cluster.version)

    def is_as(self, other: Snapshot) -> bool:
        """Whether both hold the same, whatever their versions."""
        return self.resources is other.resources or self.resources == other.resources

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type by name; empty when there are none."""
        return self.resources.get(type_url, _NONE)

    def knows(self, type_url: str) -> bool:
        """Whether the resources of this type are all there."""
        return self.known is None or type_url in self.known


@lru_cache(maxsize=8192)
def _behind(endpoints: Resource, cluster_version: str) -> Resource:
    """Endpoints of a cluster of this version."""
    return replace(endpoints, version=short_hash(endpoints.version, cluster_version))


_NONE: Final[Mapping[str, Resource]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ProxyKey:
    """Which proxy: the identity it was attested to have, and the instance it stands beside."""

    spiffe_id: SpiffeId
    instance_id: str


class SnapshotSource(Protocol):
    """Where a door gets a proxy's snapshots from: the publisher on the server, the relay on the agent."""

    def watch(self, proxy: ProxyKey) -> AsyncIterator[Snapshot]:
        """The snapshot as soon as there is one, then every newer one; skipped ones are not made up for."""
        ...
