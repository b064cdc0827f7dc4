"""What stands above this server's authorities: an upstream that signs them, and holds the roots.

The trust domain's bundle then holds the upstream's roots, and every SVID brings the certificates between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, runtime_checkable

from vestibule.spiffe import JwtAuthority, TrustBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamChain:
    """A signing certificate as an upstream issued it.

    ``chain`` is DER, the issued certificate first, up to but without the root; ``roots`` are the upstream's
    present roots, the one at the chain's end among them.
    """

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]


@runtime_checkable
class UpstreamAuthority(Protocol):
    """Whoever signs our authorities.  Every implementation passes ``tests/contract/test_upstreams.py``."""

    @property
    def name(self) -> str:
        """Its kind, as logs and the audit log show it."""
        ...

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        """A signing certificate for a request (PKCS #10, DER), for at most ``ttl``.

        Raises: VST1310 or an error of its own kind; the caller goes on with what it has and tries again.
        """
        ...

    def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The roots (DER): now, and again after every change.  May raise as ``mint`` does, and is begun anew then."""
        ...


@runtime_checkable
class UpstreamServer(Protocol):
    """An upstream that is a server of the same trust domain, and keeps the bundle for all servers below it."""

    def bundles(self) -> AsyncIterator[TrustBundle]:
        """Its bundle, with what is tainted in it: now, and again after every change.  Taken in place of ``roots``."""
        ...

    async def publish_jwt(self, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        """Put our key into its bundle; returns all keys of the trust domain.  Raises as ``mint`` does."""
        ...

    async def publish_wit(self, key: JwtAuthority) -> tuple[JwtAuthority, ...] | None:
        """The same with a key of WIT-SVIDs; ``None`` where it knows no such tokens.  Raises as ``mint`` does."""
        ...
