"""What one user of this host, or one other host, may take of a server at a time, so that nobody takes all of it.

Sockets that everybody may open are shared by callers who do not know each other.  What a server has little of
(descriptors, memory for messages that are still arriving) is therefore counted per peer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from vestibule.net.codes import TOO_MUCH_AT_ONCE
from vestibule.net.peer import Peer

_LEAST_CONNECTIONS: Final = 16
_MOST_CONNECTIONS: Final = 4096
_OF_ALL_DESCRIPTORS: Final = 8
"""A peer gets this part of them as connections; one over a Unix socket takes two."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Open connections, calls under way, and bytes of messages that are still arriving, of one peer."""

    connections: int
    calls: int = 16_384
    message_bytes: int = 64 * 2**20


def usual_quota() -> Quota:
    """A quota that leaves descriptors for everybody else, after asking for as many as we may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        # The soft limit of many systems is 1024.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    descriptors = _MOST_CONNECTIONS * _OF_ALL_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    part = descriptors // _OF_ALL_DESCRIPTORS
    return Quota(connections=min(max(part, _LEAST_CONNECTIONS), _MOST_CONNECTIONS))


class Share:
    """What one peer has taken."""

    def __init__(self, who: str, quota: Quota) -> None:
        self.who = who
        self.connections = 0
        self.told = False
        self._quota = quota
        self._calls = 0
        self._bytes = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """While a call is answered.  Raises: VST2326."""
        if self._calls >= self._quota.calls:
            raise TOO_MUCH_AT_ONCE.error(f"{self.who} has {self._calls} calls under way")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @contextmanager
    def message(self, size: int) -> Iterator[None]:
        """While a message of ``size`` bytes arrives.  Raises: VST2326."""
        if self._bytes + size > self._quota.message_bytes:
            raise TOO_MUCH_AT_ONCE.error(f"{self.who} is sending messages of {self._bytes} bytes at once")
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size


class Shares:
    """The peers that are connected now."""

    def __init__(self, quota: Quota | None = None) -> None:
        self._given = quota
        self._shares: dict[str, Share] = {}

    def connect(self, who: str) -> Share | None:
        """Count one more connection of a peer; ``None`` if it has too many."""
        quota = self._given = self._given or usual_quota()
        share = self._shares.get(who) or Share(who, quota)
        if share.connections >= quota.connections:
            if not share.told:
                share.told = True
                _log.warning(
                    "%s has %d connections: more are closed at once (%s)",
                    who,
                    share.connections,
                    TOO_MUCH_AT_ONCE.code,
                )
            return None
        share.connections += 1
        self._shares[who] = share
        return share

    def leave(self, share: Share) -> None:
        """A connection that was counted has ended."""
        share.connections -= 1
        if share.connections == 0:
            del self._shares[share.who]


def peer_name(transport: asyncio.BaseTransport, peer: Peer | None) -> str:
    """Whom a connection counts for: a user of this host, or the host that it comes from."""
    if peer is not None:
        return f"uid {peer.uid}"
    name = transport.get_extra_info("peername")
    return source_of(str(name[0])) if isinstance(name, tuple) and name else "somebody"


def source_of(host: str) -> str:
    """Whom an address counts for: itself, or its network where a host has very many addresses (IPv6)."""
    try:
        ip = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
