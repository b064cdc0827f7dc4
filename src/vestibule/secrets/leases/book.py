"""Where leases are kept: behind the barrier, each under its ID, its owner, its target, and when it is due.

All keys of a lease change together.  Nothing is held in memory, so a restart, another server, or a hundred thousand
leases cost nothing: who looks what is due reads the first keys of an ordered list.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.secrets.leases.records import Lane, Lease, decode, encode
from vestibule.spiffe import SpiffeId
from vestibule.store.barrier import Barrier, Change, Put, Remove

SPACE: Final = "leases"
PAGE: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS: Final = 17
_MARK: Final = b"1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A lease, and the revision it has now: whoever changes it names that."""

    lease: Lease
    revision: int


class LeaseBook:
    """All leases.  Every method raises VST5000 while sealed, and errors of the store."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier

    @property
    def is_sealed(self) -> bool:
        """Whether nothing can be read now."""
        return self._barrier.is_sealed

    async def get(self, lease_id: str) -> Kept | None:
        """The lease with this ID."""
        item = await self._barrier.get(SPACE, f"id/{lease_id}")
        return Kept(lease=decode(item.value), revision=item.revision) if item else None

    async def put(self, lease: Lease, before: Kept | None) -> Kept:
        """Keep the lease in the place of ``before``.  Raises: VST5001 when that is not what is kept."""
        key = f"id/{lease.id}"
        changes: list[Change] = [
            Put(space=SPACE, key=key, value=encode(lease), expected=before.revision if before else 0)
        ]
        old = set(_marks(before.lease)) if before else set()
        new = set(_marks(lease))
        changes += [Remove(space=SPACE, key=each) for each in sorted(old - new)]
        changes += [Put(space=SPACE, key=each, value=_MARK) for each in sorted(new - old)]
        revision, *_ = await self._barrier.apply(changes)
        return Kept(lease=lease, revision=revision)

    async def remove(self, kept: Kept) -> None:
        """Forget it.  Raises: VST5001 when it was changed meanwhile."""
        changes: list[Change] = [Remove(space=SPACE, key=f"id/{kept.lease.id}", expected=kept.revision)]
        changes += [Remove(space=SPACE, key=each) for each in _marks(kept.lease)]
        await self._barrier.apply(changes)

    async def below(self, prefix: str, *, after: str = "", limit: int = PAGE) -> list[str]:
        """IDs that begin with ``prefix``, in order."""
        found = await self._barrier.keys(
            SPACE, f"id/{prefix}", after=f"id/{after}" if after else "", limit=limit
        )
        return [each.removeprefix("id/") for each in found]

    async def children(self, prefix: str) -> list[str]:
        """The next segments below a prefix that ends with ``/``."""
        found: list[str] = []
        while True:
            page = await self._barrier.children(
                SPACE, f"id/{prefix}", after=found[-1] if found else "", limit=PAGE
            )
            found += page
            if len(page) < PAGE:
                return found

    async def owned_by(self, owner: SpiffeId, *, after: str = "", limit: int = PAGE) -> list[str]:
        """IDs of an identity's leases, in order."""
        return await self._marked(f"owner/{_digest(owner)}/", after, limit)

    async def of_target(self, target: str, *, limit: int = PAGE) -> list[str]:
        """IDs of what was made for a target."""
        return await self._marked(f"target/{target}/", "", limit)

    async def due(self, lane: Lane, until: datetime, limit: int) -> list[str]:
        """IDs of those that are due, the most urgent ones first."""
        keys = await self._barrier.keys(SPACE, f"due/{lane.value}/", limit=limit)
        found = [_dated(each) for each in keys]
        return [lease_id for at, lease_id in found if at <= until]

    async def next_due(self, lane: Lane) -> datetime | None:
        """When the first one is due."""
        keys = await self._barrier.keys(SPACE, f"due/{lane.value}/", limit=1)
        return _dated(keys[0])[0] if keys else None

    async def ids(self, lane: Lane, limit: int = PAGE) -> list[str]:
        """IDs of those in a lane, the most urgent ones first."""
        return [
            _dated(each)[1] for each in await self._barrier.keys(SPACE, f"due/{lane.value}/", limit=limit)
        ]

    async def count(self, lane: Lane, most: int) -> int:
        """How many there are, counted up to about ``most``."""
        number, after = 0, ""
        while number < most:
            page = await self._barrier.keys(SPACE, f"due/{lane.value}/", after=after, limit=PAGE)
            number += len(page)
            if len(page) < PAGE:
                break
            after = page[-1]
        return number

    async def _marked(self, prefix: str, after: str, limit: int) -> list[str]:
        found = await self._barrier.keys(SPACE, prefix, after=prefix + after if after else "", limit=limit)
        return [each.removeprefix(prefix) for each in found]


def _marks(lease: Lease) -> tuple[str, ...]:
    at = (lease.due - _EPOCH) // timedelta(microseconds=1)
    return (
        f"due/{lease.lane.value}/{at:0{_DIGITS}}/{lease.id}",
        f"owner/{_digest(lease.owner)}/{lease.id}",
        f"target/{lease.target}/{lease.id}",
    )


def _dated(key: str) -> tuple[datetime, str]:
    _, _, at, lease_id = key.split("/", 3)
    return _EPOCH + timedelta(microseconds=int(at)), lease_id


def _digest(owner: SpiffeId) -> str:
    # A SPIFFE ID may be longer than a database's index takes.
    return hashlib.sha256(str(owner).encode()).hexdigest()[:32]
