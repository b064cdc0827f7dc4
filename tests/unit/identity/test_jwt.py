"""JWT authorities and the tokens that they sign."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import AGENT, DOMAIN, World, entry, identity_world, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity import rotation
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.token_kinds import JWT
from vestibule.keys import DiskKeyManager, MemoryKeyManager, Sealer
from vestibule.pki.jwt import verify_jwt_svid
from vestibule.records import JwtKey
from vestibule.spiffe import JwtSvid, SpiffeId
from vestibule.testing import FakeClock

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with identity_world(tmp_path, with_jwt=True) as made:
        yield made


def states(world: World) -> list[str]:
    return [key.state.value for key in world.jwt.all()]


def published(world: World) -> list[str]:
    return [key.key_id for key in world.authorities.bundle().jwt_authorities]


def due(key: JwtKey) -> tuple[object, object]:
    return rotation.prepare_at(key.not_before, key.not_after), rotation.activate_at(
        key.not_before, key.not_after
    )


def verify(world: World, svid: JwtSvid, audience: str = "db") -> SpiffeId:
    bundles = {DOMAIN: world.authorities.bundle()}
    return verify_jwt_svid(svid.token, [audience], bundles.get, world.clock.now()).spiffe_id


async def move_to(world: World, instant: object) -> None:
    world.clock.set(instant)  # type: ignore[arg-type]
    await world.authorities.advance()


# --------------------------------------------------------------------------------------- authorities


async def test_a_new_server_has_one_active_jwt_key_in_its_bundle(world: World) -> None:
    assert states(world) == ["active"]
    assert published(world) == [world.jwt.signer.key.id]
    assert world.audit.actions().count("jwt-authority.activate") == 1


async def test_the_next_key_is_published_long_before_it_signs(world: World) -> None:
    first = world.jwt.signer.key
    prepare, activate = due(first)
    sequence = world.authorities.bundle().sequence
    await move_to(world, prepare)
    assert states(world) == ["active", "prepared"]
    assert len(published(world)) == 2
    assert world.authorities.bundle().sequence > sequence
    assert world.jwt.signer.key == first
    await move_to(world, activate)
    assert states(world) == ["old", "active"]
    assert world.jwt.signer.key.id != first.id


async def test_an_old_key_loses_its_private_half_and_stays_published_until_it_expires(world: World) -> None:
    first = world.jwt.signer.key
    for instant in due(first):
        await move_to(world, instant)
    kept = {key_id for key_id in await world.keys.key_ids() if key_id.startswith(JWT.key_prefix)}
    assert kept == {world.jwt.signer.key.key_id}
    assert first.id in published(world)
    await move_to(world, first.not_after)
    assert first.id not in published(world)
    assert first.id not in [key.id for key in await world.store.jwt_keys.all()]


async def test_every_token_is_valid_under_the_bundle_of_its_whole_life(tmp_path: Path) -> None:
    async with identity_world(tmp_path, ca_ttl=6 * HOUR, with_jwt=True) as world:
        alive: list[JwtSvid] = []
        for _ in range(60):
            await world.authorities.advance()
            alive = [svid for svid in alive if svid.expires_at > world.clock.now()]
            alive.append(await world.jwt_issuance.mint("test", spiffe("/web"), ["db"], HOUR))
            for svid in alive:
                assert verify(world, svid) == spiffe("/web")
            world.clock.advance(20 * MINUTE)


async def test_it_rotates_by_itself(tmp_path: Path) -> None:
    async with identity_world(tmp_path, ca_ttl=HOUR, with_jwt=True) as world:
        first = world.jwt.signer.key
        running = asyncio.create_task(world.authorities.run())
        async with asyncio.timeout(60):
            await world.clock.until_asleep()
            while world.jwt.signer.key == first:
                world.clock.set(world.clock.next_wake)  # type: ignore[arg-type]
                await world.clock.until_asleep()
        running.cancel()
        assert world.clock.now() < first.not_after


async def test_the_keys_survive_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    keys = DiskKeyManager(tmp_path / "keys", Sealer(bytes(32)))
    async with identity_world(tmp_path, clock=clock, keys=keys, with_jwt=True) as world:
        before = world.authorities.bundle()
        svid = await world.jwt_issuance.mint("test", spiffe("/web"), ["db"], None)
    keys = DiskKeyManager(tmp_path / "keys", Sealer(bytes(32)))
    async with identity_world(tmp_path, clock=clock, keys=keys, with_jwt=True) as world:
        assert world.authorities.bundle() == before
        assert world.jwt.signer.key.id == svid.key_id
        assert verify(world, svid) == spiffe("/web")


async def test_a_key_that_is_lost_still_vouches_for_what_it_signed(tmp_path: Path) -> None:
    clock = FakeClock()
    async with identity_world(tmp_path, clock=clock, with_jwt=True) as world:
        svid = await world.jwt_issuance.mint("test", spiffe("/web"), ["db"], None)
    async with identity_world(tmp_path, clock=clock, keys=MemoryKeyManager(), with_jwt=True) as world:
        assert sorted(states(world)) == ["active", "old"]
        assert verify(world, svid) == spiffe("/web")


async def test_spare_keys_of_a_crash_are_removed(world: World) -> None:
    await world.keys.generate(JWT.key_prefix + "spare")
    await world.keys.generate("of-somebody-else")
    await world.authorities.advance()
    left = await world.keys.key_ids()
    assert JWT.key_prefix + "spare" not in left
    assert "of-somebody-else" in left


async def test_a_key_does_not_sign_before_it_is_published(tmp_path: Path) -> None:
    async with identity_world(tmp_path) as world:
        jwt = JwtAuthorities(world.store, world.keys, world.audit, world.clock, HOUR)
        await jwt.start()
        await jwt.advance()
        with pytest.raises(VestibuleError, match="VST1300"):
            _ = jwt.signer
        await jwt.settle()
        assert jwt.signer.key == jwt.all()[0]


# ------------------------------------------------------------------------------------------ issuance


async def test_an_agent_gets_tokens_for_its_entries(world: World) -> None:
    [mine] = await world.create(entry("/web", AGENT, jwt_svid_ttl=MINUTE, hint="internal"))
    svid = await world.jwt_issuance.for_workload(AGENT, mine.id, ["db", "queue"])
    assert verify(world, svid, "queue") == spiffe("/web")
    assert (svid.audience, svid.hint) == (("db", "queue"), "internal")
    assert svid.expires_at - world.clock.now() == MINUTE
    event = world.audit.events[-1]
    assert (event.actor, event.action, event.subject) == (str(AGENT), "jwt-svid.issue", str(spiffe("/web")))
    assert event.details["audience"] == ["db", "queue"]
    assert svid.token not in str(event)


async def test_the_default_lifetime_is_five_minutes(world: World) -> None:
    [mine] = await world.create(entry("/web", AGENT))
    svid = await world.jwt_issuance.for_workload(AGENT, mine.id, ["db"])
    assert svid.expires_at - world.clock.now() == 5 * MINUTE


async def test_an_agent_gets_none_for_an_entry_of_another(world: World) -> None:
    [other] = await world.create(entry("/web", "/spire/agent/join_token/other"))
    for entry_id in (other.id, "unknown", ""):
        with pytest.raises(VestibuleError, match="VST1201"):
            await world.jwt_issuance.for_workload(AGENT, entry_id, ["db"])
        assert world.audit.events[-1].outcome == "VST1201"


async def test_what_a_caller_chooses_takes_little_room_on_record(world: World) -> None:
    audience = [f"{number}" + "x" * 150 for number in range(64)]
    svid = await world.jwt_issuance.mint("test", spiffe("/web"), audience, None)
    assert len(svid.audience) == 64
    with pytest.raises(VestibuleError):
        await world.jwt_issuance.for_workload(AGENT, "x" * 100_000, ["db"])
    assert all(len(str(event)) < 4000 for event in world.audit.events)
    assert world.audit.events[-2].details["audiences"] == 64


async def test_no_token_without_an_audience(world: World) -> None:
    [mine] = await world.create(entry("/web", AGENT))
    for audience in ([], [""]):
        with pytest.raises(VestibuleError, match="VST1016"):
            await world.jwt_issuance.for_workload(AGENT, mine.id, audience)


async def test_no_token_without_an_audit_record(world: World) -> None:
    world.audit.broken = True
    with pytest.raises(VestibuleError, match="VST81"):
        await world.jwt_issuance.mint("test", spiffe("/web"), ["db"], None)


async def test_a_minted_token_is_of_a_workload_of_this_trust_domain(world: World) -> None:
    svid = await world.jwt_issuance.mint("operator", spiffe("/web"), ["db"], 2 * HOUR)
    assert svid.expires_at - world.clock.now() == 2 * HOUR
    assert world.audit.events[-1].action == "jwt-svid.mint"
    for text, code in (
        ("spiffe://other.org/web", "VST1204"),
        ("spiffe://example.org/spire/server", "VST1205"),
    ):
        with pytest.raises(VestibuleError, match=code):
            await world.jwt_issuance.mint("operator", SpiffeId.parse(text), ["db"], None)
    with pytest.raises(VestibuleError, match="VST1209"):
        await world.jwt_issuance.mint("operator", spiffe("/web"), ["db"], -MINUTE)


async def test_a_token_ends_with_its_key(world: World) -> None:
    svid = await world.jwt_issuance.mint("operator", spiffe("/web"), ["db"], 1000 * HOUR)
    assert svid.expires_at == world.jwt.signer.key.not_after


async def test_where_jwt_svids_are_disabled_there_are_none(tmp_path: Path) -> None:
    async with identity_world(tmp_path) as world:
        [mine] = await world.create(entry("/web", AGENT))
        assert published(world) == []
        with pytest.raises(VestibuleError, match="VST1303"):
            await world.jwt_issuance.for_workload(AGENT, mine.id, ["db"])
        with pytest.raises(VestibuleError, match="VST1303"):
            await world.jwt_issuance.mint("operator", spiffe("/web"), ["db"], None)
