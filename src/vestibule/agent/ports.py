"""What the agent needs of the outside; ``app`` fills it with ``calls`` and ``attest``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from vestibule.attest.node import NodeProof
from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import TrustBundle, TrustDomain, X509Svid

Chain = tuple[bytes, ...]
"""Certificates in DER, leaf first, without the trust bundle's."""


class Revisions(Protocol):
    """The state of the world by its revisions; one that differs from the last means: ask again."""

    @property
    def entries(self) -> int: ...

    @property
    def bundle(self) -> int: ...

    @property
    def intent(self) -> int: ...

    @property
    def federation(self) -> int: ...


class Upstream(Protocol):
    """The server, for this agent.

    Everything raises VST2300 and VST2315 (not there, not trusted), VST2330 (banned), VST2331 (attest again).
    """

    async def attest(self, proof: NodeProof, csr: bytes) -> Chain: ...

    async def renew(self, csr: bytes) -> Chain: ...

    async def come_back(self, last: X509Svid, csr: bytes) -> Chain:
        """A new SVID, for the key of the last one.  Raises, beside the usual: VST2334 (not let back)."""
        ...

    async def bundle(self) -> TrustBundle: ...

    async def federated_bundle(self, trust_domain: TrustDomain) -> TrustBundle | None: ...

    def watch(self) -> AsyncIterator[Revisions]: ...

    async def authorized_entries(self, known: Mapping[str, Entry]) -> dict[str, Entry]: ...

    async def new_svids(self, requests: Mapping[str, bytes]) -> dict[str, Chain | VestibuleError]: ...


class WitUpstream(Protocol):
    """The server, as far as WIT-SVIDs go.  Raises what ``Upstream`` does."""

    async def new_wit_svid(self, entry_id: str, public_key: bytes, algorithm: str) -> str: ...


class JwtUpstream(Protocol):
    """The server, as far as JWT-SVIDs go.  Raises what ``Upstream`` does."""

    async def new_jwt_svid(self, entry_id: str, audience: Sequence[str]) -> str: ...
