"""The records of revocation, beside the revocations themselves (``spiffe.revocations``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMark:
    """A random number that stands in the serial of every certificate issued through an agent.

    With it, all that an agent had issued can be revoked by one number, however much that is.  An agent has one at
    a time; it is retired with the agent's revocation, and never used again.
    """

    mark: int
    agent_id: SpiffeId
    since: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerAuthority:
    """A signing certificate that a server below was given, and through which agent (``mark``, 0: not known).

    ``fingerprint``, ``key`` and ``authority_id`` as in ``RevokedAuthority``.  It is revoked with whom it was given to.
    """

    fingerprint: str
    key: str
    authority_id: str
    server: SpiffeId
    mark: int
    not_after: datetime


def identity_digest(spiffe_id: SpiffeId) -> bytes:
    """What stands for an identity where millions are on record: 8 bytes of its SHA-256."""
    return hashlib.sha256(str(spiffe_id).encode()).digest()[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """Whose certificates are in wrong hands, so that callers have to look at lists before they believe them.

    ``identities`` are digests; ``everybody``: a signing certificate is among what is revoked.  ``crl`` are the lists
    of all authorities that count, in PEM; empty where nothing is needed or not all of them have one.
    """

    identities: frozenset[bytes] = frozenset()
    everybody: bool = False
    crl: bytes = field(default=b"", repr=False)

    def lists_about(self, spiffe_id: SpiffeId) -> bytes:
        """The lists to look at before an identity is believed; empty for none."""
        return self.crl if self.means(spiffe_id) else b""

    def means(self, spiffe_id: SpiffeId) -> bool:
        """Whether somebody else may have a certificate of this identity."""
        return self.everybody or identity_digest(spiffe_id) in self.identities


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCrl:
    """The newest certificate revocation list of an authority (DER), with the version of the list it was made from."""

    authority_id: str
    number: int
    der: bytes = field(repr=False)
    this_update: datetime
    next_update: datetime
    list_version: int
