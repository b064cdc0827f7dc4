"""What every store promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.postgres import Postgres

from vestibule.errors import VestibuleError
from vestibule.records import (
    Address,
    Administrator,
    AgentRecord,
    AppendedAuthority,
    AppendedKind,
    Authority,
    AuthorityState,
    Boundary,
    Entry,
    Instance,
    JoinToken,
    JwtKey,
    PublishedJwtKey,
    UpstreamRoot,
)
from vestibule.spiffe import JwtAuthority, Selector, SpiffeId, TrustBundle, TrustDomain
from vestibule.store import AgentFilter, EntryFilter, Match, Store, Subscription
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sql.schema import metadata, version
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


Open: TypeAlias = Callable[[], Awaitable[Store]]
"""Opens the test's database, as each of several servers or a restarted one does."""


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> str:
    """One database for all tests of this file: to empty it is much cheaper than to make another."""
    name = postgres.new_database()
    prepare(PostgresAddress.parse(postgres.conninfo(name)))
    return name


@pytest.fixture(params=["sqlite", "postgres"])
def opening(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Open:
    if request.param == "sqlite":
        return lambda: open_store(tmp_path / "vestibule.db", clock)
    postgres: Postgres = request.getfixturevalue("postgres")
    name: str = request.getfixturevalue("database")
    tables = (table.name for table in metadata.sorted_tables if table is not version)
    postgres.execute(f"TRUNCATE {', '.join(tables)}", name)
    address = PostgresAddress.parse(postgres.conninfo(name))
    return lambda: open_postgres(address, clock)


@pytest.fixture
async def store(opening: Open) -> AsyncIterator[Store]:
    store = await opening()
    yield store
    await store.close()


def spiffe_id(path: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org{path}")


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(Selector.parse(text) for text in texts)


AGENT = spiffe_id("/spire/agent/one")


def foreign(name: str, *authorities: bytes) -> TrustBundle:
    return TrustBundle(trust_domain=TrustDomain.parse(name), x509_authorities=authorities)


def entry(name: str = "web", *wanted: str, parent: SpiffeId = AGENT, id: str = "") -> Entry:  # noqa: A002
    return Entry(
        id=id,
        spiffe_id=spiffe_id(f"/ns/prod/sa/{name}"),
        parent_id=parent,
        selectors=selectors(*(wanted or ("unix:uid:1",))),
    )


def agent(name: str = "one", **changes: object) -> AgentRecord:
    record = AgentRecord(
        spiffe_id=spiffe_id(f"/spire/agent/{name}"),
        attestation_type="join_token",
        serial="1",
        expires_at=NOW + MINUTE,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def kinds(subscription: Subscription) -> set[str]:
    subscription.close()

    async def drain() -> set[str]:
        return {change.kind async for change in subscription}

    # Closed, so the iteration ends without waiting.
    iteration = drain()
    try:
        iteration.send(None)
    except StopIteration as stop:
        found: set[str] = stop.value
        return found
    raise AssertionError("a closed subscription waited")


# ------------------------------------------------------------------------------------------- entries


async def test_a_new_entry_gets_an_id_a_revision_and_its_time(store: Store) -> None:
    created, new = await store.entries.create(entry())
    assert new
    assert created.id
    assert (created.revision, created.created_at) == (0, NOW)
    assert await store.entries.get(created.id) == created


async def test_an_entry_is_read_as_it_was_written(store: Store) -> None:
    for name in ("a.org", "b.org"):
        await store.bundles.put(foreign(name))
    full = Entry(
        id="chosen",
        spiffe_id=spiffe_id("/a"),
        parent_id=spiffe_id("/spire/server"),
        selectors=selectors("unix:uid:1", "unix:path:/bin/ä:b"),
        x509_svid_ttl=timedelta(milliseconds=1500),
        jwt_svid_ttl=timedelta(seconds=5),
        federates_with=("b.org", "a.org"),
        admin=True,
        downstream=True,
        expires_at=NOW + MINUTE,
        dns_names=("b", "a"),
        store_svid=True,
        hint="internal",
    )
    created, _ = await store.entries.create(full)
    assert created == replace(full, created_at=NOW)
    assert await store.entries.all() == [created]


async def test_a_similar_entry_is_found_instead_of_made(store: Store, clock: FakeClock) -> None:
    first, _ = await store.entries.create(entry("web", "a:1", "b:2"))
    clock.advance(1)
    again, new = await store.entries.create(replace(entry("web", "b:2", "a:1", id="other"), hint="x"))
    assert not new
    assert again == first


@pytest.mark.parametrize(
    "other",
    [
        entry("other", "a:b"),
        entry("web", "a:c"),
        entry("web", "a:b", "c:d"),
        entry("web", "a:b", parent=spiffe_id("/x")),
    ],
)
async def test_entries_that_differ_in_one_of_the_three_are_not_similar(store: Store, other: Entry) -> None:
    await store.entries.create(entry("web", "a:b"))
    _, new = await store.entries.create(other)
    assert new


async def test_an_id_that_is_taken_is_refused(store: Store) -> None:
    await store.entries.create(entry("web", id="mine"))
    with pytest.raises(VestibuleError, match="VST8010"):
        await store.entries.create(entry("other", id="mine"))
    assert await store.entries.count(EntryFilter()) == 1


async def test_of_many_who_create_the_same_entry_one_does(store: Store) -> None:
    results = await asyncio.gather(*(store.entries.create(entry()) for _ in range(20)))
    assert sum(new for _, new in results) == 1
    assert len({created.id for created, _ in results}) == 1


async def test_many_entries_are_created_together_and_each_has_its_own_outcome(store: Store) -> None:
    batch = [entry("a", id="1"), entry("b", id="1"), entry("a"), entry("c")]
    first, taken, similar, last = await store.entries.create_many(batch)
    assert not isinstance(first, VestibuleError)
    assert not isinstance(similar, VestibuleError)
    assert not isinstance(last, VestibuleError)
    assert (first[1], similar[1], last[1]) == (True, False, True)
    assert similar[0] == first[0]
    assert isinstance(taken, VestibuleError)
    assert taken.code.code == "VST8010"


async def test_an_update_counts_the_revision_and_keeps_the_creation(store: Store, clock: FakeClock) -> None:
    created, _ = await store.entries.create(entry())
    clock.advance(60)
    wanted = replace(created, hint="new", revision=99, created_at=None, spiffe_id=spiffe_id("/moved"))
    updated = await store.entries.update(wanted)
    assert updated == replace(wanted, revision=1, created_at=NOW)
    assert await store.entries.get(created.id) == updated
    assert (await store.entries.create(entry()))[1], "nothing is similar to what it was"


async def test_an_update_of_nothing_or_into_another_is_refused(store: Store) -> None:
    web, _ = await store.entries.create(entry("web"))
    await store.entries.create(entry("api"))
    with pytest.raises(VestibuleError, match="VST8011"):
        await store.entries.update(replace(web, id="unknown"))
    with pytest.raises(VestibuleError, match="VST8012"):
        await store.entries.update(replace(web, spiffe_id=entry("api").spiffe_id))
    assert await store.entries.get(web.id) == web


async def test_many_updates_are_made_at_once_and_an_error_stands_in_its_place(store: Store) -> None:
    web, _ = await store.entries.create(entry("web"))
    api, _ = await store.entries.create(entry("api"))
    wanted = [replace(web, hint="w"), replace(web, id="unknown"), replace(api, spiffe_id=web.spiffe_id)]
    changed, unknown, similar = await store.entries.update_many(wanted)
    assert isinstance(changed, Entry)
    assert (changed.hint, changed.revision) == ("w", 1)
    assert isinstance(unknown, VestibuleError)
    assert isinstance(similar, VestibuleError)
    assert await store.entries.get(api.id) == api


async def test_concurrent_updates_are_all_counted(store: Store) -> None:
    created, _ = await store.entries.create(entry())
    updates = (store.entries.update(replace(created, hint=str(number))) for number in range(10))
    assert {updated.revision for updated in await asyncio.gather(*updates)} == set(range(1, 11))


async def test_a_deleted_entry_is_gone(store: Store) -> None:
    created, _ = await store.entries.create(entry())
    assert await store.entries.delete(created.id)
    assert not await store.entries.delete(created.id)
    assert await store.entries.get(created.id) is None


async def test_pages_hold_every_entry_once_in_order(store: Store) -> None:
    await store.entries.create_many([entry(f"s{number}", id=f"{number:02}") for number in range(7)])
    seen: list[str] = []
    token, sizes = "", []
    while True:
        page = await store.entries.page(EntryFilter(), 3, token)
        seen += [item.id for item in page.items]
        sizes.append(len(page.items))
        if not (token := page.next_token):
            break
    assert seen == [f"{number:02}" for number in range(7)]
    assert sizes == [3, 3, 1]
    assert (await store.entries.page(EntryFilter(), 7)).next_token == ""
    assert len((await store.entries.page(EntryFilter(), 0)).items) == 7


async def test_more_entries_than_are_read_at_once_are_all_listed(store: Store) -> None:
    await store.entries.create_many([entry(f"s{number}") for number in range(1201)])
    page = await store.entries.page(EntryFilter(), 1100)
    rest = await store.entries.page(EntryFilter(), 1100, page.next_token)
    assert len({item.id for item in (*page.items, *rest.items)}) == 1201
    assert await store.entries.count(EntryFilter(selectors=selectors("unix:uid:1"))) == 1201


@pytest.mark.parametrize("token", ["!", "ä", "%%%%", "/w=="])
async def test_a_malformed_page_token_is_refused(store: Store, token: str) -> None:
    with pytest.raises(VestibuleError, match="VST8013"):
        await store.entries.page(EntryFilter(), 1, token)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (EntryFilter(), "a b c"),
        (EntryFilter(spiffe_id=spiffe_id("/ns/prod/sa/a")), "a"),
        (EntryFilter(parent_id=spiffe_id("/other")), "c"),
        (EntryFilter(hint="h"), "b"),
        (EntryFilter(hint=""), "a c"),
        (EntryFilter(downstream=True), "b"),
        (EntryFilter(downstream=False), "a c"),
        (EntryFilter(selectors=selectors("x:1", "x:2")), "b"),
        (EntryFilter(selectors=selectors("x:1", "x:2"), selectors_match=Match.SUBSET), "a b"),
        (EntryFilter(selectors=selectors("x:1"), selectors_match=Match.SUPERSET), "a b c"),
        (EntryFilter(selectors=selectors("x:2", "y:9"), selectors_match=Match.ANY), "b c"),
        (EntryFilter(federates_with=frozenset({"f.org"})), "c"),
        (EntryFilter(federates_with=frozenset({"f.org", "g.org"}), federates_with_match=Match.SUBSET), "c"),
        (EntryFilter(hint="h", downstream=False), ""),
    ],
)
async def test_a_filter_finds_what_it_asks_for(store: Store, asked: EntryFilter, names: str) -> None:
    await store.bundles.put(foreign("f.org"))
    await store.entries.create_many(
        [
            entry("a", "x:1"),
            replace(entry("b", "x:1", "x:2"), hint="h", downstream=True),
            replace(entry("c", "x:1", "x:2", "x:3", parent=spiffe_id("/other")), federates_with=("f.org",)),
        ]
    )
    found = (await store.entries.page(asked, 0)).items
    assert sorted(item.spiffe_id.path[-1] for item in found) == names.split()
    assert await store.entries.count(asked) == len(names.split())


# -------------------------------------------------------------------------------------------- agents


async def test_an_agent_is_read_as_it_was_written(store: Store) -> None:
    record = agent(
        new_serial="340282366920938463463374607431768211455",
        new_expires_at=NOW + 2 * MINUTE,
        selectors=selectors("x509pop:subject:cn:a"),
        can_reattest=True,
        version="1.2",
        attested_at=NOW,
    )
    assert await store.agents.put(record) == record
    assert await store.agents.get(record.spiffe_id) == record
    assert await store.agents.get(spiffe_id("/spire/agent/two")) is None


async def test_a_ban_survives_attestation_and_renewal(store: Store) -> None:
    await store.agents.put(agent(selectors=selectors("x509pop:subject:cn:a")))
    assert await store.agents.banned() == {AGENT: False}
    assert await store.agents.selectors() == {AGENT: selectors("x509pop:subject:cn:a")}
    assert await store.agents.set_banned(AGENT)
    assert await store.agents.banned() == {AGENT: True}
    assert await store.agents.selectors() == {}
    assert (await store.agents.put(agent(serial="2"))).banned
    assert await store.agents.update(agent(serial="3")) is None
    assert (await store.agents.get(AGENT)) == agent(serial="2", banned=True)
    assert await store.agents.set_banned(AGENT, False)
    assert await store.agents.update(agent(serial="4")) == agent(serial="4")


async def test_a_renewal_does_not_bring_back_an_evicted_agent(store: Store) -> None:
    await store.agents.put(agent())
    assert await store.agents.delete(AGENT)
    assert await store.agents.update(agent(serial="2")) is None
    assert await store.agents.get(AGENT) is None
    assert not await store.agents.delete(AGENT)
    assert not await store.agents.set_banned(AGENT)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (AgentFilter(), "a b c"),
        (AgentFilter(attestation_type="x509pop"), "b"),
        (AgentFilter(banned=True), "c"),
        (AgentFilter(banned=False), "a b"),
        (AgentFilter(can_reattest=True), "b"),
        (AgentFilter(expires_before=NOW + 2 * MINUTE), "a c"),
        (AgentFilter(selectors=selectors("k:v"), selectors_match=Match.ANY), "b"),
    ],
)
async def test_agents_are_found_by_what_is_asked(store: Store, asked: AgentFilter, names: str) -> None:
    await store.agents.put(agent("a"))
    await store.agents.put(
        agent(
            "b",
            attestation_type="x509pop",
            can_reattest=True,
            expires_at=NOW + 9 * MINUTE,
            selectors=selectors("k:v"),
        )
    )
    await store.agents.put(agent("c"))
    await store.agents.set_banned(spiffe_id("/spire/agent/c"))
    first = await store.agents.page(asked, 1)
    rest = await store.agents.page(asked, 0, first.next_token) if first.next_token else None
    found = [*first.items, *(rest.items if rest else ())]
    assert [item.spiffe_id.path[-1] for item in found] == names.split()
    assert await store.agents.count(asked) == len(names.split())


