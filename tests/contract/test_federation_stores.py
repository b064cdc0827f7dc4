"""What every store promises of federated bundles, relationships, and the entries that federate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.records import BundleDeletion, Entry, FederationRelationship
from vestibule.spiffe import Selector, SpiffeId, TrustBundle, TrustDomain
from vestibule.store import EntryFilter, Store, Subscription
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
PARTNER = TrustDomain.parse("partner.org")
OTHER = TrustDomain.parse("other.org")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/one")


@pytest.fixture(params=["sqlite"])
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path / "vestibule.db", FakeClock(NOW))
    yield store
    await store.close()


def bundle(domain: TrustDomain = PARTNER, *authorities: bytes, sequence: int = 1) -> TrustBundle:
    return TrustBundle(trust_domain=domain, x509_authorities=authorities, sequence=sequence)


def entry(name: str, *federates_with: TrustDomain) -> Entry:
    return Entry(
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/{name}"),
        parent_id=AGENT,
        selectors=frozenset({Selector.parse("unix:uid:1")}),
        federates_with=tuple(map(str, federates_with)),
    )


def relationship(domain: TrustDomain = PARTNER) -> FederationRelationship:
    return FederationRelationship(trust_domain=domain, bundle_endpoint_url=f"https://{domain}/bundle")


def kinds(subscription: Subscription) -> set[str]:
    return set(subscription._pending)


async def refused(store: Store, name: str, *federates_with: TrustDomain) -> str:
    with pytest.raises(VestibuleError) as raised:
        await store.entries.create(entry(name, *federates_with))
    return raised.value.code.code


# ------------------------------------------------------------------------------------------- bundles


async def test_a_bundle_is_revised_from_what_is_kept(store: Store) -> None:
    seen: list[TrustBundle | None] = []

    def change(kept: TrustBundle | None) -> TrustBundle:
        seen.append(kept)
        return bundle(sequence=7)

    subscription = store.changes.subscribe()
    assert await store.bundles.revise(PARTNER, change) == bundle(sequence=7)
    assert kinds(subscription) == {"bundle"}
    await store.bundles.revise(PARTNER, change)
    assert seen == [None, bundle(sequence=7)]
    assert await store.bundles.get(PARTNER) == bundle(sequence=7)


async def test_a_revision_that_wants_nothing_or_fails_changes_nothing(store: Store) -> None:
    subscription = store.changes.subscribe()
    assert await store.bundles.revise(PARTNER, lambda _: None) is None

    def fail(_: TrustBundle | None) -> TrustBundle | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.bundles.revise(PARTNER, fail)
    assert await store.bundles.get(PARTNER) is None
    assert kinds(subscription) == set()


async def test_bundles_are_listed_in_pages_and_counted(store: Store) -> None:
    domains = [TrustDomain.parse(f"{name}.org") for name in "cab"]
    for domain in domains:
        await store.bundles.put(bundle(domain))
    first = await store.bundles.page(2)
    assert [str(each.trust_domain) for each in first.items] == ["a.org", "b.org"]
    last = await store.bundles.page(2, first.next_token)
    assert [str(each.trust_domain) for each in last.items] == ["c.org"]
    assert last.next_token == ""
    assert len((await store.bundles.page(0)).items) == await store.bundles.count() == 3


# ------------------------------------------------------------------------------- entries that federate


async def test_an_entry_federates_only_with_known_trust_domains(store: Store) -> None:
    assert await refused(store, "web", PARTNER) == "VST8014"
    await store.bundles.put(bundle())
    assert await refused(store, "web", PARTNER, OTHER) == "VST8014"
    created, _ = await store.entries.create(entry("web", PARTNER))
    assert created.federates_with == ("partner.org",)
    with pytest.raises(VestibuleError, match=r"other\.org") as raised:
        await store.entries.update(replace(created, federates_with=("partner.org", "other.org")))
    assert raised.value.code.code == "VST8014"
    assert await store.entries.get(created.id) == created


async def test_an_entry_of_a_batch_that_federates_with_nobody_known_fails_alone(store: Store) -> None:
    results = await store.entries.create_many([entry("a"), entry("b", PARTNER), entry("c")])
    assert [isinstance(each, VestibuleError) for each in results] == [False, True, False]


async def test_a_bundle_that_entries_federate_with_is_kept_by_default(store: Store) -> None:
    await store.bundles.put(bundle())
    created, _ = await store.entries.create(entry("web", PARTNER))
    with pytest.raises(VestibuleError, match="1 registration entries") as raised:
        await store.bundles.delete(PARTNER, BundleDeletion.RESTRICT, frozenset({created.id}))
    assert raised.value.code.code == "VST8030"
    assert await store.bundles.get(PARTNER) == bundle()
    await store.entries.delete(created.id)
    assert await store.bundles.delete(PARTNER, BundleDeletion.RESTRICT)
    assert not await store.bundles.delete(PARTNER, BundleDeletion.RESTRICT)


async def test_dissociated_entries_stay_and_are_told_of(store: Store) -> None:
    await store.bundles.put(bundle())
    await store.bundles.put(bundle(OTHER))
    both, _ = await store.entries.create(entry("both", OTHER, PARTNER))
    alone, _ = await store.entries.create(entry("alone"))
    subscription = store.changes.subscribe()
    assert await store.bundles.delete(PARTNER, BundleDeletion.DISSOCIATE, frozenset({both.id}))
    assert kinds(subscription) == {"bundle", "entries"}
    assert await store.entries.get(both.id) == replace(both, federates_with=("other.org",), revision=1)
    assert await store.entries.get(alone.id) == alone


async def test_entries_may_go_with_the_bundle(store: Store) -> None:
    for domain in (PARTNER, OTHER, TrustDomain.parse("very.partner.org")):
        await store.bundles.put(bundle(domain))
    gone, _ = await store.entries.create(entry("gone", PARTNER))
    stays, _ = await store.entries.create(entry("stays", OTHER))
    # A name that contains the other is another name.
    similar, _ = await store.entries.create(entry("similar", TrustDomain.parse("very.partner.org")))
    assert await store.bundles.delete(PARTNER, BundleDeletion.DELETE, frozenset({gone.id}))
    assert {each.id for each in (await store.entries.page(EntryFilter(), 0)).items} == {stays.id, similar.id}


@pytest.mark.parametrize("mode", [BundleDeletion.DISSOCIATE, BundleDeletion.DELETE])
async def test_entries_that_nobody_has_on_record_are_not_touched(store: Store, mode: BundleDeletion) -> None:
    await store.bundles.put(bundle())
    known, _ = await store.entries.create(entry("known", PARTNER))
    late, _ = await store.entries.create(entry("late", PARTNER))
    with pytest.raises(VestibuleError) as raised:
        await store.bundles.delete(PARTNER, mode, frozenset({known.id}))
    assert raised.value.code.code == "VST8031"
    assert await store.entries.get(known.id) == known
    assert await store.bundles.get(PARTNER) == bundle()
    assert await store.bundles.delete(PARTNER, mode, frozenset({known.id, late.id}))


# ------------------------------------------------------------------------------------- relationships


async def test_a_relationship_is_read_as_it_was_written(store: Store) -> None:
    spiffe = replace(
        relationship(OTHER), endpoint_spiffe_id=SpiffeId.parse("spiffe://other.org/bundles"), fetched_at=NOW
    )
    subscription = store.changes.subscribe()
    await store.relationships.create(relationship())
    await store.relationships.create(spiffe)
    assert kinds(subscription) == {"relationships"}
    assert await store.relationships.all() == [spiffe, relationship()]
    assert await store.relationships.get(PARTNER) == relationship()
    assert await store.relationships.get(TrustDomain.parse("unknown.org")) is None


async def test_there_is_one_relationship_with_a_trust_domain(store: Store) -> None:
    await store.relationships.create(relationship())
    with pytest.raises(VestibuleError) as raised:
        await store.relationships.create(relationship(), bundle())
    assert raised.value.code.code == "VST8032"
    assert await store.bundles.get(PARTNER) is None


async def test_a_relationship_comes_with_its_bundle_in_one_step(store: Store) -> None:
    subscription = store.changes.subscribe()
    await store.relationships.create(relationship(), bundle(PARTNER, b"\x30"))
    assert kinds(subscription) == {"relationships", "bundle"}
    assert await store.bundles.get(PARTNER) == bundle(PARTNER, b"\x30")
    moved = await store.relationships.revise(
        PARTNER, lambda kept: replace(kept, bundle_endpoint_url="https://new.org/"), bundle(PARTNER, b"\x31")
    )
    assert moved == replace(relationship(), bundle_endpoint_url="https://new.org/")
    assert await store.relationships.get(PARTNER) == moved
    assert await store.bundles.get(PARTNER) == bundle(PARTNER, b"\x31")


async def test_what_there_is_not_cannot_be_revised(store: Store) -> None:
    with pytest.raises(VestibuleError) as raised:
        await store.relationships.revise(PARTNER, lambda kept: kept, bundle())
    assert raised.value.code.code == "VST8033"
    assert await store.bundles.get(PARTNER) is None


async def test_relationships_are_listed_in_pages(store: Store) -> None:
    for name in "bca":
        await store.relationships.create(relationship(TrustDomain.parse(f"{name}.org")))
    first = await store.relationships.page(2)
    second = await store.relationships.page(2, first.next_token)
    names = [str(each.trust_domain) for each in (*first.items, *second.items)]
    assert names == ["a.org", "b.org", "c.org"]
    assert second.next_token == ""


async def test_a_fetch_is_noted_without_noise(store: Store) -> None:
    await store.relationships.create(relationship())
    subscription = store.changes.subscribe()
    await store.relationships.fetched(PARTNER, NOW)
    await store.relationships.fetched(OTHER, NOW)
    assert kinds(subscription) == set()
    assert await store.relationships.all() == [replace(relationship(), fetched_at=NOW)]


async def test_a_deleted_relationship_leaves_its_bundle(store: Store) -> None:
    await store.relationships.create(relationship(), bundle())
    assert await store.relationships.delete(PARTNER)
    assert not await store.relationships.delete(PARTNER)
    assert await store.relationships.all() == []
    assert await store.bundles.get(PARTNER) == bundle()
