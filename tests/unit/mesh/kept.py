"""A working double of what the mesh needs of the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from vestibule.records import Instance


class KeptInstances:
    """``store.Instances`` in memory; counts writes."""

    def __init__(self) -> None:
        self.kept: dict[str, Instance] = {}
        self.writes = 0

    async def put(self, instance: Instance) -> None:
        self.kept[instance.id] = instance
        self.writes += 1

    async def delete(self, instance_id: str) -> bool:
        return self.kept.pop(instance_id, None) is not None

    async def all(self) -> list[Instance]:
        return [self.kept[each] for each in sorted(self.kept)]

    async def extend_leases(self, until: datetime) -> None:
        self.kept = {each: replace(found, lease_expires_at=until) for each, found in self.kept.items()}

    async def expire(self, now: datetime) -> list[Instance]:
        raise NotImplementedError  # leases live in memory