# --------------------------------------------------------------------------------------- join tokens


async def refusal(store: Store, token: str, now: datetime = NOW) -> str:
    with pytest.raises(VestibuleError) as caught:
        await store.join_tokens.consume(token, now)
    assert token not in str(caught.value), "a token is a secret even when it is of no use"
    return caught.value.code.code


async def test_a_join_token_works_once(store: Store) -> None:
    token = JoinToken(token="secret-1", expires_at=NOW + MINUTE, agent_id=AGENT)
    await store.join_tokens.add(token)
    assert await store.join_tokens.consume("secret-1", NOW) == token
    assert await refusal(store, "secret-1") == "VST8021"


async def test_unknown_used_and_expired_are_told_apart(store: Store) -> None:
    await store.join_tokens.add(JoinToken(token="late", expires_at=NOW))
    assert await refusal(store, "never-made") == "VST8020"
    assert await refusal(store, "late") == "VST8022", "the last instant is too late"
    await store.join_tokens.add(JoinToken(token="spent-1", expires_at=NOW + MINUTE))
    await store.join_tokens.consume("spent-1", NOW)
    assert await refusal(store, "spent-1", NOW + 2 * MINUTE) == "VST8021", "used is the worse news"


async def test_of_many_who_use_a_join_token_at_once_one_succeeds(store: Store) -> None:
    for round_ in range(5):
        token = f"secret-{round_}"
        await store.join_tokens.add(JoinToken(token=token, expires_at=NOW + MINUTE))
        results = await asyncio.gather(
            *(store.join_tokens.consume(token, NOW) for _ in range(50)), return_exceptions=True
        )
        outcomes = Counter(
            result.code.code if isinstance(result, VestibuleError) else type(result).__name__
            for result in results
        )
        assert outcomes == {"JoinToken": 1, "VST8021": 49}


