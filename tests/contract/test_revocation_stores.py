"""What every store promises about revocations, agents' marks and published CRLs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.records import AgentMark, LowerAuthority, PublishedCrl
from vestibule.spiffe import (
    Reason,
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    SpiffeId,
    TrustDomain,
)
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/x509pop/one")
TARGETS = (
    RevokedIdentity(spiffe_id=WEB),
    RevokedCertificate(authority_id="0a" * 20, serial=2**158 + 1),
    RevokedAuthority(fingerprint="ab" * 32, key="cd" * 32),
    RevokedAuthority(fingerprint="ef" * 32),
    RevokedAuthority(fingerprint="01" * 32, key="02" * 32, authority_id="03" * 20),
    RevokedJwtKey(trust_domain=TrustDomain.parse("example.org"), key_id="a/b c"),
    RevokedAgent(agent_id=AGENT, mark=2**63 - 1),
)


@pytest.fixture(params=["sqlite"])
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path / "vestibule.db", FakeClock(NOW))
    yield store
    await store.close()


def revocation(number: int = 0, version: int = 1, expires_at: datetime | None = None) -> Revocation:
    return Revocation(
        target=TARGETS[number],
        at=NOW,
        reason=Reason.KEY_COMPROMISE,
        note="laptop lost",
        actor="local:uid=0",
        expires_at=expires_at,
        version=version,
    )


async def test_every_kind_of_revocation_comes_back_as_it_was(store: Store) -> None:
    written = [revocation(number, version=number + 1) for number in range(len(TARGETS))]
    before = replace(TARGETS[0], issued_before=NOW.replace(microsecond=0))
    written[0] = replace(written[0], target=before)
    await store.revocations.put(*written)
    assert await store.revocations.all() == written


async def test_of_two_revocations_of_one_thing_the_newer_version_stays(store: Store) -> None:
    newer = replace(revocation(version=7), note="again")
    await store.revocations.put(newer)
    await store.revocations.put(revocation(version=3))
    assert await store.revocations.all() == [newer]


async def test_what_is_over_is_forgotten_and_what_never_ends_stays(store: Store) -> None:
    await store.revocations.put(
        revocation(0), revocation(1, expires_at=NOW), revocation(2, expires_at=NOW + HOUR)
    )
    assert await store.revocations.prune(NOW) == 1
    assert {each.target for each in await store.revocations.all()} == {TARGETS[0], TARGETS[2]}


async def test_a_revocation_is_told_to_whoever_follows_the_store(store: Store) -> None:
    changes = store.changes.subscribe("revocations")
    await store.revocations.put(revocation())
    async with asyncio.timeout(60):
        assert (await anext(changes)).kind == "revocations"


async def test_ten_thousand_at_once_are_one_step(store: Store) -> None:
    many = [
        Revocation(target=RevokedCertificate(authority_id="0a", serial=n), at=NOW, version=n)
        for n in range(1, 10_001)
    ]
    await store.revocations.put(*many)
    kept = await store.revocations.all()
    assert Revocations(10_000, tuple(kept)).since(9_998) == tuple(many[-2:])


async def test_an_agents_marks_are_retired_once_and_forgotten_later(store: Store) -> None:
    first, second = (AgentMark(mark=mark, agent_id=AGENT, since=NOW) for mark in (2**63 - 1, 5))
    await store.agent_marks.add(first)
    await store.agent_marks.retire(AGENT, NOW + HOUR)
    await store.agent_marks.add(replace(second, since=NOW + 2 * HOUR))
    await store.agent_marks.prune(NOW + HOUR)
    retired, current = await store.agent_marks.all()
    assert retired == replace(first, retired_at=NOW + HOUR)
    assert current.retired_at is None
    assert await store.agent_marks.prune(NOW + 2 * HOUR) == 1
    assert await store.agent_marks.all() == [current]


async def test_signing_certificates_of_servers_below_are_kept_until_they_end(store: Store) -> None:
    one = LowerAuthority(
        fingerprint="aa", key="bb", authority_id="cc", server=AGENT, mark=2**63 - 1, not_after=NOW + HOUR
    )
    other = replace(one, fingerprint="dd", mark=0, not_after=NOW + 2 * HOUR)
    await store.lower_authorities.put(other, NOW)
    await store.lower_authorities.put(one, NOW)
    await store.lower_authorities.put(one, NOW)
    assert await store.lower_authorities.all() == [one, other]
    await store.lower_authorities.put(other, NOW + HOUR + HOUR / 2)
    assert await store.lower_authorities.all() == [other]


async def test_an_authority_has_one_crl_the_last(store: Store) -> None:
    crl = PublishedCrl(
        authority_id="0a", number=2**100, der=b"one", this_update=NOW, next_update=NOW + HOUR, list_version=3
    )
    await store.crls.put(crl)
    await store.crls.put(replace(crl, number=2**100 + 1, der=b"two"))
    [kept] = await store.crls.all()
    assert (kept.number, kept.der) == (2**100 + 1, b"two")
    assert await store.crls.prune(NOW + HOUR) == 1
    assert await store.crls.all() == []


async def test_all_of_it_survives_a_restart(tmp_path: Path) -> None:
    path, mark = tmp_path / "again.db", AgentMark(mark=9, agent_id=AGENT, since=NOW)
    first = await open_store(path, FakeClock(NOW))
    await first.revocations.put(revocation())
    await first.agent_marks.add(mark)
    await first.close()
    second = await open_store(path, FakeClock(NOW))
    assert await second.revocations.all() == [revocation()]
    assert await second.agent_marks.all() == [mark]
    await second.close()
