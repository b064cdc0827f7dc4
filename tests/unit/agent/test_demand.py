"""Certificates of entries that say so are had only while somebody wants them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.agent.test_sync import HOUR, Bench, ServerDouble, assemble, entry, running
from tests.unit.agent.test_workloads import Bench as Desk
from tests.unit.agent.test_workloads import Caller

from vestibule.agent.demand import Demand
from vestibule.testing import FakeClock


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    clock = FakeClock()
    return assemble(tmp_path, ServerDouble(clock), clock)


async def quiet(bench: Bench) -> None:
    """The agent has its entries, and rests."""
    await bench.until(lambda: bench.sync.synced.is_set() and bench.sync.contact.connected)
    await bench.until(lambda: set(bench.cache.now.entries) == set(bench.server.entries))
    await bench.clock.until_asleep()


async def test_it_is_fetched_when_somebody_first_wants_it_and_not_before(bench: Bench) -> None:
    lazy = entry("lazy", disable_x509_svid_prefetch=True)
    bench.server.put(entry("eager"), lazy)
    async with running(bench):
        await quiet(bench)
        await bench.until(lambda: "eager" in bench.cache.now.svids)
        assert set(bench.cache.now.svids) == {"eager"}
        with bench.cache.demand.claim() as claim:
            claim.cover([lazy, entry("eager")])
            await bench.until(lambda: "lazy" in bench.cache.now.svids)
            calls = bench.server.calls.count("svids 1")
            with bench.cache.demand.claim() as another:
                another.cover([lazy])
                await bench.clock.until_asleep()
                assert bench.server.calls.count("svids 1") == calls


async def test_it_is_renewed_while_somebody_follows_it_and_dropped_when_nobody_does(bench: Bench) -> None:
    lazy = entry("lazy", disable_x509_svid_prefetch=True)
    bench.server.put(entry("eager"), lazy)
    async with running(bench):
        await quiet(bench)
        with bench.cache.demand.claim() as claim:
            claim.cover([lazy])
            await bench.until(lambda: "lazy" in bench.cache.now.svids)
            await bench.clock.until_asleep()
            first = bench.serial("lazy")
            bench.clock.advance(HOUR * 0.51)
            await bench.until(lambda: bench.serial("lazy") != first)
            await bench.clock.until_asleep()
        # Let go before its half-life: kept, for whoever comes back, until it would have to be renewed.
        assert "lazy" in bench.cache.now.svids
        renewals = len(bench.server.calls)
        bench.clock.advance(HOUR * 0.51)
        await bench.until(lambda: "lazy" not in bench.cache.now.svids)
        await bench.clock.until_asleep()
        assert len(bench.server.calls) - renewals <= 2, "the agent's own and the eager one"


async def test_a_workload_that_waits_gets_it(bench: Bench) -> None:
    desk = Desk()
    desk.entry("lazy", disable_x509_svid_prefetch=True)
    wanted: list[bool] = []
    desk.cache.demand.on_new(lambda: wanted.append(True))
    answers = desk.watch(Caller())
    waiting = asyncio.ensure_future(anext(answers))
    for _ in range(10):
        await asyncio.sleep(0)
    assert wanted == [True]
    desk.svid("lazy")
    assert [each.spiffe_id.path for each in (await asyncio.wait_for(waiting, 60)).svids] == ["/lazy"]
    assert desk.cache.demand.wants(desk.cache.now.entries["lazy"])
    await answers.aclose()
    assert not desk.cache.demand.wants(desk.cache.now.entries["lazy"])


def test_claims_are_counted_and_only_the_first_is_news() -> None:
    demand, lazy = Demand(), entry("lazy", disable_x509_svid_prefetch=True)
    news: list[None] = []
    demand.on_new(lambda: news.append(None))
    with demand.claim() as one:
        one.cover([lazy])
        with demand.claim() as two:
            two.cover([lazy])
        assert demand.wants(lazy)
        one.cover([])
        assert not demand.wants(lazy)
        one.cover([lazy])
    assert not demand.wants(lazy)
    assert len(news) == 2
    assert demand.wants(entry("eager"))
