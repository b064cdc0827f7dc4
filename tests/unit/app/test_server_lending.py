"""What a server does with leases besides serving them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from vestibule.app.server_lending import Lending, lending_metrics
from vestibule.identity.revocation_list import RevocationList
from vestibule.secrets.leases import Lease, NewLease
from vestibule.spiffe import Reason, Revocation, RevokedIdentity, SpiffeId
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.telemetry.metrics import Metrics
from vestibule.testing import FakeClock
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.credentials import MemoryDatabase

PAYMENTS = SpiffeId.parse("spiffe://example.org/shop/payments")
ORDERS = SpiffeId.parse("spiffe://example.org/shop/orders")
HOUR = timedelta(hours=1)


class Bench:
    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.clock = clock
        self.barrier = MemoryBarrier()
        self.revocations = RevocationList(store, clock)
        self.lending = self.server()

    def server(self) -> Lending:
        return Lending(
            self.barrier, self.clock, self.record, lambda: True, kinds=MemoryDatabase(self.clock).kinds()
        )

    async def record(self, events: object) -> None:
        """Looked at elsewhere."""

    async def lent(self, owner: SpiffeId) -> Lease:
        async def make(lease: Lease) -> None:
            """There is nothing to make."""

        wanted = NewLease(
            path="other/creds/x", owner=owner, ttl=HOUR, max_ttl=HOUR, target="x", credential={}
        )
        return await self.lending.leases.grant(wanted, make)

    async def revoke(self, owner: SpiffeId) -> None:
        now = self.clock.now()
        target = RevokedIdentity(
            spiffe_id=owner, issued_before=now.replace(microsecond=0) + timedelta(seconds=1)
        )
        await self.revocations.add(Revocation(target=target, at=now, reason=Reason.KEY_COMPROMISE))

    async def state(self, lease: Lease) -> str:
        kept = await self.lending.leases.lookup(lease.id)
        return kept.state.value if kept else "gone"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock()
    store = await open_store(tmp_path / "server.db", clock)
    try:
        bench = Bench(store, clock)
        await bench.revocations.start()
        yield bench
    finally:
        await store.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0)


async def test_who_is_revoked_loses_what_was_lent_before_and_not_what_comes_after(bench: Bench) -> None:
    lost, kept = await bench.lent(PAYMENTS), await bench.lent(ORDERS)
    following = asyncio.create_task(bench.lending.follow(bench.revocations))
    await bench.revoke(PAYMENTS)

    async def is_over() -> bool:
        return await bench.state(lost) == "revoking"

    await until(is_over)
    assert await bench.state(kept) == "active"
    bench.clock.advance(5)
    again = await bench.lent(PAYMENTS)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)

    following = asyncio.create_task(bench.server().follow(bench.revocations))
    await bench.revoke(ORDERS)

    async def both_are_over() -> bool:
        return await bench.state(kept) == "revoking"

    await until(both_are_over)
    assert await bench.state(again) == "active", "a restart reads the list anew, and not too much from it"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_was_revoked_while_sealed_is_done_afterwards(bench: Bench) -> None:
    lost = await bench.lent(PAYMENTS)
    bench.barrier.is_sealed = True
    following = asyncio.create_task(bench.lending.follow(bench.revocations))
    await bench.revoke(PAYMENTS)
    await bench.clock.until_asleep()
    bench.barrier.is_sealed = False
    bench.clock.advance(10)

    async def is_over() -> bool:
        return await bench.state(lost) == "revoking"

    await until(is_over)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_leases_are_counted_by_state(bench: Bench) -> None:
    metrics = Metrics("server", "0")
    lending_metrics(metrics, bench.lending)
    await bench.lent(PAYMENTS)
    await bench.lent(PAYMENTS)
    await bench.lending.leases.round()
    value = metrics.registry.get_sample_value
    assert value("vestibule_leases", {"state": "active"}) == 2
    assert value("vestibule_leases", {"state": "failing"}) == 0
    bench.clock.advance(HOUR)
    await bench.lending.leases.round()
    assert value("vestibule_leases", {"state": "failing"}) == 2
    assert value("vestibule_lease_revocation_failures") == 2
    assert value("vestibule_static_roles_failing") == 0
