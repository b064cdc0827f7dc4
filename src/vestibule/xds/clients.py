"""Clients that are configured without a registered instance: Envoys of somebody's own, and gRPC without any proxy.

They have an identity, and so a service that may call others; where they listen is their own business.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ProxyKey

_GRPC: Final = "grpc"


class ClientKind(Enum):
    """What a client understands."""

    ENVOY = "envoy"
    GRPC = "grpc"

    @classmethod
    def of(cls, user_agent: str) -> ClientKind:
        """By the name that a client gives itself in its node (``gRPC C-core …``, ``grpc-go``, ``envoy``)."""
        return cls.GRPC if _GRPC in user_agent.lower() else cls.ENVOY


def client_key(spiffe_id: SpiffeId, kind: ClientKind) -> ProxyKey:
    """The clients of one identity and kind, as a proxy: all get the same, whatever they call themselves.

    Were their nodes' names part of it, anybody with an identity could make as many proxies as he can make up names.
    No instance has such an id, since theirs have no colon.
    """
    return ProxyKey(spiffe_id, f"{kind.value}:client")


def client_kind(proxy: ProxyKey) -> ClientKind | None:
    """What kind of client this is; None for the proxy of an instance."""
    kind, colon, _ = proxy.instance_id.partition(":")
    return ClientKind(kind) if colon and kind in ("envoy", "grpc") else None
