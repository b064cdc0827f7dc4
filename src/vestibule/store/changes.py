"""The change feed: who holds a view of the store in memory learns that it is out of date.

Only *that* something changed is told, not what: subscribers read the store again, so a slow one loses
nothing and costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

KINDS: Final = (
    "entries",
    "agents",
    "bundle",
    "authorities",
    "instances",
    "relationships",
    "revocations",
    "administrators",
    "rollout",
    "emergencies",
    "secrets",
)


@dataclass(frozen=True, slots=True)
class Change:
    """Something of this kind changed since the subscriber last looked."""

    kind: str


class Changes:
    """Tells subscribers of changes, within one process and one event loop."""

    def __init__(self) -> None:
        # Weak, so that a subscriber that was dropped without a farewell is not kept alive by us.
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._closed = False

    def publish(self, kind: str) -> None:
        """Wake every subscriber; never blocks.  ``kind`` is one of ``KINDS``."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of change")
        for subscription in tuple(self._subscriptions):
            subscription.notice(kind)

    def subscribe(self, *kinds: str) -> Subscription:
        """All changes of ``kinds`` (default: every kind) from this call on, not from the first ``await``."""
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"{sorted(unknown)} are not kinds of change")
        subscription = Subscription(frozenset(kinds or KINDS))
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End every subscription, after what it has not yet seen."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()


class Subscription(AsyncIterator[Change]):
    """One subscriber's changes; several of a kind that were not yet read are one."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._pending: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def notice(self, kind: str) -> None:
        """Remember a change until it is read."""
        if kind in self._kinds:
            self._pending[kind] = None
            self._wake.set()

    def close(self) -> None:
        """End the iteration once all pending changes are read."""
        self._closed = True
        self._wake.set()

    async def __anext__(self) -> Change:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        kind = next(iter(self._pending))
        del self._pending[kind]
        return Change(kind)