async def test_a_join_token_can_not_be_made_new_again(store: Store) -> None:
    token = JoinToken(token="secret", expires_at=NOW + MINUTE)
    await store.join_tokens.add(token)
    with pytest.raises(VestibuleError, match="VST8023"):
        await store.join_tokens.add(token)
    await store.join_tokens.consume("secret", NOW)
    with pytest.raises(VestibuleError, match="VST8023"):
        await store.join_tokens.add(token)
    assert await refusal(store, "secret") == "VST8021"


async def test_old_join_tokens_are_forgotten(store: Store) -> None:
    await store.join_tokens.add(JoinToken(token="old", expires_at=NOW))
    await store.join_tokens.add(JoinToken(token="young", expires_at=NOW + MINUTE))
    assert await store.join_tokens.prune(NOW + timedelta(seconds=1)) == 1
    assert await refusal(store, "old") == "VST8020"
    assert (await store.join_tokens.consume("young", NOW)).token == "young"


# ------------------------------------------------------------------------- authorities and bundles


def authority(name: str, state: AuthorityState = AuthorityState.ACTIVE, start: datetime = NOW) -> Authority:
    return Authority(
        id=name,
        key_id=f"key-{name}",
        chain=(b"\x30", b"\x31"),
        state=state,
        not_before=start,
        not_after=start + MINUTE,
    )


