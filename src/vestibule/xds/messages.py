"""What goes over an xDS stream, as values, and what a stream tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vestibule.xds.resources import Resource, Snapshot

WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    """``DeltaDiscoveryRequest``.  ``node_id`` is None where the message has no node; ``error`` is a NACK's text."""

    type_url: str
    node_id: str | None = None
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaResponse:
    """``DeltaDiscoveryResponse``.  ``version`` is for people; each resource has its own."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwRequest:
    """``DiscoveryRequest``: the whole subscription every time."""

    type_url: str
    node_id: str | None = None
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwResponse:
    """``DiscoveryResponse``."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...] = ()


class Sent(NamedTuple):
    """A response was handed out.  ``version`` is the snapshot's."""

    type_url: str
    version: str
    nonce: str


class Accepted(NamedTuple):
    """The client took a response (ACK)."""

    type_url: str
    version: str
    nonce: str


class Refused(NamedTuple):
    """The client did not take a response (NACK), and said why."""

    type_url: str
    version: str
    nonce: str
    error: str


class Settled(NamedTuple):
    """All there is to do about one type of a snapshot is done: it was taken, save the names in ``refused``.

    Resources that the client did not ask for count as taken; ``asked`` is whether it asked for any of the type.
    """

    type_url: str
    snapshot: Snapshot
    refused: Mapping[str, str]
    asked: bool = True


Event = Sent | Accepted | Refused | Settled
