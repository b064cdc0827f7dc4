"""xDS resources as immutable bytes, shared by every stream that serves them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Resource:
    """One named resource.  ``body`` is the serialised message of type ``type_url``."""

    type_url: str
    name: str
    body: bytes = field(repr=False)
    version: str

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> Resource:
        """A resource whose version is a hash of its bytes: same bytes, same version, also after a restart."""
        return cls(type_url, name, body, hashlib.sha256(body).hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one proxy should have.  ``version`` names what it was made from (the intent's version)."""

    version: str
    resources: Mapping[str, Mapping[str, Resource]]

    @classmethod
    def of(cls, version: str, resources: Iterable[Resource]) -> Snapshot:
        """Group resources by type.  Raises: ValueError for a name that occurs twice in a type."""
        grouped: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            names = grouped.setdefault(resource.type_url, {})
            if resource.name in names:
                raise ValueError(f"resource {resource.name!r} of {resource.type_url} occurs twice")
            names[resource.name] = resource
        return cls(version, MappingProxyType({url: MappingProxyType(by) for url, by in grouped.items()}))

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type by name; empty when there are none."""
        return self.resources.get(type_url, {})


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
