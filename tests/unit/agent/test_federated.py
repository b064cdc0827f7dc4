"""The agent's federated bundles: fetched for its entries, kept through outages, gone with the entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.test_sync import HOUR, Bench, ServerDouble, assemble, entry, running

from vestibule.agent.cache import Bundles, federates_with
from vestibule.agent.vault import from_document, to_document
from vestibule.records import Entry
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.testing import FakeClock, TestAuthority

PARTNER, OTHER = TestAuthority("partner.org"), TestAuthority("other.org")
AT_MOST = 2
"""When the agent has joined, and when the watch begins, which may be a moment later."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    clock = FakeClock()
    return assemble(tmp_path, ServerDouble(clock), clock)


def federating(name: str, *authorities: TestAuthority) -> Entry:
    return replace(entry(name), federates_with=tuple(str(each.trust_domain) for each in authorities))


def held(bench: Bench) -> dict[str, TrustBundle]:
    return {str(domain): bundle for domain, bundle in bench.cache.now.federated.items()}


def publish(bench: Bench, *authorities: TestAuthority, sequence: int = 1) -> None:
    for each in authorities:
        bench.server.federated[each.trust_domain] = replace(each.jwt_bundle, sequence=sequence)
    bench.server.push()


async def test_bundles_come_for_what_entries_federate_with_and_for_nothing_else(bench: Bench) -> None:
    publish(bench, PARTNER, OTHER)
    bench.server.put(federating("a", PARTNER), entry("b"))
    async with running(bench):
        await bench.settled()
        assert held(bench) == {"partner.org": PARTNER.jwt_bundle}
        asked = {each for each in bench.server.calls if each.startswith("federated")}
        assert asked == {"federated partner.org"}


async def test_a_changed_bundle_is_pushed(bench: Bench) -> None:
    publish(bench, PARTNER)
    bench.server.put(federating("a", PARTNER))
    async with running(bench):
        await bench.settled()
        publish(bench, PARTNER, sequence=2)
        await bench.until(lambda: held(bench)["partner.org"].sequence == 2)


async def test_a_new_entry_brings_its_bundle_and_asks_for_no_other(bench: Bench) -> None:
    publish(bench, PARTNER, OTHER)
    bench.server.put(federating("a", PARTNER))
    async with running(bench):
        await bench.settled()
        for number in range(5):
            bench.server.put(federating(f"b{number}", OTHER))
            await bench.until(lambda: set(held(bench)) == {"partner.org", "other.org"})
            await bench.settled()
        assert bench.server.calls.count("federated partner.org") <= AT_MOST
        assert bench.server.calls.count("federated other.org") == 1


async def test_what_no_entry_federates_with_any_more_is_gone(bench: Bench) -> None:
    publish(bench, PARTNER, OTHER)
    bench.server.put(federating("a", PARTNER, OTHER))
    async with running(bench):
        await bench.until(lambda: len(held(bench)) == 2)
        bench.server.put(federating("a", OTHER))
        await bench.until(lambda: set(held(bench)) == {"other.org"})


async def test_a_bundle_that_the_server_has_no_more_is_gone(bench: Bench) -> None:
    publish(bench, PARTNER)
    bench.server.put(federating("a", PARTNER))
    async with running(bench):
        await bench.until(lambda: len(held(bench)) == 1)
        bench.server.federated.clear()
        bench.server.push()
        await bench.until(lambda: not held(bench))
        assert "a" in bench.cache.now.svids, "the identity stays"


async def test_a_missing_bundle_keeps_nobody_from_an_identity_and_is_not_asked_for_again_and_again(
    bench: Bench,
) -> None:
    bench.server.put(federating("a", PARTNER))
    async with running(bench):
        await bench.settled()
        for _ in range(5):
            renewed = bench.server.calls.count("renew")
            bench.clock.advance(HOUR * 0.6)
            await bench.until(lambda renewed=renewed: bench.server.calls.count("renew") > renewed)
            await bench.settled()
        assert bench.server.calls.count("federated partner.org") <= AT_MOST


async def test_bundles_survive_an_outage_and_a_restart_in_it(bench: Bench, tmp_path: Path) -> None:
    publish(bench, PARTNER)
    bench.server.put(federating("a", PARTNER))
    async with running(bench):
        await bench.settled()
        bench.server.away = True
        bench.clock.advance(HOUR * 0.7)
        await bench.until(lambda: bench.sync.contact.problem is not None)
        assert set(held(bench)) == {"partner.org"}
    again = assemble(tmp_path, bench.server, bench.clock)
    again.cache.become(again.vault.load())
    assert held(again) == {"partner.org": PARTNER.jwt_bundle}


def test_what_an_older_agent_wrote_is_read() -> None:
    old: dict[str, Any] = {"version": 1, "own": None, "bundle": None, "entries": [], "svids": {}}
    assert to_document(from_document(old))["federated"] == []


def test_an_entry_that_names_its_own_trust_domain_federates_with_nobody() -> None:
    same = replace(entry("a"), federates_with=("example.org", "partner.org"))
    assert federates_with([same]) == {PARTNER.trust_domain}


def test_one_bundle_speaks_for_a_trust_domain() -> None:
    own = TestAuthority("example.org").bundle
    bundles = Bundles(own=own, federated=(PARTNER.bundle, OTHER.bundle))
    assert bundles.of(TrustDomain.parse("example.org")) is own
    assert bundles.of(PARTNER.trust_domain) == PARTNER.bundle
    assert bundles.of(TrustDomain.parse("third.org")) is None
