"""Which entries belong to an agent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.identity.world import AGENT, SERVER, World, entry, spiffe

from vestibule.identity.entitlement import EntryIndex, authorized_entries, digest, is_alias, touches
from vestibule.records import AgentRecord, Entry
from vestibule.spiffe import Selector
from vestibule.testing import FakeClock
from vestibule.testing.clock import START

PATHS = [f"/n{number}" for number in range(6)]


def ids(entries: tuple[Entry, ...]) -> list[str]:
    return [each.id for each in entries]


def test_entries_below_the_agent_belong_to_it_however_deep() -> None:
    entries = [
        entry("/node", AGENT, id="1"),
        entry("/web", "/node", id="2"),
        entry("/job", "/web", id="3"),
        entry("/other", "/elsewhere", id="4"),
    ]
    assert ids(authorized_entries(AGENT, entries, START)) == ["1", "2", "3"]


def test_an_alias_gives_its_entries_to_every_agent_with_its_selectors() -> None:
    entries = [
        entry("/cluster", SERVER, "k8s:cluster:a", "k8s:zone:x", id="alias"),
        entry("/web", "/cluster", id="web"),
    ]
    both = frozenset(
        {Selector.parse("k8s:cluster:a"), Selector.parse("k8s:zone:x"), Selector.parse("k8s:x:y")}
    )
    one = frozenset({Selector.parse("k8s:cluster:a")})
    index = EntryIndex(entries)
    # As with SPIRE, the alias itself is no entry of the agent.
    assert ids(index.authorized(AGENT, both, START)) == ["web"]
    assert ids(index.authorized(AGENT, one, START)) == []


def test_an_entry_below_the_server_is_nobodys_workload() -> None:
    entries = [entry("/web", SERVER, id="1")]
    assert authorized_entries(AGENT, entries, START) == ()
    assert authorized_entries(SERVER, entries, START) == ()


def test_what_a_template_gave_does_not_hold_once_its_identity_has_rights_over_the_server() -> None:
    entries = [
        entry("/people", AGENT, id="t", path_template="/people/{unix:user}"),
        entry("/people/ann", AGENT, "unix:uid:1", "unix:user:ann", id="d", template_id="t"),
    ]
    assert ids(authorized_entries(AGENT, entries, START)) == ["d", "t"]
    boss = entry("/people/ann", AGENT, "unix:uid:2", id="boss", admin=True)
    assert ids(authorized_entries(AGENT, [*entries, boss], START)) == ["boss", "t"]


def test_an_expired_entry_neither_belongs_nor_leads_further() -> None:
    entries = [
        entry("/node", AGENT, id="1", expires_at=START),
        entry("/web", "/node", id="2"),
    ]
    assert authorized_entries(AGENT, entries, START) == ()
    assert ids(authorized_entries(AGENT, entries, START - timedelta(seconds=1))) == ["1", "2"]


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from([*PATHS, ""])), max_size=20))
def test_the_crawl_ends_and_finds_exactly_what_can_be_reached(edges: list[tuple[str, str]]) -> None:
    entries = [
        entry(child, parent or AGENT, id=f"{number:02}") for number, (child, parent) in enumerate(edges)
    ]
    reached = {AGENT}
    while grown := {e.spiffe_id for e in entries if e.parent_id in reached} - reached:
        reached |= grown
    expected = [each.id for each in entries if each.parent_id in reached]
    assert ids(authorized_entries(AGENT, entries, START)) == expected


def test_the_digest_tells_lists_apart_by_id_revision_and_creation() -> None:
    one = entry("/web", AGENT, id="1", created_at=START)
    seen = {
        digest(()),
        digest((one,)),
        digest((replace(one, revision=1),)),
        digest((replace(one, created_at=START + timedelta(seconds=1)),)),
        digest((one, replace(one, id="2"))),
    }
    assert len(seen) == 5
    assert digest((one,)) == digest((replace(one),))


async def test_a_new_entry_counts_as_soon_as_it_is_created(world: World) -> None:
    before = world.entitlements.revision_for(AGENT)
    await world.create(entry("/web", AGENT))
    assert world.entitlements.is_entitled(AGENT, spiffe("/web"))
    assert not world.entitlements.is_entitled(AGENT, spiffe("/orders"))
    assert world.entitlements.revision_for(AGENT) != before


async def test_another_agents_entry_leaves_an_agents_revision_alone(world: World) -> None:
    before = world.entitlements.revision_for(AGENT)
    await world.create(entry("/web", "/spire/agent/join_token/other"))
    assert world.entitlements.revision_for(AGENT) == before


async def test_of_a_change_those_are_told_whom_it_may_concern(world: World) -> None:
    other = spiffe("/spire/agent/join_token/other")
    news = {each: world.entitlements.news_for(each) for each in (AGENT, other)}

    async def told(*changes: Entry) -> list[bool]:
        before = [beacon.value for beacon in news.values()]
        for each in news:
            world.entitlements.revision_for(each)
        await world.create(*changes)
        return [beacon.value != was for beacon, was in zip(news.values(), before, strict=True)]

    assert await told(entry("/web", AGENT)) == [True, False]
    assert await told(entry("/below-web", "/web")) == [True, False]
    assert await told(entry("/web", other)) == [False, True]
    assert await told(entry("/elsewhere", "/nobody")) == [False, False]
    assert await told(entry("/cluster", SERVER, "x:1")) == [True, True]
    assert await told(entry("/people", AGENT, path_template="/people/{unix:user}")) == [True, False]


async def test_of_whom_nothing_is_known_is_told_of_everything(world: World) -> None:
    news = world.entitlements.news_for(AGENT)
    before = news.value
    await world.create(entry("/elsewhere", "/nobody"))
    assert news.value != before


_KINDS = {
    "plain": entry("/x", AGENT),
    "admin": entry("/x", AGENT, admin=True),
    "template": entry("/x", AGENT, path_template="/x/{unix:user}"),
    "derived": entry("/x", AGENT, template_id="00"),
    "mortal": entry("/x", AGENT, expires_at=START),
}
_SHAPES = st.builds(
    lambda number, child, parent, kind: replace(
        _KINDS[kind], id=f"{number:02}", spiffe_id=spiffe(child), parent_id=parent
    ),
    st.integers(0, 12),
    st.sampled_from(PATHS),
    st.sampled_from([*map(spiffe, PATHS), AGENT, SERVER]),
    st.sampled_from(sorted(_KINDS)),
)


@given(st.lists(st.tuples(st.booleans(), _SHAPES), max_size=40))
def test_an_index_that_follows_changes_answers_as_one_that_is_made_anew(
    changes: list[tuple[bool, Entry]],
) -> None:
    known: dict[str, Entry] = {}
    index = EntryIndex()
    node = frozenset({Selector.parse("unix:uid:1000")})
    earlier = START - timedelta(seconds=1)
    for stays, each in changes:
        if (former := known.pop(each.id, None)) is not None:
            index.remove(former)
        if stays:
            known[each.id] = each
            index.add(each)
    fresh = EntryIndex(known[id_] for id_ in sorted(known))
    for now in (earlier, START):
        assert index.reached(AGENT, node, now) == fresh.reached(AGENT, node, now)
        assert index.expired(now) == fresh.expired(now)
        assert index.next_expiry(now) == fresh.next_expiry(now)
        for path in PATHS:
            assert index.powers(spiffe(path), now) == fresh.powers(spiffe(path), now)
            assert index.given_to_others(spiffe(path), known) == fresh.given_to_others(spiffe(path), known)


@given(st.lists(_SHAPES, max_size=20), st.lists(st.tuples(st.booleans(), _SHAPES), min_size=1, max_size=4))
def test_what_an_agent_has_changes_only_with_what_it_depends_on(
    entries: list[Entry], changes: list[tuple[bool, Entry]]
) -> None:
    known = {each.id: each for each in entries}
    before = EntryIndex(known.values()).reached(AGENT, frozenset(), START)
    touched: list[Entry] = []
    for stays, each in changes:
        touched += [former for former in (known.pop(each.id, None),) if former is not None]
        if stays:
            known[each.id] = each
            touched.append(each)
    after = EntryIndex(known.values()).reached(AGENT, frozenset(), START)
    concerned = any(is_alias(each) or before.depends_on.intersection(touches(each)) for each in touched)
    assert concerned or after == before


async def test_who_waits_is_woken_by_a_change_made_elsewhere(world: World) -> None:
    following = asyncio.create_task(world.entitlements.run())
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(world.entitlements.changed(world.entitlements.revision))
        await world.store.entries.create(entry("/web", AGENT))
        await waiting
    assert world.entitlements.is_entitled(AGENT, spiffe("/web"))
    following.cancel()


async def test_a_change_of_the_store_that_was_seen_already_wakes_nobody(world: World) -> None:
    await world.create(entry("/web", AGENT))
    seen = world.entitlements.revision
    await world.entitlements.refresh()
    assert world.entitlements.revision == seen


async def test_an_expiring_entry_stops_to_count_by_itself_and_is_then_removed(world: World) -> None:
    clock = world.clock
    assert isinstance(clock, FakeClock)
    await world.create(entry("/web", AGENT, expires_at=clock.now() + timedelta(seconds=10)))
    pruning = asyncio.create_task(world.registration.run())
    await clock.until_asleep()
    clock.advance(10)
    assert not world.entitlements.is_entitled(AGENT, spiffe("/web"))
    async with asyncio.timeout(60):
        while await world.store.entries.all():
            await world.entitlements.changed(world.entitlements.revision)
    pruning.cancel()
    assert world.audit.actions()[-1] == "entry.delete"


async def test_node_selectors_of_an_attested_agent_lead_to_its_aliases(world: World) -> None:
    await world.create(entry("/cluster", SERVER, "x509pop:cn:a"), entry("/web", "/cluster"))
    agent = AgentRecord(
        spiffe_id=AGENT,
        attestation_type="x509pop",
        serial="1",
        expires_at=START,
        selectors=frozenset({Selector.parse("x509pop:cn:a")}),
    )
    assert not world.entitlements.is_entitled(AGENT, spiffe("/web"))
    await world.store.agents.put(agent)
    await world.entitlements.refresh()
    assert world.entitlements.is_entitled(AGENT, spiffe("/web"))
