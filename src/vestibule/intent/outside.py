"""What lies outside the mesh: hosts that services may call, and the gateway through which the outside comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from vestibule.errors import Where
from vestibule.intent.traffic import Route, Traffic
from vestibule.policy import Rule
from vestibule.spiffe import SpiffeId


class OutsideTls(Enum):
    """How an outside host is spoken to: verified by public or given CAs, or in plain text."""

    WEBPKI = "webpki"
    NONE = "none"


class OutsideProtocol(Enum):
    """What is spoken to an outside host."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """``api.stripe.com:443``: a DNS name or an IP address, and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A header that the proxy adds, its value read from a file of the caller's host; the app never sees it."""

    header: str
    file: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """``egress/NAME.yaml``: hosts outside, who may call them, and how.

    Rules are named ``egress/NAME/rule-id`` and have no port.  ``hosts`` are tried by DNS, all alike; ``addresses``,
    when given, are dialled instead, while names are still verified.  ``ca`` are PEM certificates in place of the
    host's public ones.  Traffic without routes or versions: timeout, retry, circuit limits, outlier detection, limits.
    """

    name: str
    hosts: tuple[HostPort, ...]
    addresses: tuple[HostPort, ...] = ()
    protocol: OutsideProtocol = OutsideProtocol.HTTP
    tls: OutsideTls = OutsideTls.WEBPKI
    ca: str | None = None
    sni: str | None = None
    allow: tuple[Rule, ...] = ()
    credential: Credential | None = None
    traffic: Traffic = Traffic()
    owner: str | None = None
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTls:
    """Where a gateway's certificate and key are, as files of its host: they are no part of the intent."""

    certificate: str
    key: str


DEFAULT_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - being reachable is what a gateway is for


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayListener:
    """One port where the outside connects; without ``tls`` in plain text."""

    name: str
    port: int
    address: str = DEFAULT_ADDRESS
    tls: GatewayTls | None = None
    hosts: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """``gateways/NAME.yaml``: has an identity as services do, and calls them under their rules.

    ``routes`` have ``service`` set.  What no route matches is answered 404.
    """

    name: str
    spiffe_id: SpiffeId
    listeners: Mapping[str, GatewayListener] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    routes: tuple[Route, ...] = ()
    owner: str | None = None
    where: Where | None = field(default=None, compare=False, repr=False)
