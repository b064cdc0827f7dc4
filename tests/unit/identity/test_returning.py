"""Agents come back with the key of an SVID that has expired, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from tests.unit.identity.world import World, identity_world

from vestibule.errors import VestibuleError
from vestibule.identity.issuance import IssuedSvid
from vestibule.identity.refusals import PER_WINDOW
from vestibule.identity.returning import Claim, Returning
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.possession import Statement, sign_statement
from vestibule.spiffe import Revocation, Revocations, RevokedAgent, RevokedCertificate, RevokedIdentity
from vestibule.spiffe.revocations import Target

TTL = timedelta(minutes=10)
GRACE = timedelta(days=7)
HERE = b"l" * 32
"""The SHA-256 of the certificate that the server shows."""


@dataclass
class Member:
    """An agent with the key of its SVID."""

    key: EllipticCurvePrivateKey
    svid: IssuedSvid

    def claim(self) -> Claim:
        return Claim(
            spiffe_id=self.svid.spiffe_id,
            serial=self.svid.serial,
            public_key=public_key_der(self.key.public_key()),
            address="192.0.2.1:5",
        )

    def sign(self, challenge: bytes, csr: bytes, leaf: bytes = HERE) -> bytes:
        statement = Statement(
            spiffe_id=self.svid.spiffe_id,
            serial=self.svid.serial,
            challenge=challenge,
            server_leaf=leaf,
            csr=csr,
        )
        return sign_statement(statement, self.key)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """With authorities that outlast every absence; a server that goes on renews its own."""
    async with identity_world(tmp_path, ca_ttl=timedelta(days=60)) as made:
        yield made


async def no_challenge(_data: bytes) -> bytes:
    raise AssertionError("a join token has no challenge")


async def joined(world: World) -> Member:
    made = await world.nodes.create_join_token("test", TTL)
    key = generate_key()
    attested = await world.nodes.attest(
        "join_token", made.token.encode(), make_csr(key), no_challenge, "192.0.2.1:5"
    )
    return Member(key, attested.svid)


def returning(world: World, grace: timedelta = GRACE) -> Returning:
    return Returning(world.nodes, world.issuance, world.audit, world.clock, grace)


async def come_back(world: World, member: Member, service: Returning | None = None) -> Member:
    service = service or returning(world)
    key = generate_key()
    csr, challenge = make_csr(key), service.challenge()
    svid = await service.back(member.claim(), challenge, HERE, csr, member.sign(challenge, csr))
    return Member(key, svid)


async def refusal(world: World, member: Member, service: Returning | None = None) -> str:
    with pytest.raises(VestibuleError) as caught:
        await come_back(world, member, service)
    return caught.value.code.code


async def test_an_agent_whose_svid_expired_comes_back_and_counts_again(world: World) -> None:
    member = await joined(world)
    world.clock.advance(timedelta(days=6))
    back = await come_back(world, member)
    assert back.svid.spiffe_id == member.svid.spiffe_id
    agent = await world.nodes.check(back.svid.spiffe_id, back.svid.serial, back.svid.not_after)
    assert agent.serial == back.svid.serial
    returned, issued = world.audit.events[-2:]
    assert (returned.action, returned.actor) == ("agent.return", str(member.svid.spiffe_id))
    assert (issued.action, issued.details["serial"]) == ("svid.issue", back.svid.serial)


async def test_the_answer_may_get_lost_and_the_old_key_counts_until_the_new_one_is_used(world: World) -> None:
    member = await joined(world)
    world.clock.advance(timedelta(days=1))
    await come_back(world, member)
    again = await come_back(world, member)
    await world.nodes.check(again.svid.spiffe_id, again.svid.serial, again.svid.not_after)
    world.clock.advance(timedelta(days=1))
    assert await refusal(world, member) == "VST1221", "somebody else may have this older key"
    await come_back(world, again)


async def test_a_renewal_that_was_never_used_counts_as_the_last_svid_too(world: World) -> None:
    member = await joined(world)
    key = generate_key()
    renewed = Member(key, await world.nodes.renew(member.svid.spiffe_id, make_csr(key)))
    world.clock.advance(timedelta(days=1))
    await come_back(world, renewed)


async def test_after_the_grace_nobody_comes_back(world: World) -> None:
    member = await joined(world)
    world.clock.advance(member.svid.not_after - world.clock.now() + GRACE + timedelta(seconds=1))
    assert await refusal(world, member) == "VST1222"


async def test_where_returning_is_off_nobody_comes_back(world: World) -> None:
    assert await refusal(world, await joined(world), returning(world, timedelta())) == "VST1220"


async def test_a_banned_agent_is_told_so_once_it_has_proven_itself(world: World) -> None:
    member = await joined(world)
    await world.nodes.ban("test", member.svid.spiffe_id)
    assert await refusal(world, member) == "VST1211"
    stranger = Member(generate_key(), member.svid)
    assert await refusal(world, stranger) == "VST1221", "strangers do not learn who is banned"


async def test_an_evicted_agent_does_not_come_back(world: World) -> None:
    member = await joined(world)
    await world.nodes.evict("test", member.svid.spiffe_id)
    assert await refusal(world, member) == "VST1221"


async def test_a_ban_that_arrives_in_the_middle_holds(world: World) -> None:
    member = await joined(world)
    record = world.audit.record

    async def late(events: object) -> None:
        await record(events)  # type: ignore[arg-type]
        world.audit.record = record  # type: ignore[method-assign]
        await world.nodes.ban("test", member.svid.spiffe_id)

    world.audit.record = late  # type: ignore[method-assign]
    assert await refusal(world, member) == "VST1211"


async def test_an_agent_that_can_attest_again_is_asked_to(world: World) -> None:
    member = await joined(world)
    known = await world.nodes.get(member.svid.spiffe_id)
    await world.store.agents.put(replace(known, can_reattest=True))
    assert await refusal(world, member) == "VST1214"


async def test_an_agent_from_before_keys_were_kept_attests(world: World) -> None:
    member = await joined(world)
    known = await world.nodes.get(member.svid.spiffe_id)
    await world.store.agents.put(replace(known, key_sha256=""))
    assert await refusal(world, member) == "VST1221"


async def test_a_proof_is_good_for_one_challenge_one_server_and_one_request(world: World) -> None:
    member, service = await joined(world), returning(world)
    csr, challenge = make_csr(generate_key()), service.challenge()
    signature = member.sign(challenge, csr)
    elsewhere = member.sign(challenge, csr, leaf=b"m" * 32)
    for proof in (
        (service.challenge(), HERE, csr, signature),  # replayed
        (challenge, HERE, csr, elsewhere),  # relayed by whoever the agent took for the server
        (challenge, HERE, make_csr(generate_key()), signature),  # with another request
    ):
        with pytest.raises(VestibuleError, match="VST1221"):
            await service.back(member.claim(), *proof)
    with pytest.raises(VestibuleError, match="VST1202"):
        await service.back(member.claim(), challenge, b"", csr, signature)
    await service.back(member.claim(), challenge, HERE, csr, signature)


async def test_a_csr_for_another_identity_is_refused(world: World) -> None:
    member, other, service = await joined(world), await joined(world), returning(world)
    csr, challenge = make_csr(generate_key(), other.svid.spiffe_id), service.challenge()
    with pytest.raises(VestibuleError, match="VST1200"):
        await service.back(member.claim(), challenge, HERE, csr, member.sign(challenge, csr))


async def test_nobody_comes_back_without_a_record(world: World) -> None:
    member = await joined(world)
    before = await world.nodes.get(member.svid.spiffe_id)
    world.audit.broken = True
    assert await refusal(world, member) == "VST8100"
    assert await world.nodes.get(member.svid.spiffe_id) == before


async def test_refusals_are_on_record_up_to_a_bound(world: World) -> None:
    stranger = Member(generate_key(), (await joined(world)).svid)
    service = returning(world)
    for _ in range(PER_WINDOW + 5):
        assert await refusal(world, stranger, service) == "VST1221"
    assert world.audit.actions().count("agent.return") == PER_WINDOW
    assert world.audit.events[-1].outcome == "VST1221"


@pytest.mark.parametrize("kind", ["certificate", "identity", "agent"])
async def test_nobody_comes_back_with_the_key_of_a_revoked_svid_also_after_its_end(
    world: World, kind: str
) -> None:
    member = await joined(world)
    serial, spiffe_id = int(member.svid.serial), member.svid.spiffe_id
    targets: dict[str, Target] = {
        "certificate": RevokedCertificate(authority_id=member.svid.authority_id, serial=serial),
        "identity": RevokedIdentity(spiffe_id=spiffe_id, issued_before=world.clock.now()),
        "agent": RevokedAgent(agent_id=spiffe_id, mark=serial >> 64),
    }
    target = targets[kind]
    listed = Revocations(1, (Revocation(target=target, at=world.clock.now(), version=1),))
    service = Returning(world.nodes, world.issuance, world.audit, world.clock, GRACE, lambda: listed)
    assert await refusal(world, member, service) == "VST1221"
    world.clock.advance(timedelta(days=6))
    assert await refusal(world, member, service) == "VST1221"
    assert "was revoked" in str(world.audit.events[-1].details["error"])
    await come_back(world, member)  # it is the list that keeps it out
