"""What people ask for, once it has been read, checked and every name in it resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Final

from vestibule.errors import Where
from vestibule.intent.outside import External, Gateway
from vestibule.intent.secret_groups import SecretGroup
from vestibule.intent.token_groups import TokenGroup
from vestibule.intent.traffic import CircuitLimits, OutlierDetection, Retry, Traffic
from vestibule.policy import IdentityMatch, Rule
from vestibule.records import Boundary
from vestibule.spiffe import SpiffeId, TrustDomain

DEFAULT_TIMEOUT: Final = timedelta(seconds=15)
DEFAULT_TEMPLATE: Final = "/ns/{environment}/sa/{service}"


class Protocol(Enum):
    """What is spoken on a port.  ``MCP`` is HTTP whose answers may be streams of events."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"
    MCP = "mcp"

    @property
    def is_http(self) -> bool:
        """Whether requests have methods and paths that rules can speak of."""
        return self is not Protocol.TCP

    @property
    def lasts(self) -> bool:
        """Whether an answer may go on for as long as it likes, so that no timeout holds unless one is said."""
        return self in (Protocol.GRPC, Protocol.MCP)


class DenyDetail(Enum):
    """What a denied caller is told besides the status: code and request id, or also rule and version."""

    CODE = "code"
    CALLER = "caller"


class Authorization(Enum):
    """What becomes of the Authorization header of calls to a port, once rules have seen it."""

    FORWARD = "forward"
    """The app gets it."""
    STRIP = "strip"
    """The app does not."""
    REFUSE = "refuse"
    """Calls with one are refused: no rule of the port asks for a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for every service unless it says otherwise.  ``timeout`` is for a whole request."""

    timeout: timedelta = DEFAULT_TIMEOUT
    retry: Retry = Retry()
    circuit: CircuitLimits = CircuitLimits()
    outlier: OutlierDetection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a new intent reaches the proxies: ``first`` per cent of each service's at once, the rest after ``watch``.

    During ``watch`` (also after the last wave) a refusal, or ``errors`` per cent more failed requests than before,
    goes back to the last good intent.
    """

    first: int = 100
    watch: timedelta = timedelta(seconds=10)
    errors: float = 5.0


class Decide(Enum):
    """Who decides about calls: the callee's proxy, unless a rule needs more than it knows, or always the decision
    service."""

    LOCAL = "local"
    CENTRAL = "central"


class IssuerKind(Enum):
    """Where the keys of an issuer come from."""

    FILE = "file"
    """From a file of the intent."""
    URL = "url"
    """From an address of the issuer's (RFC 8414, ``jwks_uri``), which the server asks."""
    SPIFFE = "spiffe"
    """The tokens are JWT-SVIDs of the mesh's own trust domain, whose keys the server knows."""
    TOKENS = "tokens"
    """It is the mesh's own token service, whose keys and address the server knows."""

    @property
    def is_outside(self) -> bool:
        """Whether it is somebody else's."""
        return self in (IssuerKind.FILE, IssuerKind.URL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Whose JWTs count: the ``iss`` claim, and the issuer's public keys as a JWK set (RFC 7517), in JSON.

    ``longest`` is the longest life of a token that is accepted.  Except of ``IssuerKind.FILE``, ``keys`` is empty until
    the server has said them; ``url`` is where it asks for them.  ``issuer`` is empty of ``IssuerKind.TOKENS`` until the
    server has said it, and of ``IssuerKind.SPIFFE`` where any is fine.  ``audiences`` are those that its tokens may
    have, besides our own token service, to be traded for ours.
    """

    name: str
    issuer: str
    keys: str = field(default="", repr=False)
    longest: timedelta | None = None
    kind: IssuerKind = IssuerKind.FILE
    url: str = ""
    audiences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """``mesh.yaml``.  A role's members are resolved; a rule that names a role holds them already.

    ``role_places`` are where roles are written, ``unused_roles`` those that no rule speaks of; both are no part of its
    value.
    """

    name: str
    trust_domain: TrustDomain
    environment: str
    identity_template: str = DEFAULT_TEMPLATE
    defaults: Defaults = Defaults()
    rollout: Rollout = Rollout()
    roles: Mapping[str, tuple[IdentityMatch, ...]] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )
    issuers: Mapping[str, Issuer] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    decide: Decide = Decide.LOCAL
    role_places: Mapping[str, Where] = field(
        default_factory=lambda: MappingProxyType({}), hash=False, compare=False, repr=False
    )
    unused_roles: frozenset[str] = field(default=frozenset(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of a service.  ``app_port`` is where the app listens; None lets the sidecar choose."""

    name: str
    protocol: Protocol
    app_port: int | None = None
    authorization: Authorization = Authorization.FORWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """``services/NAME.yaml``.  Every rule has its ``port`` set; what no rule under ``allow`` allows is denied."""

    name: str
    spiffe_id: SpiffeId
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    ports: Mapping[str, Port] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    deny_detail: DenyDetail = DenyDetail.CODE
    traffic: Traffic = Traffic()
    where: Where | None = field(default=None, compare=False, repr=False)

    def rules_for(self, port: str) -> tuple[Rule, ...]:
        """The rules that allow something on one port."""
        return tuple(rule for rule in self.allow if rule.port in (None, port))

    def denials_for(self, port: str) -> tuple[Rule, ...]:
        """The rules that deny something on one port."""
        return tuple(rule for rule in self.deny if rule.port in (None, port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A whole, valid intent; ``version`` is a short hash of the files it was read from."""

    mesh: Mesh
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    externals: Mapping[str, External] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    gateways: Mapping[str, Gateway] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    secrets: Mapping[str, SecretGroup] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    tokens: Mapping[str, TokenGroup] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    version: str = "none"

    @property
    def identities(self) -> Mapping[str, SpiffeId]:
        """Whoever calls by a name of their own: gateways and services."""
        gateways = {name: each.spiffe_id for name, each in self.gateways.items()}
        return gateways | {name: each.spiffe_id for name, each in self.services.items()}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Whatever is allowed or denied in any file."""
        said = [(*each.allow, *each.deny) for each in self.services.values()]
        said += [each.allow for each in self.externals.values()]
        said += [(*each.allow, *each.deny) for each in self.secrets.values()]
        said += [(*each.allow, *each.deny) for each in self.tokens.values()]
        return tuple(rule for rules in said for rule in rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """How ``vestibule up`` starts one service: a command, its directory being the intent's own.

    ``others`` are further versions that run beside it.
    """

    service: str
    run: tuple[str, ...]
    version: str = "v1"
    instances: int = 1
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    others: tuple[App, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpFile:
    """``up.yaml``, apps by service name; gateways have none."""

    apps: Mapping[str, App] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    gateways: tuple[str, ...] = ()
    boundary: Boundary = Boundary.TRUST
