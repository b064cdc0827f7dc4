"""How calls to a service travel: which of its versions they reach, how often they are tried, and what bounds them.

All of it is said by the service that is called, once for all callers.  Envoy's own terms are used where it has some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from vestibule.errors import Where
from vestibule.policy import PathPattern, Rule

# ------------------------------------------------------------------------------------------- matches


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """One header or query parameter.  ``equals`` or ``prefix`` is set, or neither: it only has to be there.

    With ``absent`` it must not be there.  Header names are lower case.
    """

    name: str
    equals: str | None = None
    prefix: str | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMatch:
    """Which requests a route is for; each part that is given must match.

    ``hosts`` is for gateways only.  ``path`` None is every path.
    """

    path: PathPattern | None = None
    methods: frozenset[str] = frozenset()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    hosts: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------ what to do


class RetryOn(Enum):
    """Which outcomes of a try allow another one; those of Envoy's ``retry_on`` that the language offers.

    ``on: [503]`` in the language becomes ``Retry.statuses``.
    """

    CONNECT_FAILURE = "connect-failure"
    REFUSED_STREAM = "refused-stream"
    RESET_BEFORE_REQUEST = "reset-before-request"
    RESET = "reset"
    GATEWAY_ERROR = "gateway-error"
    SERVER_ERROR = "5xx"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    RESOURCE_EXHAUSTED = "resource-exhausted"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """At most ``percent`` of the requests in flight may be retries; ``least`` of them are always allowed."""

    percent: float = 20.0
    least: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """``attempts`` counts every try, the first as well; 1 means no retries.  ``per_try`` bounds one try.

    ``statuses`` are answers that are tried again.  ``backoff`` is the first pause, doubled and with jitter after.
    """

    attempts: int = 3
    on: tuple[RetryOn, ...] = (
        RetryOn.CONNECT_FAILURE,
        RetryOn.REFUSED_STREAM,
        RetryOn.RESET_BEFORE_REQUEST,
    )
    statuses: tuple[int, ...] = ()
    per_try: timedelta | None = None
    backoff: timedelta = timedelta(milliseconds=25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """If no answer came ``after`` this time, another try is sent beside the first; the first answer wins.

    At most ``attempts`` tries in all, the first as well.
    """

    after: timedelta
    attempts: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of a split: ``weight`` per cent of the requests go to a version."""

    version: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """``path`` takes the place of the pattern's literal part (``/v1`` of ``/v1/**``), or of the whole exact path.

    ``host`` is the ``Host`` that the callee sees.
    """

    path: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The caller is sent elsewhere.  ``path`` as in ``Rewrite``."""

    path: str | None = None
    host: str | None = None
    https: bool = False
    status: int = 302

    @property
    def is_only_to_https(self) -> bool:
        """Whether it does no more than lead from plain text to TLS; where TLS is spoken it means nothing."""
        return self.https and self.path is None and self.host is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A copy of ``percent`` of the requests goes to another version or service; its answers are dropped.

    Exactly one of ``version`` and ``service`` is set; ``port`` belongs to ``service``.
    The mirrored service must allow the callers itself.
    """

    percent: float = 100.0
    version: str | None = None
    service: str | None = None
    port: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Trouble made on purpose, by the callers' proxies, which ends at ``until`` by itself."""

    until: datetime
    delay: timedelta | None = None
    delay_percent: float = 100.0
    abort: int | None = None
    abort_percent: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteToken:
    """What a gateway asks of requests from outside: a token of an issuer of ``mesh.yaml``, for an audience.

    Nobody's identity is bound to it, since those who come from outside have none.
    """

    issuer: str
    audience: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One entry of ``routes``, the first that matches decides.  ``name`` is ``service/id``, as logs show it.

    ``split`` without shares means every version.  ``port`` is set after checking.  ``service`` and ``service_port``
    name where a gateway's route leads, and ``token`` what it asks for; a service's own routes lead to the service.
    What is None here falls back to the service, then to the mesh's defaults.
    """

    name: str
    match: RouteMatch = RouteMatch()
    port: str | None = None
    split: tuple[Share, ...] = ()
    service: str | None = None
    service_port: str | None = None
    token: RouteToken | None = None
    rewrite: Rewrite | None = None
    redirect: Redirect | None = None
    timeout: timedelta | None = None
    idle_timeout: timedelta | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    mirror: tuple[Mirror, ...] = ()
    fault: Fault | None = None
    where: Where | None = field(default=None, compare=False, repr=False)


# ----------------------------------------------------------------------------------------- what bounds


class CheckKind(Enum):
    """What an agent does to learn whether an app is well."""

    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Asked of the app by its own agent.  ``path`` is for HTTP, ``grpc_service`` for ``grpc.health.v1``.

    ``port`` None is the first port whose protocol fits.  An instance leaves after ``unhealthy`` failures in a row and
    comes back after ``healthy`` successes.
    """

    kind: CheckKind
    path: str = "/"
    grpc_service: str = ""
    port: str | None = None
    every: timedelta = timedelta(seconds=5)
    timeout: timedelta = timedelta(seconds=1)
    unhealthy: int = 3
    healthy: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimits:
    """What one caller's proxy may have in flight to the service, per priority; beyond it calls fail at once (UO)."""

    connections: int | None = None
    pending: int | None = None
    requests: int | None = None
    budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When a caller's proxy leaves an instance out for a while, by what it sees of its answers."""

    consecutive: int = 5
    interval: timedelta = timedelta(seconds=10)
    eject_for: timedelta = timedelta(seconds=30)
    most_percent: int = 50


class LimitPer(Enum):
    """What a rate limit counts."""

    ALL = "all"
    CALLER = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``requests`` per ``window``, at each instance of the service; ``burst`` at once (``requests`` if None).

    ``port`` None is every HTTP port, ``path`` None every path.
    """

    requests: int
    window: timedelta = timedelta(seconds=1)
    per: LimitPer = LimitPer.ALL
    burst: int | None = None
    port: str | None = None
    path: PathPattern | None = None
    where: Where | None = field(default=None, compare=False, repr=False)


class Nearness(Enum):
    """How far callers look first: their own zone, their own region, or everywhere alike."""

    ZONE = "zone"
    REGION = "region"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    """Nearer instances are preferred while enough of them are healthy.

    ``failover`` are regions in the order in which they are tried after the caller's own; others come last.
    """

    prefer: Nearness = Nearness.ANY
    failover: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissive:
    """Plain text is accepted too, ``until`` the day it no longer is.

    Who calls in plain text is nobody: no rule of the service's own ``allow`` speaks of such callers.  What they may do
    is said by ``allow`` here, rules without callers, named ``service/plaintext/rule-id``; nothing else is allowed.
    """

    until: datetime
    reason: str
    allow: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """All that a service says about calls to it beside who may make them.  None: the mesh's default."""

    versions: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    timeout: timedelta | None = None
    retry: Retry | None = None
    health: HealthCheck | None = None
    circuit: CircuitLimits | None = None
    outlier: OutlierDetection | None = None
    limits: tuple[RateLimit, ...] = ()
    locality: Locality | None = None
    permissive: Permissive | None = None