async def test_authorities_are_listed_oldest_first(store: Store) -> None:
    young, old = authority("a", start=NOW + MINUTE), authority("b")
    await store.authorities.put(young)
    await store.authorities.put(old)
    assert await store.authorities.all() == [old, young]


async def test_authorities_change_together(store: Store) -> None:
    await store.authorities.put(authority("a"), authority("b", AuthorityState.PREPARED))
    await store.authorities.put(authority("a", AuthorityState.OLD), authority("b"))
    states = {known.id: known.state for known in await store.authorities.all()}
    assert states == {"a": AuthorityState.OLD, "b": AuthorityState.ACTIVE}
    assert await store.authorities.delete("a")
    assert not await store.authorities.delete("a")
    assert [known.id for known in await store.authorities.all()] == ["b"]


def jwt_key(name: str, state: AuthorityState = AuthorityState.ACTIVE, start: datetime = NOW) -> JwtKey:
    return JwtKey(
        id=name,
        key_id=f"key-{name}",
        public_key=b"\x30\x00",
        state=state,
        not_before=start,
        not_after=start + MINUTE,
    )


async def test_jwt_keys_are_kept_beside_the_authorities(store: Store) -> None:
    subscription = store.changes.subscribe("authorities")
    young, old = jwt_key("a", start=NOW + MINUTE), jwt_key("b", AuthorityState.PREPARED)
    await store.jwt_keys.put(young, old)
    assert await store.jwt_keys.all() == [old, young]
    assert await store.authorities.all() == []
    await store.jwt_keys.put(replace(old, state=AuthorityState.OLD))
    assert await store.jwt_keys.delete("a")
    assert not await store.jwt_keys.delete("a")
    assert await store.jwt_keys.all() == [replace(old, state=AuthorityState.OLD)]
    assert kinds(subscription) == {"authorities"}


