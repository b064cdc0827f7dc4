"""Clients that are configured without a registered instance: Envoys of somebody's own, and gRPC without any proxy.

They have an identity, and so a service that may call others; where they listen is their own business.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ProxyKey, short_hash

LONGEST_NODE: Final = 100
_GRPC: Final = "grpc"


class ClientKind(Enum):
    """What a client understands."""

    ENVOY = "envoy"
    GRPC = "grpc"

    @classmethod
    def of(cls, user_agent: str) -> ClientKind:
        """By the name that a client gives itself in its node (``gRPC C-core …``, ``grpc-go``, ``envoy``)."""
        return cls.GRPC if _GRPC in user_agent.lower() else cls.ENVOY


def client_key(spiffe_id: SpiffeId, kind: ClientKind, node_id: str) -> ProxyKey:
    """A client as a proxy.  No instance has such an id, since theirs have no colon."""
    short = 0 < len(node_id) <= LONGEST_NODE and node_id.isascii() and node_id.isprintable()
    return ProxyKey(spiffe_id, f"{kind.value}:{node_id if short else short_hash(node_id)}")


def client_kind(proxy: ProxyKey) -> ClientKind | None:
    """What kind of client this is; None for the proxy of an instance."""
    kind, colon, _ = proxy.instance_id.partition(":")
    return ClientKind(kind) if colon and kind in ("envoy", "grpc") else None
