"""The records of revocation, beside the revocations themselves (``spiffe.revocations``)."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCrl:
    """The newest certificate revocation list of an authority (DER), with the version of the list it was made from."""

    authority_id: str
    number: int
    der: bytes = field(repr=False)
    this_update: datetime
    next_update: datetime
    list_version: int