async def test_a_bundle_keeps_its_jwt_keys(store: Store) -> None:
    keys = (
        JwtAuthority(key_id="one", public_key=b"\x30\x00", expires_at=NOW),
        JwtAuthority(key_id="of another's bundle", public_key=b"\x30\x01"),
    )
    ours = TrustDomain.parse("example.org")
    bundle = TrustBundle(trust_domain=ours, x509_authorities=(), jwt_authorities=keys)
    await store.bundles.put(bundle)
    assert await store.bundles.get(ours) == bundle
    await store.bundles.put(replace(bundle, jwt_authorities=()))
    assert await store.bundles.get(ours) == replace(bundle, jwt_authorities=())


async def test_what_is_tainted_is_kept_with_the_bundle_and_what_is_above_with_the_authority(
    store: Store,
) -> None:
    ours = TrustDomain.parse("example.org")
    bundle = TrustBundle(
        trust_domain=ours,
        x509_authorities=(b"\x30", b"\x31", b"\x32"),
        tainted_x509=frozenset({b"\x30", b"\x32"}),
        jwt_authorities=(JwtAuthority(key_id="one", public_key=b"\x30\x00", tainted=True),),
    )
    await store.bundles.put(bundle)
    assert await store.bundles.get(ours) == bundle
    below = replace(authority("a"), upstream_authority_id="beef")
    await store.authorities.put(below)
    assert await store.authorities.all() == [below]


