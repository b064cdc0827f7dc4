"""Revoking, in time that obeys: order of steps, failures, restarts, other servers, and the lists for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.identity.world import AGENT, DOMAIN, World, entry, identity_world, spiffe

from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.errors import VestibuleError
from vestibule.identity.authority_revocation import Signers
from vestibule.identity.codes import (
    IDENTITY_REVOKED,
    NOT_LIFTABLE,
    NOTHING_TO_REVOKE,
    REVOCATION_NOT_KEPT,
    WOULD_CUT_EVERYTHING,
)
from vestibule.identity.crl_publishing import FEW, CrlPublishing
from vestibule.identity.distrusting import Distrusting
from vestibule.identity.issuance import Issuance, IssuedSvid, SvidRequest
from vestibule.identity.issuance_gate import RevocationGate
from vestibule.identity.jwt_issuance import JwtIssuance
from vestibule.identity.marks import Marks
from vestibule.identity.revocation import CertificateName, Order, Revoking
from vestibule.identity.revocation_list import KEPT_AFTER, RevocationList
from vestibule.pki.certificates import load_certificate
from vestibule.pki.crls import CrlFacts, read_crl
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.pki.revocation import fingerprint, revoked, revoked_token
from vestibule.records import AuthorityState
from vestibule.spiffe import Reason, Revocation, RevokedIdentity
from vestibule.store.codes import STORE_FULL
from vestibule.store.issued import IssuedFiles
from vestibule.testing import TestAuthority

WEB = spiffe("/web")
ORDER = Order(actor="local:uid=0", reason=Reason.KEY_COMPROMISE, note="drill")
NOBODY_WAITS = timedelta()


class NoBans:
    async def ban(self, _actor: str, _spiffe_id: object) -> None:
        """Everybody is banned already."""


@dataclass
class Scene:
    """An identity service that can revoke."""

    world: World
    listed: RevocationList
    marks: Marks
    issued: IssuedFiles
    issuance: Issuance
    jwt: JwtIssuance
    revoking: Revoking
    crls: CrlPublishing
    renewed: list[str]

    async def svid(self) -> IssuedSvid:
        [made] = await self.issuance.for_workloads(
            AGENT, [SvidRequest(entry_id="web", csr=make_csr(generate_key()))]
        )
        if isinstance(made, VestibuleError):
            raise made
        return made

    async def counts(self, svid: IssuedSvid) -> bool:
        return revoked(self.listed.now, svid.chain, self.world.clock.now()) is None

    async def revoke(self, *, allow_new: bool = False) -> None:
        plan = await self.revoking.plan_identity(ORDER, WEB, allow_new=allow_new)
        await self.revoking.carry_out(plan, ORDER, grace=NOBODY_WAITS)

    def crl(self) -> CrlFacts:
        active = self.world.authorities.active
        return read_crl(self.crls.get(active.id).der, load_certificate(active.chain[0]))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with identity_world(tmp_path, with_jwt=True) as world:
        listed, marks = RevocationList(world.store, world.clock), Marks(world.store, world.clock)
        issued = IssuedFiles(tmp_path / "issued")
        issued.open()
        gate = RevocationGate(lambda: listed.now, marks, issued.append, world.clock)
        issuance = Issuance(
            world.authorities, world.entitlements, world.audit, world.clock, DOMAIN, gate=gate
        )
        jwt = JwtIssuance(world.jwt, world.entitlements, world.audit, world.clock, DOMAIN, gate=gate)
        renewed: list[str] = []

        async def renew() -> None:
            renewed.append(world.authorities.active.id)

        signers = Signers(world.authorities, world.jwt.all)
        revoking = Revoking(
            listed,
            marks,
            issued,
            world.store.lower_authorities,
            signers,
            NoBans(),
            world.audit,
            world.clock,
            DOMAIN,
            renew_server=renew,
        )
        crls = CrlPublishing(
            world.store, world.keys, world.authorities, listed, issued, world.audit, world.clock
        )
        await crls.start()
        await world.create(entry("/web", AGENT, id="web"))
        yield Scene(world, listed, marks, issued, issuance, jwt, revoking, crls, renewed)


async def test_without_a_record_nothing_is_revoked(scene: Scene) -> None:
    plan = await scene.revoking.plan_identity(ORDER, WEB, allow_new=False)
    scene.world.audit.broken = True
    with pytest.raises(VestibuleError) as caught:
        await scene.revoking.carry_out(plan, ORDER)
    assert caught.value.code is AUDIT_UNAVAILABLE
    scene.world.audit.broken = False
    assert not scene.listed.now
    await scene.svid()


async def test_a_store_that_cannot_keep_it_does_not_keep_from_revoking(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    svid = await scene.svid()
    put = scene.world.store.revocations.put

    async def full(*_changes: Revocation) -> None:
        raise STORE_FULL.error("no space")

    monkeypatch.setattr(scene.world.store.revocations, "put", full)
    with pytest.raises(VestibuleError) as caught:
        await scene.revoke()
    assert caught.value.code is REVOCATION_NOT_KEPT
    assert not await scene.counts(svid)
    with pytest.raises(VestibuleError):
        await scene.svid()
    monkeypatch.setattr(scene.world.store.revocations, "put", put)
    tidying = asyncio.create_task(scene.listed.run())
    try:
        async with asyncio.timeout(60):
            while not await scene.world.store.revocations.all():
                scene.world.clock.advance(2)
                await asyncio.sleep(0.01)
    finally:
        tidying.cancel()


async def test_new_svids_after_a_revocation_count_and_older_ones_do_not_even_in_the_same_second(
    scene: Scene,
) -> None:
    scene.world.clock.advance(0.4)
    before, token = await scene.svid(), await scene.jwt.for_workload(AGENT, "web", ["db"])
    await scene.revoke(allow_new=True)
    assert not await scene.counts(before)
    assert revoked_token(scene.listed.now, token, scene.world.clock.now())
    waiting = asyncio.create_task(scene.svid())
    await scene.world.clock.until_asleep()  # until the second from which new ones count
    scene.world.clock.advance(0.6)
    after = await waiting
    assert await scene.counts(after)
    assert after.not_before == scene.world.clock.now()
    fresh = await scene.jwt.for_workload(AGENT, "web", ["db"])
    assert not revoked_token(scene.listed.now, fresh, scene.world.clock.now())


async def test_two_revocations_in_one_second_are_two(scene: Scene) -> None:
    await scene.revoke(allow_new=True)
    first = scene.listed.now.earliest_start(WEB)
    await scene.revoke(allow_new=True)
    second = scene.listed.now.earliest_start(WEB)
    assert first is not None
    assert second == first + timedelta(seconds=1)


async def test_a_weaker_order_does_not_lift_what_is_revoked_altogether(scene: Scene) -> None:
    await scene.revoke()
    await scene.revoke(allow_new=True)
    with pytest.raises(VestibuleError) as caught:
        await scene.svid()
    assert caught.value.code is IDENTITY_REVOKED


async def test_lifting_lets_new_ones_in_and_never_the_old(scene: Scene) -> None:
    before = await scene.svid()
    await scene.revoke()
    await scene.revoking.lift(ORDER, WEB)
    scene.world.clock.advance(1)
    assert await scene.counts(await scene.svid())
    assert not await scene.counts(before)
    with pytest.raises(VestibuleError) as again:
        await scene.revoking.lift(ORDER, WEB)
    assert again.value.code is NOT_LIFTABLE
    with pytest.raises(VestibuleError) as unknown:
        await scene.revoking.lift(ORDER, spiffe("/other"))
    assert unknown.value.code is NOTHING_TO_REVOKE


async def test_the_list_forgets_what_can_no_longer_be_valid_and_keeps_the_rest(scene: Scene) -> None:
    await scene.revoke(allow_new=True)
    plan = await scene.revoking.plan_identity(ORDER, spiffe("/other"), allow_new=False)
    await scene.revoking.carry_out(plan, ORDER)
    assert len(scene.listed.now) == 2
    right = scene.world.clock.now()
    scene.world.clock.advance(timedelta(hours=25))
    await scene.listed.prune()
    # Not at once: the clock may be wrong, and right again tomorrow.
    scene.world.clock.set(right)
    assert scene.listed.now.of_identity(WEB, right - timedelta(hours=1), right)
    scene.world.clock.advance(timedelta(hours=25) + KEPT_AFTER)
    await scene.listed.prune()
    assert [each.target.name for each in scene.listed.now.entries] == [str(spiffe("/other"))]
    assert len(await scene.world.store.revocations.all()) == 1


async def test_an_agents_mark_is_in_all_that_was_issued_through_it_and_is_never_used_again(
    scene: Scene,
) -> None:
    before, token = await scene.svid(), await scene.jwt.for_workload(AGENT, "web", ["db"])
    minted = await scene.issuance.mint("test", make_csr(generate_key(), WEB), None)
    plan = await scene.revoking.plan_agent(ORDER, AGENT)
    await scene.revoking.carry_out(plan, ORDER)
    scene.world.clock.advance(1)
    now = scene.world.clock.now()
    assert not await scene.counts(before)
    assert revoked_token(scene.listed.now, token, now)
    assert await scene.counts(minted)  # it did not come through the agent
    after = await scene.svid()
    assert await scene.counts(after)
    assert int(after.serial) >> 64 != int(before.serial) >> 64


async def test_another_server_of_the_database_takes_the_list_and_gives_new_marks(scene: Scene) -> None:
    world = scene.world
    await scene.svid()
    told: list[int] = []
    other = RevocationList(world.store, world.clock, lambda: told.append(1))
    marks = Marks(world.store, world.clock)
    await other.start()
    await marks.start()
    assert await marks.of(AGENT) == await scene.marks.of(AGENT)
    plan = await scene.revoking.plan_agent(ORDER, AGENT)
    await scene.revoking.carry_out(plan, ORDER)
    await other.catch_up()
    assert told == [1]
    assert [each.id for each in other.now.entries] == [each.id for each in scene.listed.now.entries]
    gate = RevocationGate(lambda: other.now, marks, scene.issued.append, world.clock)
    world.clock.advance(1)
    terms = await gate.admit(WEB, AGENT)
    assert terms.mark
    assert other.now.of_mark(terms.mark, world.clock.now()) is None


async def test_versions_grow_past_what_anybody_has_heard_but_believe_nothing_absurd(scene: Scene) -> None:
    await scene.revoke(allow_new=True)
    version = scene.listed.now.version
    scene.listed.hear(version + 10**9)
    scene.listed.hear(2**62)
    await scene.revoke(allow_new=True)
    assert version + 10**9 < scene.listed.now.version < version + 10**10


async def test_a_certificate_is_found_by_its_serial_and_ends_with_it(scene: Scene) -> None:
    svid = await scene.svid()
    plan = await scene.revoking.plan_certificate(ORDER, CertificateName(serial=int(svid.serial)))
    [made] = plan.revocations
    assert made.expires_at is not None
    assert svid.not_after <= made.expires_at <= svid.not_after + timedelta(seconds=1)
    await scene.revoking.carry_out(plan, ORDER)
    assert not await scene.counts(svid)
    assert await scene.counts(await scene.svid())


async def test_a_certificate_may_be_given_itself(scene: Scene) -> None:
    svid = await scene.svid()
    by_file = await scene.revoking.plan_certificate(ORDER, CertificateName(der=svid.chain[0]))
    by_serial = await scene.revoking.plan_certificate(ORDER, CertificateName(serial=int(svid.serial)))
    assert by_file.revocations[0].id == by_serial.revocations[0].id
    ca = scene.world.authorities.active.chain[0]
    with pytest.raises(VestibuleError):
        await scene.revoking.plan_certificate(ORDER, CertificateName(der=ca))


async def test_an_authority_that_signs_is_replaced_tainted_and_revoked_in_this_order(scene: Scene) -> None:
    old = scene.world.authorities.active
    svid = await scene.svid()
    plan = await scene.revoking.plan_authority(ORDER, old.id)
    await scene.revoking.carry_out(plan, ORDER, grace=NOBODY_WAITS)
    actions = [each for each in scene.world.audit.actions() if each.startswith(("authority.", "revocation."))]
    assert actions[-5:] == [
        "revocation.authority",
        "authority.prepare",
        "authority.activate",
        "authority.taint",
        "authority.revoke",
    ]
    assert scene.renewed == [scene.world.authorities.active.id] != [old.id]
    assert not await scene.counts(svid)
    assert await scene.counts(await scene.svid())
    assert old.chain[0] not in scene.world.authorities.bundle().x509_authorities
    states = {each.id: each.state for each in scene.world.authorities.all()}
    assert states[old.id] is AuthorityState.REVOKED
    again = await scene.revoking.plan_authority(ORDER, old.id)
    await scene.revoking.carry_out(again, ORDER, grace=NOBODY_WAITS)  # a second time does no harm


async def test_a_jwt_key_is_revoked_likewise(scene: Scene) -> None:
    token = await scene.jwt.for_workload(AGENT, "web", ["db"])
    plan = await scene.revoking.plan_authority(ORDER, token.key_id)
    await scene.revoking.carry_out(plan, ORDER, grace=NOBODY_WAITS)
    assert revoked_token(scene.listed.now, token, scene.world.clock.now())
    keys = [each.key_id for each in scene.world.authorities.bundle().jwt_authorities]
    assert token.key_id not in keys
    fresh = await scene.jwt.for_workload(AGENT, "web", ["db"])
    assert not revoked_token(scene.listed.now, fresh, scene.world.clock.now())


async def test_an_appended_authority_goes_on_the_list_and_leaves_the_bundle(scene: Scene) -> None:
    authorities = scene.world.authorities
    made = TestAuthority(DOMAIN, now=scene.world.clock.now())
    before = authorities.bundle()
    await authorities.append([made.certificate], [made.jwt_authority])
    for name in (fingerprint(made.certificate), made.jwt_authority.key_id):
        plan = await scene.revoking.plan_authority(ORDER, name)
        await scene.revoking.carry_out(plan, ORDER, grace=NOBODY_WAITS)
    assert authorities.bundle().x509_authorities == before.x509_authorities
    assert authorities.bundle().jwt_authorities == before.jwt_authorities
    assert (
        revoked(
            scene.listed.now, made.svid("/web", now=scene.world.clock.now()).chain, scene.world.clock.now()
        )
        is not None
    )
    assert scene.world.audit.actions().count("bundle.withdraw") == 2


async def test_what_would_cut_off_everything_is_refused(scene: Scene) -> None:
    server = spiffe("/spire/server")
    with pytest.raises(VestibuleError) as caught:
        await scene.revoking.plan_identity(ORDER, server, allow_new=False)
    assert caught.value.code is WOULD_CUT_EVERYTHING
    plan = await scene.revoking.plan_identity(ORDER, server, allow_new=True)
    assert isinstance(plan.revocations[0].target, RevokedIdentity)


async def test_crl_numbers_grow_and_lists_are_made_anew_at_half_of_their_life(scene: Scene) -> None:
    first = scene.crl()
    await scene.crls.refresh()
    assert scene.crl() == first
    svid = await scene.svid()
    await scene.revoke()
    await scene.crls.refresh()
    second = scene.crl()
    assert second.number > first.number
    assert second.revokes(int(svid.serial))
    scene.world.clock.advance(timedelta(hours=12))
    await scene.crls.refresh()
    third = scene.crl()
    assert third.number > second.number
    assert third.next_update > second.next_update
    assert not third.revokes(int(svid.serial))  # expired by now


async def test_a_crl_names_what_was_issued_before_the_instant_and_not_what_came_after(scene: Scene) -> None:
    before = await scene.svid()
    await scene.revoke(allow_new=True)
    scene.world.clock.advance(1)
    after = await scene.svid()
    await scene.crls.refresh()
    assert scene.crl().revokes(int(before.serial))
    assert not scene.crl().revokes(int(after.serial))


async def test_a_restarted_server_goes_on_with_numbers_and_list(scene: Scene) -> None:
    await scene.revoke()
    await scene.crls.refresh()
    number = scene.crl().number
    world = scene.world
    again = RevocationList(world.store, world.clock)
    await again.start()
    assert again.now.version == scene.listed.now.version
    crls = CrlPublishing(
        world.store, world.keys, world.authorities, again, scene.issued, world.audit, world.clock
    )
    await crls.start()
    assert crls.get().number == number


async def test_a_crl_says_the_same_whether_little_or_much_is_revoked(scene: Scene) -> None:
    before = await scene.svid()
    await scene.revoke(allow_new=True)
    scene.world.clock.advance(1)
    after = await scene.svid()
    for number in range(FEW + 1):
        plan = await scene.revoking.plan_identity(ORDER, spiffe(f"/other/{number}"), allow_new=False)
        await scene.revoking.carry_out(plan, ORDER)
    await scene.crls.refresh()
    assert scene.crl().revokes(int(before.serial))
    assert not scene.crl().revokes(int(after.serial))
    await scene.revoking.carry_out(await scene.revoking.plan_agent(ORDER, AGENT), ORDER)
    await scene.crls.refresh()
    assert scene.crl().revokes(int(after.serial))


async def test_a_mark_that_another_server_gave_the_agent_meanwhile_is_revoked_too(scene: Scene) -> None:
    plan = await scene.revoking.plan_agent(ORDER, AGENT)
    elsewhere = Marks(scene.world.store, scene.world.clock)
    await elsewhere.start()
    mark = await elsewhere.of(AGENT)
    await scene.revoking.carry_out(plan, ORDER)
    assert scene.listed.now.of_mark(mark, scene.world.clock.now()) is not None


async def test_what_lets_an_agent_return_is_kept_as_long_as_that(scene: Scene) -> None:
    svid = await scene.svid()
    signers, days = Signers(scene.world.authorities, scene.world.jwt.all), timedelta(days=7)
    revoking = Revoking(
        scene.listed,
        scene.marks,
        scene.issued,
        scene.world.store.lower_authorities,
        signers,
        NoBans(),
        scene.world.audit,
        scene.world.clock,
        DOMAIN,
        renew_server=lambda: asyncio.sleep(0),
        linger=days,
    )
    plan = await revoking.plan_certificate(ORDER, CertificateName(serial=int(svid.serial)))
    ends = plan.revocations[0].expires_at
    assert ends is not None
    assert ends >= svid.not_after + days


# -------------------------------------------------------------------- whose certificates are in wrong hands


def distrusting(scene: Scene) -> Distrusting:
    return Distrusting(scene.listed, scene.crls, scene.issued, scene.world.authorities.all, scene.world.clock)


async def test_callees_are_doubted_whose_certificates_are_revoked_and_the_lists_name_those(
    scene: Scene,
) -> None:
    doubts, svid = distrusting(scene), await scene.svid()
    await doubts.look()
    assert not doubts.now.lists_about(WEB)
    certificate = await scene.revoking.plan_certificate(ORDER, CertificateName(der=svid.chain[0]))
    await scene.revoking.carry_out(certificate, ORDER)
    await scene.crls.refresh()
    seen = doubts.revision
    await doubts.look()
    assert doubts.revision == seen + 1
    assert not doubts.now.lists_about(spiffe("/other"))
    found = x509.load_pem_x509_crl(doubts.now.lists_about(WEB))
    assert found.get_revoked_certificate_by_serial_number(int(svid.serial)) is not None
    # What is over is doubted no more.
    scene.world.clock.advance(timedelta(hours=30))
    await doubts.look()
    assert not doubts.now.means(WEB)


async def test_of_an_agent_everybody_is_doubted_who_got_something_through_it(scene: Scene) -> None:
    doubts = distrusting(scene)
    await scene.svid()
    await scene.revoking.carry_out(await scene.revoking.plan_agent(ORDER, AGENT), ORDER)
    await scene.crls.refresh()
    await doubts.look()
    assert doubts.now.lists_about(WEB)
    assert not doubts.now.means(spiffe("/other"))


async def test_everybody_is_doubted_where_nobody_knows_whose_certificate_it_is(scene: Scene) -> None:
    doubts = distrusting(scene)
    active = scene.world.authorities.active
    name = CertificateName(serial=12345, authority_id=active.id)
    await scene.revoking.carry_out(await scene.revoking.plan_certificate(ORDER, name), ORDER)
    await scene.crls.refresh()
    await doubts.look()
    assert doubts.now.everybody
    assert doubts.now.lists_about(spiffe("/anybody"))


async def test_a_stolen_intermediate_makes_everybody_doubted_and_stands_on_the_list_by_its_number_too(
    scene: Scene,
) -> None:
    doubts, other = distrusting(scene), TestAuthority(DOMAIN, now=scene.world.clock.now(), intermediates=1)
    plan = await scene.revoking.plan_authority(ORDER, "", other.intermediates[0])
    await scene.revoking.carry_out(plan, ORDER, grace=NOBODY_WAITS)
    await scene.crls.refresh()
    kinds = [(each.target.kind, each.reason) for each in scene.listed.now.entries]
    assert kinds == [("authority", ORDER.reason), ("certificate", Reason.CA_COMPROMISE)]
    serial = load_certificate(other.intermediates[0]).serial_number
    assert any(each.target.name.endswith(f"/{serial}") for each in scene.listed.now.entries)
    await doubts.look()
    assert doubts.now.everybody


async def test_without_a_list_of_every_authority_none_is_asked_for(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    doubts = distrusting(scene)
    await scene.revoke(allow_new=True)
    await scene.world.authorities.prepare("local:uid=0")
    await scene.world.authorities.activate(
        next(each.id for each in scene.world.authorities.all() if each.state is AuthorityState.PREPARED),
        "local:uid=0",
    )
    await doubts.look()
    # Callees below the new authority would all be refused: no list says anything about it yet.
    assert not doubts.now.lists_about(WEB)
    assert "cannot be kept from servers with stolen keys" in caplog.text
    await scene.crls.refresh()
    await doubts.look()
    assert doubts.now.lists_about(WEB).count(b"BEGIN X509 CRL") == 2
