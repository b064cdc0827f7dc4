"""The layers of a call, in the order in which a cause in one hides those behind it."""

from __future__ import annotations

from enum import Enum


class Layer(Enum):
    """Who or what has to be looked at; ``value`` is the word that people read."""

    CLIENT = "client"
    """What the caller's app asked for, or that it left."""
    INTENT = "intent"
    """What the intent says."""
    CONTROL_PLANE = "control plane"
    """What the proxies were told: late, refused by them, or not at all."""
    IDENTITY = "identity"
    """Certificates, trust bundles, entries, clocks."""
    TLS = "tls"
    """The handshake, where neither identity is to blame."""
    DNS = "dns"
    """Names that are not found."""
    NETWORK = "network"
    """Packets that do not arrive, ports that nobody listens at."""
    ROUTING = "routing"
    """No route, or one that leads nowhere."""
    DISCOVERY = "discovery"
    """No instance that may be used."""
    AUTHORIZATION = "authorization"
    """A rule said no, or none said yes."""
    TOKEN = "token"  # noqa: S105 - a layer's name
    """The access token of a request."""
    LIMITS = "limits"
    """Rate limits, circuit limits, timeouts and overload."""
    PROXY = "proxy"
    """The proxy itself."""
    SECRETS = "secrets"
    """The secret manager."""
    APPLICATION = "application"
    """The called app: it answered, broke off, or did not answer in time."""