async def test_distrusted_roots_are_kept_by_their_identifier(store: Store) -> None:
    root = UpstreamRoot(id="beef", state=AuthorityState.TAINTED, not_before=NOW, not_after=NOW + MINUTE)
    await store.upstream_roots.put(root)
    await store.upstream_roots.put(replace(root, state=AuthorityState.REVOKED))
    assert await store.upstream_roots.all() == [replace(root, state=AuthorityState.REVOKED)]
    assert await store.upstream_roots.delete("beef")
    assert not await store.upstream_roots.delete("beef")
    assert await store.upstream_roots.all() == []


async def test_published_jwt_keys_are_kept_apart_from_our_own(store: Store) -> None:
    key = PublishedJwtKey(
        id="a",
        public_key=b"\x30\x00",
        publisher=SpiffeId.parse("spiffe://example.org/lower"),
        state=AuthorityState.OLD,
        not_before=NOW,
        not_after=NOW + MINUTE,
    )
    await store.published_jwt_keys.put(key, replace(key, id="b", not_before=NOW - MINUTE))
    assert [each.id for each in await store.published_jwt_keys.all()] == ["b", "a"]
    assert await store.jwt_keys.all() == []
    await store.published_jwt_keys.put(replace(key, state=AuthorityState.REVOKED))
    assert (await store.published_jwt_keys.all())[-1] == replace(key, state=AuthorityState.REVOKED)
    assert await store.published_jwt_keys.delete("a")
    assert not await store.published_jwt_keys.delete("a")


async def test_appended_authorities_are_kept_until_they_are_forgotten(store: Store) -> None:
    key = AppendedAuthority(
        id="a",
        kind=AppendedKind.JWT,
        key_id="k",
        material=b"\x30\x00",
        not_before=NOW,
        not_after=NOW + MINUTE,
    )
    certificate = replace(key, id="b", kind=AppendedKind.X509, key_id="", not_before=NOW - MINUTE)
    endless = replace(key, id="c", kind=AppendedKind.WIT, not_before=NOW + MINUTE, not_after=None)
    await store.appended_authorities.put(key, certificate, endless)
    await store.appended_authorities.put(key)
    assert await store.appended_authorities.all() == [certificate, key, endless]
    assert await store.appended_authorities.delete("a")
    assert not await store.appended_authorities.delete("a")
    assert await store.appended_authorities.all() == [certificate, endless]


async def test_a_bundle_replaces_the_one_before(store: Store) -> None:
    ours, theirs = TrustDomain.parse("example.org"), TrustDomain.parse("other.org")
    first = TrustBundle(trust_domain=ours, x509_authorities=(b"\x30",), sequence=2**64 - 1, refresh_hint=5)
    foreign = TrustBundle(trust_domain=theirs, x509_authorities=())
    await store.bundles.put(first)
    await store.bundles.put(foreign)
    assert await store.bundles.get(ours) == first
    second = replace(first, x509_authorities=(b"\x31", b"\x32"), sequence=1)
    await store.bundles.put(second)
    assert await store.bundles.get(ours) == second
    assert await store.bundles.get(theirs) == foreign
    assert await store.bundles.get(TrustDomain.parse("unknown.org")) is None


# ----------------------------------------------------------------------------------------- instances


def instance(name: str = "one", lease: datetime | None = NOW + MINUTE) -> Instance:
    return Instance(
        id=name,
        service="web",
        spiffe_id=spiffe_id("/ns/prod/sa/web"),
        agent_id=AGENT,
        version="v2",
        ingress={"http": Address.parse("127.0.0.1:8443")},
        apps={"http": Address.parse("unix:/run/app.sock")},
        egress=Address.parse("[::1]:15001"),
        upstreams={"payments/grpc": Address.parse("127.0.0.1:9000")},
        boundary=Boundary.UNIX,
        lease_expires_at=lease,
    )


async def test_an_instance_is_read_as_it_was_written(store: Store) -> None:
    bare = replace(instance("bare"), egress=None, ingress={}, apps={}, upstreams={}, lease_expires_at=None)
    await store.instances.put(instance())
    await store.instances.put(bare)
    assert await store.instances.all() == [bare, instance()]
    assert await store.instances.delete("bare")
    assert not await store.instances.delete("bare")


