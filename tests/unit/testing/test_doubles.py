"""The doubles keep their promises."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.keys import key_from_pkcs8, public_key_der
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock, TestAuthority


async def test_a_fake_clock_wakes_sleepers_when_it_is_told_to() -> None:
    clock = FakeClock()
    order: list[str] = []

    async def sleep(name: str, seconds: int) -> None:
        await clock.sleep_until(start + timedelta(seconds=seconds))
        order.append(name)

    start = clock.now()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(sleep("second", 20))
        tasks.create_task(sleep("first", 10))
        tasks.create_task(sleep("past", -1))
        await clock.until_asleep(2)
        assert clock.next_wake == start + timedelta(seconds=10)
        clock.advance(10)
        await clock.until_asleep(1)
        clock.advance(timedelta(seconds=10))
    assert order == ["past", "first", "second"]
    assert clock.next_wake is None


def test_a_test_authority_issues_svids_that_verify() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    authority = TestAuthority("example.org", now=now)
    svid = authority.svid("/ns/prod/sa/web", now=now, ttl=timedelta(seconds=5))
    assert svid.spiffe_id == SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
    assert verify_x509_svid(svid.chain, authority.bundle, now) == svid.spiffe_id
    assert svid.not_after == now + timedelta(seconds=5)
    assert int(leaf_facts(svid.chain[0]).serial) == svid.serial
    assert public_key_der(key_from_pkcs8(svid.key).public_key())


def test_a_test_authority_can_forge_ids_that_it_has_no_authority_for() -> None:
    # A tester wants to see such certificates refused, so the ID's trust domain may be any.
    foreign = TestAuthority("evil.org").svid("spiffe://example.org/ns/prod/sa/web")
    assert foreign.spiffe_id.trust_domain.name == "example.org"
