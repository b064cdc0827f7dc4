"""A lease: how long somebody may use a credential that was made for him, and what is to be taken away then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from vestibule.spiffe import SpiffeId


class LeaseState(Enum):
    """Where in its life a lease is.

    ========  ===================================================================================
    pending   it is kept, and its credential may or may not exist yet: nobody was told it
    active    its owner holds the credential
    revoking  its credential is being taken away, and may still be usable until that is agreed to
    ========  ===================================================================================
    """

    PENDING = "pending"
    ACTIVE = "active"
    REVOKING = "revoking"


class Lane(Enum):
    """How leases are told apart when they are counted, and looked at in time."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKING = "revoking"
    FAILING = "failing"
    """Revoking, and it did not work at the last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease.  ``id`` is ``MOUNT/…/RANDOM``.

    ``latest`` is beyond what it cannot be renewed, ``ttl`` by how long it is renewed unless asked otherwise.
    ``target`` names what the credential is for (a database), ``credential`` is all that its engine needs to take it
    away: never a secret.  ``due`` is when something has to be done about it, ``problem`` why that did not work so
    far, ``reason`` why it is being revoked.  ``told``: its owner was told of the credential, so that it was made.
    """

    id: str
    owner: SpiffeId
    state: LeaseState
    issued: datetime
    expires: datetime
    latest: datetime
    ttl: timedelta
    due: datetime
    target: str
    credential: Mapping[str, Any] = field(default_factory=dict)
    renewed: datetime | None = None
    attempts: int = 0
    problem: str = ""
    reason: str = ""
    told: bool = False

    @property
    def mount(self) -> str:
        """The first segment of the ID: whose engine made it."""
        return self.id.partition("/")[0]

    @property
    def path(self) -> str:
        """What was asked for: the ID without its random end."""
        return path_of(self.id)

    @property
    def renewable(self) -> bool:
        """Whether renewing would gain time."""
        return self.state is LeaseState.ACTIVE and self.expires < self.latest

    @property
    def lane(self) -> Lane:
        """Where it is counted."""
        return Lane.FAILING if self.problem else Lane(self.state.value)


def path_of(lease_id: str) -> str:
    """What was asked for when the lease with this ID began."""
    return lease_id.rpartition("/")[0]


def encode(lease: Lease) -> bytes:
    """As it is kept."""
    return json.dumps(
        {
            "id": lease.id,
            "owner": str(lease.owner),
            "state": lease.state.value,
            "issued": lease.issued.isoformat(),
            "expires": lease.expires.isoformat(),
            "latest": lease.latest.isoformat(),
            "ttl": lease.ttl.total_seconds(),
            "due": lease.due.isoformat(),
            "target": lease.target,
            "credential": dict(lease.credential),
            "renewed": lease.renewed.isoformat() if lease.renewed else None,
            "attempts": lease.attempts,
            "problem": lease.problem,
            "reason": lease.reason,
            "told": lease.told,
        }
    ).encode()


def decode(kept: bytes) -> Lease:
    """The lease that ``encode`` wrote."""
    row = json.loads(kept)
    return Lease(
        id=row["id"],
        owner=SpiffeId.parse(row["owner"]),
        state=LeaseState(row["state"]),
        issued=datetime.fromisoformat(row["issued"]),
        expires=datetime.fromisoformat(row["expires"]),
        latest=datetime.fromisoformat(row["latest"]),
        ttl=timedelta(seconds=row["ttl"]),
        due=datetime.fromisoformat(row["due"]),
        target=row["target"],
        credential=row["credential"],
        renewed=datetime.fromisoformat(row["renewed"]) if row["renewed"] else None,
        attempts=row["attempts"],
        problem=row["problem"],
        reason=row["reason"],
        told=row["told"],
    )