async def test_instances_expire_with_their_leases(store: Store) -> None:
    for known in (instance("a"), instance("b", NOW + 2 * MINUTE), instance("c", None)):
        await store.instances.put(known)
    assert await store.instances.expire(NOW) == []
    assert await store.instances.expire(NOW + MINUTE) == [instance("a")]
    assert [known.id for known in await store.instances.all()] == ["b", "c"]


async def test_leases_are_extended_and_never_shortened(store: Store) -> None:
    await store.instances.put(instance("a"))
    await store.instances.put(instance("b", NOW + 9 * MINUTE))
    await store.instances.extend_leases(NOW + 5 * MINUTE)
    leases = [known.lease_expires_at for known in await store.instances.all()]
    assert leases == [NOW + 5 * MINUTE, NOW + 9 * MINUTE]


async def test_leases_of_some_are_renewed_and_nobody_is_told(store: Store) -> None:
    for name in ("a", "b"):
        await store.instances.put(instance(name))
    subscription = store.changes.subscribe()
    await store.instances.renew(["a", "unknown"], NOW + 5 * MINUTE)
    await store.instances.renew([], NOW + 9 * MINUTE)
    leases = [(known.id, known.lease_expires_at) for known in await store.instances.all()]
    assert leases == [("a", NOW + 5 * MINUTE), ("b", NOW + MINUTE)]
    assert kinds(subscription) == set()


# ------------------------------------------------------------------------------------------- changes


async def test_a_change_is_told_after_it_can_be_read(store: Store) -> None:
    subscription = store.changes.subscribe("entries")
    reading = asyncio.ensure_future(anext(subscription))
    created, _ = await store.entries.create(entry())
    assert (await reading).kind == "entries"
    assert await store.entries.all() == [created]


async def test_every_kind_of_change_is_told(store: Store) -> None:
    subscription = store.changes.subscribe()
    await store.entries.create(entry())
    await store.agents.put(agent())
    await store.authorities.put(authority("a"))
    await store.bundles.put(TrustBundle(trust_domain=TrustDomain.parse("example.org"), x509_authorities=()))
    await store.instances.put(instance())
    assert kinds(subscription) == {"entries", "agents", "authorities", "bundle", "instances"}


async def test_what_changes_nothing_tells_nothing(store: Store) -> None:
    created, _ = await store.entries.create(entry())
    await store.instances.put(instance())
    subscription = store.changes.subscribe()
    await store.entries.create(entry())
    await store.entries.delete("unknown")
    with pytest.raises(VestibuleError):
        await store.entries.update(replace(created, id="unknown"))
    await store.agents.delete(AGENT)
    await store.agents.set_banned(AGENT)
    await store.agents.update(agent())
    await store.authorities.delete("unknown")
    await store.instances.put(instance(lease=NOW + 5 * MINUTE))
    await store.instances.delete("unknown")
    await store.instances.expire(NOW)
    assert kinds(subscription) == set()


async def test_everything_survives_a_restart(opening: Open) -> None:
    first = await opening()
    created, _ = await first.entries.create(entry())
    await first.agents.put(agent())
    await first.instances.put(instance())
    await first.authorities.put(authority("a"))
    await first.close()
    second = await opening()
    assert await second.entries.all() == [created]
    assert await second.agents.get(AGENT) == agent()
    assert await second.instances.all() == [instance()]
    assert await second.authorities.all() == [authority("a")]
    await second.close()


async def test_of_many_servers_one_consumes_a_join_token(opening: Open, store: Store) -> None:
    await store.join_tokens.add(JoinToken(token="t", expires_at=NOW + MINUTE))
    others = [await opening() for _ in range(3)]
    everyone = [store, *others] * 5
    results = await asyncio.gather(
        *(one.join_tokens.consume("t", NOW) for one in everyone), return_exceptions=True
    )
    for other in others:
        await other.close()
    assert sum(isinstance(result, JoinToken) for result in results) == 1
    refused = {result.code.code for result in results if isinstance(result, VestibuleError)}
    assert refused == {"VST8021"}


