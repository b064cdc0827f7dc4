"""The records of the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where something listens: ``127.0.0.1:8080``, ``[::1]:8080`` or ``unix:/path/to.sock``."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read one of the three forms.  Raises: ValueError, which the caller turns into its own error."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"{text!r} is not an absolute socket path")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host=host.removeprefix("[").removesuffix("]"), port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Health(Enum):
    """What is known of an app.

    Nothing is asked of it; it has not yet answered well for the first time, or its proxy does not listen yet; it is
    well; it is not; or it is about to stop.
    """

    UNKNOWN = "unknown"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a renewal says: which instance, whose identity, and the ``state`` in which it was registered last."""

    instance_id: str
    spiffe_id: SpiffeId
    state: bytes


class Boundary(Enum):
    """How an app and its sidecar are kept apart from other processes of the host.

    ``TRUST``: loopback TCP, open to every process of the host.  ``UNIX``: sockets owned by the
    service's uid, mode 0600.  ``GUARD``: loopback TCP behind packet filters that know uids.  ``NETNS``: both in a
    network namespace of their own, which others enter through the sidecar only.
    """

    TRUST = "trust"
    UNIX = "unix"
    GUARD = "guard"
    NETNS = "netns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running copy of a service with its sidecar, as its agent registered it.

    ``ingress`` is where the sidecar accepts mTLS from other sidecars, ``apps`` where the app itself
    listens, both by port name.  ``egress`` is the app's way out; ``upstreams`` are dedicated listeners
    for one destination each, named ``payments`` or, where a service has several ports, ``payments/grpc``.
    ``locality`` is ``region`` or ``region/zone``.
    """

    id: str
    service: str
    spiffe_id: SpiffeId
    agent_id: SpiffeId
    version: str = "v1"
    ingress: Mapping[str, Address] = field(default_factory=dict)
    apps: Mapping[str, Address] = field(default_factory=dict)
    egress: Address | None = None
    upstreams: Mapping[str, Address] = field(default_factory=dict)
    boundary: Boundary = Boundary.TRUST
    locality: str = ""
    health: Health = Health.UNKNOWN
    lease_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortView:
    """One port of a service: its name and its protocol (``http``, ``http2``, ``grpc`` or ``tcp``).

    A gateway's ports are its listeners: ``listen`` is where, and ``certificate`` and ``key`` are files on its host,
    empty for plain text.
    """

    name: str
    protocol: str
    listen: Address | None = None
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamView:
    """A destination that a service may call; ``name`` is ``payments``, or ``payments/grpc`` among several ports."""

    name: str
    service: str
    port: str
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """The process that keeps an instance, its sidecar: whose it is, and in whose network its app listens."""

    uid: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """How an agent learns whether an app is well; times in seconds.

    ``kind`` is ``http``, ``grpc`` or ``tcp``, and ``port`` one of the service that speaks it.
    """

    kind: str
    port: str
    path: str = "/"
    grpc_service: str = ""
    every: float = 5.0
    timeout: float = 1.0
    unhealthy: int = 3
    healthy: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """A service as its own sidecar sees it, before any listener exists.

    ``intent_commit`` is that of ``intent_version``, where intents come from git.  ``places`` are where its rules that
    deny are written (``services/payments.yaml:14``), by their names, and by its own name the file of what allows; the
    same of the hosts outside that it may call, by ``external:NAME``.
    """

    service: str
    spiffe_id: SpiffeId
    ports: tuple[PortView, ...]
    upstreams: tuple[UpstreamView, ...]
    intent_version: str
    mesh: str
    environment: str
    check: CheckView | None = None
    intent_commit: str = ""
    places: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_gateway(self) -> bool:
        """Whether this is a way in from outside, which has no app."""
        return any(port.listen is not None for port in self.ports)
