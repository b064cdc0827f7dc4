"""Doubles of the secret manager's floor: storage in memory, access by a table."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId
from vestibule.store.barrier import Change, Item, Put
from vestibule.store.codes import CONFLICT, SEALED


class MemoryBarrier:
    """``store.barrier.Barrier`` without encryption and without a disk."""

    def __init__(self) -> None:
        self.is_sealed = False
        self._kept: dict[str, dict[str, Item]] = {}
        self._changes = 0

    async def get(self, space: str, key: str) -> Item | None:
        return self._space(space).get(key)

    async def keys(self, space: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        found = (key for key in self._space(space) if key.startswith(prefix) and key > after)
        return sorted(found)[:limit]

    async def children(self, space: str, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        found = set()
        for key in self._space(space):
            if key.startswith(prefix) and key != prefix:
                name, slash, _ = key.removeprefix(prefix).partition("/")
                found.add(name + slash)
        return sorted(each for each in found if each > after)[:limit]

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        for each in changes:
            there = self._space(each.space).get(each.key)
            if each.expected is not None and each.expected != (there.revision if there else 0):
                raise CONFLICT.error(f"{each.key} is not at revision {each.expected}")
        self._changes += 1
        return tuple(self._change(each) for each in changes)

    def mac(self, purpose: str, data: bytes) -> bytes:
        self._space("")
        return hmac.digest(hashlib.sha256(purpose.encode()).digest(), data, "sha256")

    def _change(self, change: Change) -> int:
        space = self._space(change.space)
        if not isinstance(change, Put):
            space.pop(change.key, None)
            return 0
        space[change.key] = Item(value=change.value, revision=self._changes)
        return self._changes

    def _space(self, space: str) -> dict[str, Item]:
        if self.is_sealed:
            raise SEALED.error("the secret manager is sealed")
        return self._kept.setdefault(space, {})


class TableAccess:
    """``secrets.ports.Access`` from a table of (caller, verb, path)."""

    def __init__(self, rules: Mapping[tuple[SpiffeId, Verb, str], str]) -> None:
        self.rules = dict(rules)

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        rule = self.rules.get((caller, verb, path))
        return AccessDecision(allowed=rule is not None, rule=rule)
