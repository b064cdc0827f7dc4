"""What may be kept of other trust domains, and how what is kept stays fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import AGENT, World, entry, identity_world

from vestibule.calls.http.codes import HTTP_UNREACHABLE
from vestibule.errors import VestibuleError
from vestibule.identity.codes import FOREIGN_BUNDLE_REFUSED, OLDER_BUNDLE, OWN_TRUST_DOMAIN
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.identity.federation import Federation
from vestibule.identity.foreign_bundles import MAX_AUTHORITIES, check_foreign_bundle
from vestibule.identity.polling import DEFAULT_HINT, LONGEST, interval, pause
from vestibule.identity.relationships import Given, RelationshipPatch, Relationships
from vestibule.records import BundleDeletion, FederationRelationship
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain
from vestibule.testing import TestAuthority

PARTNER = TestAuthority("partner.org")
OWN = TestAuthority("example.org")
MINUTE = timedelta(minutes=1)
ENDPOINT = SpiffeId.parse("spiffe://partner.org/spire/server")


# --------------------------------------------------------------------------- what may be kept


def code_of(bundle: TrustBundle) -> str:
    with pytest.raises(VestibuleError) as raised:
        check_foreign_bundle(bundle, OWN.jwt_bundle)
    return raised.value.code.code


def test_a_partners_bundle_may_be_kept() -> None:
    assert check_foreign_bundle(PARTNER.jwt_bundle, OWN.jwt_bundle) == PARTNER.jwt_bundle


def test_a_bundle_for_our_own_trust_domain_is_refused() -> None:
    assert code_of(OWN.bundle) == OWN_TRUST_DOMAIN.code
    assert code_of(replace(PARTNER.bundle, trust_domain=OWN.trust_domain)) == OWN_TRUST_DOMAIN.code


def test_a_bundle_that_carries_our_trust_domain_is_refused() -> None:
    another = TestAuthority("example.org").certificate  # with a key that nobody knows, named as ours
    assert code_of(with_certificates(PARTNER.certificate, another)) == FOREIGN_BUNDLE_REFUSED.code


def test_a_bundle_that_carries_one_of_our_keys_is_refused() -> None:
    assert code_of(with_certificates(OWN.certificate)) == FOREIGN_BUNDLE_REFUSED.code
    shared = replace(PARTNER.bundle, jwt_authorities=(OWN.jwt_authority,))
    assert code_of(shared) == FOREIGN_BUNDLE_REFUSED.code
    renamed = replace(OWN.jwt_authority, key_id="of theirs, they say")
    assert code_of(replace(PARTNER.bundle, jwt_authorities=(renamed,))) == FOREIGN_BUNDLE_REFUSED.code


def test_keys_of_wit_svids_are_judged_as_those_of_jwt_svids_are() -> None:
    theirs = PARTNER.jwt_authority
    good = replace(PARTNER.bundle, wit_authorities=(theirs,))
    assert check_foreign_bundle(good, OWN.jwt_bundle) == good
    for wrong in (
        (OWN.jwt_authority,),
        (replace(theirs, public_key=b"garbage"),),
        (replace(theirs, key_id=""),),
        (theirs,) * (MAX_AUTHORITIES + 1),
    ):
        assert code_of(replace(PARTNER.bundle, wit_authorities=wrong)) == FOREIGN_BUNDLE_REFUSED.code
    both = replace(PARTNER.jwt_bundle, wit_authorities=(theirs,))
    assert code_of(both) == FOREIGN_BUNDLE_REFUSED.code


def test_a_bundle_whose_keys_cannot_be_told_apart_is_refused() -> None:
    second = replace(TestAuthority("partner.org").jwt_authority, key_id=PARTNER.jwt_authority.key_id)
    twice = replace(PARTNER.bundle, jwt_authorities=(PARTNER.jwt_authority, second))
    assert code_of(twice) == FOREIGN_BUNDLE_REFUSED.code
    nameless = JwtAuthority(key_id="", public_key=PARTNER.jwt_authority.public_key)
    assert code_of(replace(PARTNER.bundle, jwt_authorities=(nameless,))) == FOREIGN_BUNDLE_REFUSED.code


def test_a_huge_bundle_is_refused_unread() -> None:
    assert code_of(with_certificates(*[b"x"] * (MAX_AUTHORITIES + 1))) == FOREIGN_BUNDLE_REFUSED.code


def test_garbage_is_refused() -> None:
    assert code_of(with_certificates(b"garbage")) == "VST1005"
    garbage = JwtAuthority(key_id="k", public_key=b"garbage")
    assert code_of(replace(PARTNER.bundle, jwt_authorities=(garbage,))) == FOREIGN_BUNDLE_REFUSED.code


def test_a_certificate_that_stands_twice_counts_once_and_an_endless_hint_is_cut() -> None:
    bundle = replace(with_certificates(PARTNER.certificate, PARTNER.certificate), refresh_hint=2**63)
    checked = check_foreign_bundle(bundle, OWN.bundle)
    assert checked.x509_authorities == (PARTNER.certificate,)
    assert checked.refresh_hint < 2**31


def test_b1_an_empty_bundle_may_be_kept_and_nobody_is_believed() -> None:
    empty = with_certificates()
    assert check_foreign_bundle(empty, OWN.bundle) == empty


def with_certificates(*certificates: bytes) -> TrustBundle:
    return TrustBundle(trust_domain=PARTNER.trust_domain, x509_authorities=certificates, sequence=1)


# -------------------------------------------------------------------------------- when it is fetched


def test_f6_the_hint_says_when_within_reason() -> None:
    assert interval(0) == DEFAULT_HINT == timedelta(minutes=5)
    assert interval(600) == timedelta(minutes=10)
    assert interval(1) == timedelta(minutes=1)
    assert interval(2**64) == LONGEST


@pytest.mark.parametrize("jitter", [-1.0, 0.0, 1.0])
def test_fetches_are_spread_and_never_late(jitter: float) -> None:
    assert timedelta(minutes=9) <= pause(600, 0, jitter) <= timedelta(minutes=10)


def test_failures_are_tried_again_soon_and_then_less_often() -> None:
    waits = [pause(3600, failures, 0.0) for failures in range(1, 40)]
    assert waits[0] <= timedelta(seconds=10)
    assert waits == sorted(waits)
    assert waits[-1] == DEFAULT_HINT
    assert pause(60, 30, 0.0) == MINUTE, "never later than if all were well"


# ------------------------------------------------------------------------------------ keeping fresh


@dataclass
class EndpointDouble:
    """Answers with a bundle or an error; knows with what it was verified."""

    bundle: TrustBundle | None = None
    meanwhile: Callable[[], object] | None = None
    asked: list[TrustBundle | None] = field(default_factory=list)

    async def fetch(self, relationship: FederationRelationship, trust: TrustBundle | None) -> TrustBundle:
        self.asked.append(trust)
        if self.meanwhile is not None:
            change, self.meanwhile = self.meanwhile, None
            answer = change()
            assert asyncio.iscoroutine(answer)
            await answer
        if self.bundle is None:
            raise HTTP_UNREACHABLE.error("nobody there")
        return self.bundle


@dataclass
class Desk:
    world: World
    bundles: FederatedBundles
    relationships: Relationships
    federation: Federation
    endpoint: EndpointDouble

    @property
    def held(self) -> TrustBundle | None:
        return self.bundles.bundle(PARTNER.trust_domain)

    async def create(self, bundle: TrustBundle | None = None, *, web: bool = False) -> None:
        [result] = await self.relationships.create("test", [Given(relationship=relation(web), bundle=bundle)])
        assert not isinstance(result, VestibuleError), result

    async def refresh(self) -> str:
        """The code of why it failed, if it did."""
        try:
            await self.federation.refresh("test", PARTNER.trust_domain)
        except VestibuleError as error:
            return error.code.code
        return ""

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.002)


def relation(web: bool = False) -> FederationRelationship:
    return FederationRelationship(
        trust_domain=PARTNER.trust_domain,
        bundle_endpoint_url="https://partner.org/",
        endpoint_spiffe_id=None if web else ENDPOINT,
    )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with identity_world(tmp_path) as world:
        own = world.authorities.bundle
        bundles = FederatedBundles(world.store, world.entitlements, world.audit, own)
        relationships = Relationships(world.store, bundles, world.audit, own)
        endpoint = EndpointDouble(published(1))
        federation = Federation(
            world.store, relationships, bundles, endpoint, world.audit, world.clock, own, jitter=lambda: 0.0
        )
        await bundles.start()
        yield Desk(world, bundles, relationships, federation, endpoint)


def published(sequence: int, *, hint: int = 600, authority: TestAuthority = PARTNER) -> TrustBundle:
    return replace(
        authority.jwt_bundle, trust_domain=PARTNER.trust_domain, sequence=sequence, refresh_hint=hint
    )


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.federation.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_f4_first_the_supplied_bundle_then_the_latest_one_verifies_the_endpoint(desk: Desk) -> None:
    supplied = replace(PARTNER.bundle, sequence=0)
    await desk.create(supplied)
    assert await desk.refresh() == ""
    assert await desk.refresh() == ""
    assert desk.endpoint.asked == [supplied, published(1)]
    assert desk.held == published(1)


async def test_f5_what_is_fetched_takes_the_place_of_what_was_there(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    successor = TestAuthority("partner.org")
    desk.endpoint.bundle = published(2, authority=successor)
    assert await desk.refresh() == ""
    assert desk.held is not None
    assert desk.held.x509_authorities == (successor.certificate,)


async def test_f6_it_is_polled_at_the_hint(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    async with running(desk):
        await desk.until(lambda: len(desk.endpoint.asked) == 1)
        await desk.world.clock.until_asleep()
        desk.world.clock.advance(timedelta(minutes=8))
        await asyncio.sleep(0.02)
        assert len(desk.endpoint.asked) == 1
        desk.world.clock.advance(timedelta(minutes=2))
        await desk.until(lambda: len(desk.endpoint.asked) == 2)


async def test_an_outage_takes_nothing_away_and_its_length_is_known(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    assert await desk.refresh() == ""
    fetched = desk.world.clock.now()
    desk.endpoint.bundle = None
    for failures in range(1, 4):
        desk.world.clock.advance(timedelta(hours=1))
        assert await desk.refresh() == "VST2340"
        progress = desk.federation.progress(PARTNER.trust_domain)
        assert (progress.failures, progress.fetched_at) == (failures, fetched)
    assert desk.held == published(1)
    kept = await desk.world.store.relationships.get(PARTNER.trust_domain)
    assert kept is not None
    assert kept.fetched_at == fetched, "also after a restart"
    desk.endpoint.bundle = published(2)
    assert await desk.refresh() == ""
    assert desk.federation.progress(PARTNER.trust_domain).failures == 0


@pytest.mark.parametrize(
    "bad",
    [
        lambda own: published(2, authority=TestAuthority("example.org")),
        lambda own: replace(published(2), x509_authorities=own.x509_authorities),
        lambda own: replace(published(2), x509_authorities=(b"garbage",)),
        lambda own: replace(published(2), x509_authorities=(b"x",) * 1000),
    ],
    ids=["named as ours", "our own authorities", "garbage", "huge"],
)
async def test_what_must_not_be_taken_is_refused_and_the_last_good_one_kept(
    desk: Desk, bad: Callable[[TrustBundle], TrustBundle]
) -> None:
    await desk.create(PARTNER.bundle)
    assert await desk.refresh() == ""
    desk.endpoint.bundle = bad(desk.world.authorities.bundle())
    assert await desk.refresh() in ("VST1230", "VST1005")
    assert desk.held == published(1)


async def test_a_refused_bundle_is_on_record_once(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    desk.endpoint.bundle = replace(published(2), x509_authorities=(b"x",) * 1000)
    for _ in range(5):
        await desk.refresh()
    refused = [each for each in desk.world.audit.events if each.outcome == "VST1230"]
    assert len(refused) == 1


async def test_b2_an_older_bundle_does_not_bring_withdrawn_authorities_back(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    desk.endpoint.bundle = published(9)
    assert await desk.refresh() == ""
    desk.endpoint.bundle = published(8, authority=TestAuthority("partner.org"))
    assert await desk.refresh() == OLDER_BUNDLE.code
    assert desk.held == published(9)
    # What the operator sets counts, until the next fetch that is not older.
    await desk.bundles.set("test", [published(3)])
    assert desk.held == published(3)
    assert await desk.refresh() == ""


async def test_without_a_bundle_the_endpoint_is_not_even_asked(desk: Desk) -> None:
    await desk.create()
    assert await desk.refresh() == "VST1235"
    assert desk.endpoint.asked == []
    await desk.bundles.set("test", [replace(PARTNER.bundle, x509_authorities=())])
    assert await desk.refresh() == "VST1235", "an empty one proves nothing either"


async def test_a_bundle_that_is_set_ends_the_wait(desk: Desk) -> None:
    await desk.create()
    async with running(desk):
        await desk.until(lambda: desk.federation.progress(PARTNER.trust_domain).failures == 1)
        await desk.bundles.set("test", [PARTNER.bundle])
        await desk.until(lambda: desk.held == published(1))


async def test_nothing_is_taken_for_a_relationship_that_is_gone(desk: Desk) -> None:
    await desk.create(web=True)

    async def end() -> None:
        await desk.relationships.delete("test", [PARTNER.trust_domain])
        await desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.RESTRICT)

    desk.endpoint.meanwhile = end
    assert await desk.refresh() == "VST1237"
    assert desk.held is None


async def test_what_an_operator_sets_during_a_fetch_is_not_overwritten_by_it(desk: Desk) -> None:
    await desk.create(web=True)
    chosen = published(5)
    desk.endpoint.meanwhile = lambda: desk.bundles.set("test", [chosen])
    assert await desk.refresh() == "VST1237"
    assert desk.held == chosen


async def test_a_changed_endpoint_is_asked_at_once_and_a_deleted_one_no_more(desk: Desk) -> None:
    await desk.create(web=True)
    async with running(desk):
        await desk.until(lambda: len(desk.endpoint.asked) == 1)
        patch = RelationshipPatch(
            trust_domain=PARTNER.trust_domain,
            change=lambda kept: replace(kept, bundle_endpoint_url="https://elsewhere.org/"),
        )
        await desk.relationships.update("test", [patch])
        await desk.until(lambda: len(desk.endpoint.asked) == 2)
        await desk.relationships.delete("test", [PARTNER.trust_domain])
        await desk.until(lambda: not desk.federation._tasks)
        desk.world.clock.advance(timedelta(days=2))
        await asyncio.sleep(0.02)
        assert len(desk.endpoint.asked) == 2


# --------------------------------------------------------------------------------------- on record


async def test_nothing_happens_off_the_record(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    desk.world.audit.broken = True
    assert await desk.refresh() == "VST8100"
    for action in (
        desk.bundles.set("test", [published(4)]),
        desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.DELETE),
        desk.relationships.delete("test", [PARTNER.trust_domain]),
        desk.relationships.create("test", [Given(relationship=relation())]),
    ):
        assert await refused_codes(action) == {"VST8100"}
    assert desk.held == PARTNER.bundle
    assert await desk.world.store.relationships.get(PARTNER.trust_domain) == relation()


async def refused_codes(action: Awaitable[Sequence[object]]) -> set[str]:
    """Why something failed, as a whole or in each of its parts."""
    try:
        results = await action
    except VestibuleError as error:
        return {error.code.code}
    return {each.code.code if isinstance(each, VestibuleError) else "done" for each in results}


async def test_what_is_fetched_is_recorded_before_it_is_believed(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    assert await desk.refresh() == ""
    [fetch] = [each for each in desk.world.audit.events if each.action == "federated-bundle.fetch"]
    assert fetch.actor == "server"
    assert fetch.subject == "spiffe://partner.org"
    assert fetch.details["sequence"] == 1
    assert await desk.refresh() == ""
    fetches = [each for each in desk.world.audit.events if each.action == "federated-bundle.fetch"]
    assert len(fetches) == 1, "what does not change is not recorded again"


async def test_entries_that_go_with_a_bundle_are_each_on_record(desk: Desk) -> None:
    await desk.create(PARTNER.bundle)
    created = await desk.world.create(
        entry("/a", AGENT, federates_with=("partner.org",)),
        entry("/b", AGENT, federates_with=("partner.org",)),
        entry("/c", AGENT),
    )
    assert len(created) == 3
    [error] = await desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.RESTRICT)
    assert error is not None
    assert error.code.code == "VST8030"
    [error] = await desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.DELETE)
    assert error is None
    assert desk.world.audit.actions().count("entry.delete") == 2
    left = desk.world.entitlements.entries_for(AGENT)
    assert [each.spiffe_id.path for each in left] == ["/c"]
    [error] = await desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.DELETE)
    assert error is not None
    assert error.code.code == "VST1233"


async def test_an_agents_revision_follows_the_bundles_of_its_entries_only(desk: Desk) -> None:
    other = TestAuthority("other.org")
    await desk.bundles.set("test", [PARTNER.bundle, other.bundle])
    mine = (entry("/a", AGENT, federates_with=("partner.org",)),)
    before = desk.bundles.revision_for(mine)
    await desk.bundles.set("test", [other.jwt_bundle])
    assert desk.bundles.revision_for(mine) == before
    await desk.bundles.set("test", [PARTNER.jwt_bundle])
    changed = desk.bundles.revision_for(mine)
    assert changed != before
    await desk.bundles.delete("test", [PARTNER.trust_domain], BundleDeletion.RESTRICT)
    assert desk.bundles.revision_for(mine) not in (before, changed)


async def test_bundles_are_created_updated_and_set_as_spire_means_it(desk: Desk) -> None:
    [created] = await desk.bundles.create("test", [PARTNER.bundle])
    assert created == PARTNER.bundle
    [again] = await desk.bundles.create("test", [PARTNER.jwt_bundle])
    assert isinstance(again, VestibuleError)
    assert again.code.code == "VST1232"
    [updated] = await desk.bundles.update("test", [(PARTNER.trust_domain, {"sequence": 7})])
    assert updated == replace(PARTNER.bundle, sequence=7)
    [unknown] = await desk.bundles.update("test", [(TrustDomain.parse("nobody.org"), {"sequence": 7})])
    assert isinstance(unknown, VestibuleError)
    assert unknown.code.code == "VST1233"
    [own] = await desk.bundles.set("test", [OWN.bundle])
    assert isinstance(own, VestibuleError)
    assert own.code is OWN_TRUST_DOMAIN


async def test_a_relationship_with_ourselves_or_with_anothers_bundle_is_refused(desk: Desk) -> None:
    ours = replace(relation(), trust_domain=OWN.trust_domain)
    results = await desk.relationships.create(
        "test",
        [
            Given(relationship=ours),
            Given(relationship=relation(), bundle=TestAuthority("third.org").bundle),
            Given(relationship=replace(relation(), bundle_endpoint_url="http://partner.org")),
        ],
    )
    codes = [each.code.code for each in results if isinstance(each, VestibuleError)]
    assert codes == ["VST1231", "VST1234", "VST1234"]
    assert await desk.world.store.relationships.all() == []
