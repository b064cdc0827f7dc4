"""A working double of what the mesh needs of the store."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import datetime

from vestibule.errors import VestibuleError
from vestibule.records import Instance, KeptIntent, RolloutRecord


class KeptInstances:
    """``store.Instances`` in memory; counts writes.  ``broken`` makes most of it fail."""

    def __init__(self) -> None:
        self.kept: dict[str, Instance] = {}
        self.writes = 0
        self.broken: VestibuleError | None = None

    async def put(self, instance: Instance) -> None:
        self._check()
        self.kept[instance.id] = instance
        self.writes += 1

    async def delete(self, instance_id: str) -> bool:
        self._check()
        return self.kept.pop(instance_id, None) is not None

    async def all(self) -> list[Instance]:
        return [self.kept[each] for each in sorted(self.kept)]

    async def extend_leases(self, until: datetime) -> None:
        self.kept = {each: replace(found, lease_expires_at=until) for each, found in self.kept.items()}

    async def renew(self, instance_ids: Sequence[str], until: datetime) -> None:
        self._check()
        for each in instance_ids:
            if each in self.kept:
                self.kept[each] = replace(self.kept[each], lease_expires_at=until)

    async def expire(self, now: datetime) -> list[Instance]:
        self._check()
        over = [each for each in self.kept.values() if each.lease_expires_at and each.lease_expires_at <= now]
        for each in over:
            del self.kept[each.id]
        return over

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken


class KeptRollouts:
    """``store.IntentHistory`` in memory; ``broken`` makes every write fail."""

    def __init__(self) -> None:
        self.now: RolloutRecord | None = None
        self.rows: list[KeptIntent] = []
        self.broken: VestibuleError | None = None

    async def record(self, state: RolloutRecord, *intents: KeptIntent) -> bool:
        if self.broken is not None:
            raise self.broken
        if state.revision != (self.now.revision if self.now is not None else 0) + 1:
            return False
        self.now = state
        for each in intents:
            if each.number:
                known = next(row for row in self.rows if row.number == each.number)
                changed = replace(known, outcome=each.outcome, reason=each.reason, ended_at=each.ended_at)
                self.rows[self.rows.index(known)] = changed
            else:
                self.rows.append(replace(each, number=len(self.rows) + 1))
        return True

    async def state(self) -> RolloutRecord | None:
        return self.now

    async def all(self) -> list[KeptIntent]:
        return [replace(each, files=b"") for each in reversed(self.rows)]

    async def latest(self, version: str) -> KeptIntent | None:
        return next((each for each in reversed(self.rows) if each.version == version), None)

    async def prune(self, keep: int, spare: Set[str]) -> int:
        return 0