async def test_servers_that_change_one_entry_at_once_all_count(opening: Open, store: Store) -> None:
    other = await opening()
    created, _ = await store.entries.create(entry())
    updates = (
        one.entries.update(replace(created, hint=str(number)))
        for number, one in enumerate([store, other] * 5)
    )
    assert {updated.revision for updated in await asyncio.gather(*updates)} == set(range(1, 11))
    await other.close()


async def test_servers_that_make_one_entry_at_once_find_it(opening: Open, store: Store) -> None:
    other = await opening()
    results = await asyncio.gather(*(one.entries.create(entry()) for one in [store, other] * 5))
    assert sum(new for _, new in results) == 1
    assert len({created.id for created, _ in results}) == 1
    await other.close()


async def test_a_caller_that_gives_up_leaves_the_store_usable(store: Store) -> None:
    writes = [asyncio.ensure_future(store.entries.create(entry(f"s{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    created, _ = await store.entries.create(entry("last"))
    assert created in await store.entries.all()


async def test_listings_are_in_the_order_of_bytes(store: Store) -> None:
    await store.entries.create_many(
        [entry(name, id=name) for name in ("b", "A", "a-b", "aB", "ab", "a.c", "Z")]
    )
    names = sorted(("b", "A", "a-b", "aB", "ab", "a.c", "Z"))
    assert [found.id for found in await store.entries.all()] == names
    first = await store.entries.page(EntryFilter(), 3)
    rest = await store.entries.page(EntryFilter(), 0, first.next_token)
    assert [found.id for found in (*first.items, *rest.items)] == names


async def test_a_lone_server_leads_in_the_end(store: Store) -> None:
    following = asyncio.create_task(store.run())
    async with asyncio.timeout(60):
        while not store.leads:
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


# ------------------------------------------------------------------- labels, templates, administrators


async def test_labels_claims_and_templates_are_read_as_they_were_written(store: Store) -> None:
    full = replace(
        entry("user", id="t"),
        labels=(("env", "prod"), ("team", "shop")),
        jwt_claims='{"org":"{unix:user}"}',
        path_template="/ns/prod/sa/user/{unix:user}",
        dns_templates=("{unix:user}.x",),
        max_identities=7,
        disable_x509_svid_prefetch=True,
        jwt_svid_include_jti=True,
    )
    derived = replace(entry("user/a", id="d"), template_id="t")
    for each in (full, derived, entry("web", "unix:uid:2", id="w")):
        await store.entries.create(each)
    kept = await store.entries.get("t")
    assert kept == replace(full, created_at=NOW)
    for wanted, ids in (
        (EntryFilter(template_id="t"), ["d"]),
        (EntryFilter(labels=(("env", "prod"),)), ["t"]),
        (EntryFilter(labels=(("env", ""), ("team", "shop"))), ["t"]),
        (EntryFilter(labels=(("env", "dev"),)), []),
        (EntryFilter(visible=lambda each: each.id != "t"), ["d", "w"]),
    ):
        assert [each.id for each in (await store.entries.page(wanted, 0)).items] == ids
        assert await store.entries.count(wanted) == len(ids)


async def test_templates_of_one_beginning_are_not_similar(store: Store) -> None:
    for path in ("/a/{unix:user}", "/a/{unix:uid}"):
        _, new = await store.entries.create(replace(entry("a"), path_template=path))
        assert new
    _, new = await store.entries.create(replace(entry("a"), path_template="/a/{unix:uid}"))
    assert not new


async def test_administrators_are_kept_changed_and_forgotten(store: Store) -> None:
    subscription = store.changes.subscribe("administrators")
    one = Administrator(
        id="1",
        spiffe_id=spiffe_id("/ops"),
        powers=("entries", "tokens"),
        paths=("/ns/dev",),
        parents=("/",),
        features=("dns",),
        dns_suffixes=("example.org",),
        max_x509_svid_ttl=MINUTE,
        expires_at=NOW + MINUTE,
        created_at=NOW,
        created_by="local",
    )
    await store.administrators.put(one)
    await store.administrators.put(replace(one, paths=("/ns/test",)))
    assert await store.administrators.all() == [replace(one, paths=("/ns/test",))]
    assert await store.administrators.delete("1")
    assert not await store.administrators.delete("1")
    assert await store.administrators.all() == []
    assert kinds(subscription) == {"administrators"}
