"""Authorities come, sign and go without anybody noticing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import DOMAIN, World, identity_world, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity import rotation
from vestibule.identity.authorities import Authorities, activate_at, prepare_at
from vestibule.identity.issuance import IssuedSvid
from vestibule.keys import DiskKeyManager, MemoryKeyManager, Sealer
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.keys import generate_key
from vestibule.records import AuthorityState
from vestibule.testing import FakeClock

HOUR = timedelta(hours=1)


def states(world: World) -> list[str]:
    return [authority.state.value for authority in world.authorities.all()]


async def test_a_new_server_has_one_active_authority_in_its_bundle(world: World) -> None:
    assert states(world) == ["active"]
    bundle = world.authorities.bundle()
    assert bundle.x509_authorities == world.authorities.active.chain
    assert bundle.sequence == 1
    assert world.audit.actions() == ["authority.prepare", "authority.activate"]


async def test_the_next_authority_is_trusted_long_before_it_signs(world: World) -> None:
    first = world.authorities.active
    world.clock.set(prepare_at(first))
    await world.authorities.advance()
    assert states(world) == ["active", "prepared"]
    assert world.authorities.active == first
    assert len(world.authorities.bundle().x509_authorities) == 2
    assert world.authorities.bundle().sequence == 2


@pytest.mark.parametrize(
    "life", [timedelta(minutes=1), HOUR, 24 * HOUR, 60 * 24 * HOUR, 3650 * 24 * HOUR], ids=str
)
def test_f6_who_keeps_to_the_hint_learns_of_an_authority_three_to_five_times_before_it_signs(
    life: timedelta,
) -> None:
    begins = datetime(2026, 5, 1, tzinfo=UTC)
    ahead = rotation.activate_at(begins, begins + life) - rotation.prepare_at(begins, begins + life)
    assert ahead == rotation.notice(life)
    assert 3 <= ahead / rotation.refresh_hint(life) <= 5


async def test_f6_the_bundle_says_this_hint(tmp_path: Path) -> None:
    for days in (1, 365):
        async with identity_world(tmp_path / str(days), ca_ttl=days * 24 * HOUR) as world:
            first = world.authorities.active
            ahead = activate_at(first) - prepare_at(first)
            hint = timedelta(seconds=world.authorities.bundle().refresh_hint)
            assert 3 * hint < ahead < 6 * hint


async def test_the_old_authority_loses_its_key_and_stays_in_the_bundle_until_it_expires(world: World) -> None:
    first = world.authorities.active
    world.clock.set(prepare_at(first))
    await world.authorities.advance()
    world.clock.set(activate_at(first))
    await world.authorities.advance()
    assert states(world) == ["old", "active"]
    assert await world.keys.key_ids() == {world.authorities.active.key_id}
    assert first.chain[0] in world.authorities.bundle().x509_authorities
    world.clock.set(first.not_after)
    await world.authorities.advance()
    assert first not in world.authorities.all()
    assert first.chain[0] not in world.authorities.bundle().x509_authorities


async def issue(world: World) -> IssuedSvid:
    return await world.issuance.for_server(spiffe("/spire/server"), generate_key().public_key())


async def test_every_svid_is_valid_under_the_bundle_of_its_whole_life(tmp_path: Path) -> None:
    async with identity_world(tmp_path, ca_ttl=6 * HOUR) as world:
        alive: list[IssuedSvid] = []
        for _ in range(60):
            await world.authorities.advance()
            alive = [svid for svid in alive if svid.not_after > world.clock.now()]
            alive.append(await issue(world))
            for svid in alive:
                verify_x509_svid(svid.chain, world.authorities.bundle(), world.clock.now())
                assert svid.not_after <= max(a.not_after for a in world.authorities.all())
            world.clock.advance(timedelta(minutes=20))
        assert world.authorities.bundle().sequence > 6


async def test_it_rotates_by_itself(tmp_path: Path) -> None:
    async with identity_world(tmp_path, ca_ttl=HOUR) as world:
        first = world.authorities.active
        running = asyncio.create_task(world.authorities.run())
        for _ in range(2):
            await world.clock.until_asleep()
            seen = world.authorities.revision
            wake = world.clock.next_wake
            assert wake is not None
            world.clock.set(wake)
            async with asyncio.timeout(60):
                await world.authorities.changed(seen)
        assert world.authorities.active != first
        running.cancel()


async def test_a_server_that_was_down_for_days_makes_a_new_authority(tmp_path: Path) -> None:
    clock, kek = FakeClock(), Sealer(b"k" * 32)
    async with identity_world(tmp_path, clock=clock, keys=DiskKeyManager(tmp_path / "keys", kek)) as world:
        first = world.authorities.active
    clock.advance(timedelta(days=3))
    async with identity_world(tmp_path, clock=clock, keys=DiskKeyManager(tmp_path / "keys", kek)) as world:
        assert world.authorities.active != first
        svid = await issue(world)
        assert verify_x509_svid(svid.chain, world.authorities.bundle(), clock.now()) == svid.spiffe_id
        await world.authorities.advance()
        assert first.chain[0] not in world.authorities.bundle().x509_authorities


async def test_a_restart_keeps_the_active_authority_and_the_bundles_sequence(tmp_path: Path) -> None:
    clock, kek = FakeClock(), Sealer(b"k" * 32)
    async with identity_world(tmp_path, clock=clock, keys=DiskKeyManager(tmp_path / "keys", kek)) as world:
        first, bundle = world.authorities.active, world.authorities.bundle()
    async with identity_world(tmp_path, clock=clock, keys=DiskKeyManager(tmp_path / "keys", kek)) as world:
        assert world.authorities.active == first
        assert world.authorities.bundle() == bundle


async def test_an_authority_whose_key_is_lost_still_vouches_for_what_it_signed(tmp_path: Path) -> None:
    clock = FakeClock()
    async with identity_world(tmp_path, clock=clock, keys=MemoryKeyManager()) as world:
        before = await issue(world)
    async with identity_world(tmp_path, clock=clock, keys=MemoryKeyManager()) as world:
        assert states(world) in (["old", "active"], ["active", "old"])
        bundle = world.authorities.bundle()
        assert verify_x509_svid(before.chain, bundle, clock.now()) == before.spiffe_id


async def test_no_record_no_authority(tmp_path: Path) -> None:
    async with identity_world(tmp_path) as world:
        world.clock.set(prepare_at(world.authorities.active))
        world.audit.broken = True
        with pytest.raises(VestibuleError, match="VST8100"):
            await world.authorities.advance()
        assert states(world) == ["active"]
        # Once the log can be written again, nothing of the failure is left, not even a spare key.
        world.audit.broken = False
        again = Authorities(world.store, world.keys, world.audit, world.clock, DOMAIN)
        await again.start()
        assert {authority.key_id for authority in again.all()} == await world.keys.key_ids()
        assert {a.state for a in again.all()} == {AuthorityState.ACTIVE, AuthorityState.PREPARED}
