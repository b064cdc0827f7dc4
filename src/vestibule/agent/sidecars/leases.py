"""The leases of all registered instances of this agent, renewed together: one question, however many there are."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Protocol

from vestibule.agent.sidecars.waiting import first_of
from vestibule.errors import Kind, VestibuleError
from vestibule.records import Instance, Lease

RETRY_FIRST: Final = 0.25
RETRY_LONGEST: Final = 5.0
SPREAD: Final = 1.0
"""So many seconds after a change upstream, at most, every agent asks: not all at the same moment."""


class Renewing(Protocol):
    """What the server takes about leases."""

    async def renew(self, leases: Iterable[Lease]) -> tuple[float, frozenset[str]]:
        """Renew: the lease in seconds, and the instances that are to be registered again instead."""
        ...


class Leases:
    """Renews what it holds in time, and tells whoever registered an instance that it has to be registered again."""

    def __init__(self, upstream: Renewing, upstream_changed: Callable[[], asyncio.Event]) -> None:
        """``upstream_changed`` gives an event that is set with the next change upstream: the server is back, say."""
        self._upstream = upstream
        self._upstream_changed = upstream_changed
        self._held: dict[str, tuple[Lease, Callable[[], None]]] = {}
        self._lease = 0.0
        self._first = asyncio.Event()

    def hold(self, instance: Instance, state: bytes, lease: float, again: Callable[[], None]) -> None:
        """Renew the lease of an instance that is registered; ``again`` is called when it has to be registered again."""
        named = Lease(instance_id=instance.id, spiffe_id=instance.spiffe_id, state=state)
        self._held[instance.id] = named, again
        self._lease = lease
        self._first.set()

    def drop(self, instance_id: str) -> None:
        """An instance is gone, or being registered anew."""
        self._held.pop(instance_id, None)

    async def run(self) -> None:
        """Renew until cancelled."""
        pause = RETRY_FIRST
        while True:
            await self._first.wait()
            changed = self._upstream_changed()
            if not self._held:
                self._first.clear()
            elif await self._renew():
                pause = RETRY_FIRST
                if await first_of(changed, timeout=self._lease / 3):
                    await asyncio.sleep(random.uniform(0, SPREAD))  # noqa: S311 - no secret
            else:
                await first_of(changed, timeout=pause)
                pause = min(pause * 2, RETRY_LONGEST)

    async def _renew(self) -> bool:
        """Whether the server answered."""
        asked = dict(self._held)
        try:
            self._lease, refused = await self._upstream.renew([lease for lease, _ in asked.values()])
        except VestibuleError as error:
            if error.code.kind is Kind.UNAVAILABLE:
                return False
            # An older server does not know this question.  Whatever else it is: each hears of it by itself.
            refused = frozenset(asked)
        for instance_id in refused:
            if self._held.get(instance_id) == asked[instance_id]:
                self.drop(instance_id)
                asked[instance_id][1]()
        return True


def state_of(instance: Instance) -> bytes:
    """The same for the same instance, and another one for any other."""
    plain = replace(
        instance,
        ingress=dict(sorted(instance.ingress.items())),
        apps=dict(sorted(instance.apps.items())),
        upstreams=dict(sorted(instance.upstreams.items())),
    )
    return hashlib.sha256(repr(plain).encode()).digest()[:16]
