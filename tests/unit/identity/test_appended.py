"""Authorities that an operator puts into the bundle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import World, identity_world

from vestibule.errors import VestibuleError
from vestibule.identity.appended import MAX_APPENDED
from vestibule.spiffe import JwtAuthority
from vestibule.testing import FakeClock, TestAuthority

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with identity_world(tmp_path, with_jwt=True) as made:
        yield made


def other(world: World, ttl: timedelta = HOUR, domain: str = "example.org") -> TestAuthority:
    return TestAuthority(domain, now=world.clock.now(), ttl=ttl)


def key_of(made: TestAuthority, world: World, ttl: timedelta | None = HOUR) -> JwtAuthority:
    return replace(made.jwt_authority, expires_at=None if ttl is None else world.clock.now() + ttl)


async def refused(world: World, *certificates: bytes, jwt: tuple[JwtAuthority, ...] = ()) -> str:
    before = world.authorities.bundle()
    with pytest.raises(VestibuleError) as caught:
        await world.authorities.append(certificates, jwt)
    assert world.authorities.bundle() == before
    assert await world.store.appended_authorities.all() == []
    return caught.value.code.code


async def test_they_stand_in_the_bundle_beside_ours_until_they_end_and_each_is_on_record(
    world: World,
) -> None:
    ours, made = world.authorities.bundle(), other(world)
    key, endless = key_of(made, world), key_of(other(world), world, None)
    bundle = await world.authorities.append([made.certificate], [key, endless], actor="alice")
    assert bundle.x509_authorities == (*ours.x509_authorities, made.certificate)
    assert bundle.jwt_authorities == (*ours.jwt_authorities, key, endless)
    assert bundle.sequence == ours.sequence + 1
    appended = [event for event in world.audit.events if event.action == "bundle.append"]
    assert [event.actor for event in appended] == ["alice"] * 3
    world.clock.advance(HOUR + timedelta(minutes=2))
    await world.authorities.advance()
    bundle = world.authorities.bundle()
    assert bundle.x509_authorities == ours.x509_authorities
    assert bundle.jwt_authorities == (*ours.jwt_authorities, endless)
    assert world.audit.actions().count("bundle.expire") == 2


async def test_they_survive_a_restart_and_the_rotation_of_ours(tmp_path: Path) -> None:
    clock = FakeClock()
    async with identity_world(tmp_path, clock=clock, with_jwt=True) as world:
        made = other(world, 1000 * HOUR)
        key = key_of(made, world, None)
        await world.authorities.append([made.certificate], [key])
        before, keys = world.authorities.bundle(), world.keys
    async with identity_world(tmp_path, clock=clock, keys=keys, with_jwt=True) as world:
        assert world.authorities.bundle() == before
        await world.authorities.prepare()
        await world.authorities.prepare_jwt()
        assert made.certificate in world.authorities.bundle().x509_authorities
        assert key in world.authorities.bundle().jwt_authorities


async def test_what_is_in_the_bundle_already_is_passed_over(world: World) -> None:
    ours, made = world.authorities.bundle(), other(world)
    assert await world.authorities.append(ours.x509_authorities, ours.jwt_authorities) == ours
    once = await world.authorities.append([made.certificate] * 2, [key_of(made, world)] * 2)
    assert await world.authorities.append([made.certificate], [key_of(made, world)]) == once
    assert len(await world.store.appended_authorities.all()) == 2


async def test_what_is_malformed_or_means_nothing_is_refused_as_a_whole(world: World) -> None:
    made = other(world)
    key = key_of(made, world)
    assert await refused(world) == "VST1202"
    assert await refused(world, made.certificate, b"\x30\x00") == "VST1005"
    assert await refused(world, made.svid("/web", now=world.clock.now()).chain[0]) == "VST1316", (
        "no authority"
    )
    for wrong in (
        replace(key, key_id=""),
        replace(key, public_key=b"\x30\x00"),
        replace(key, expires_at=world.clock.now()),
        replace(key, key_id=world.authorities.bundle().jwt_authorities[0].key_id),
    ):
        assert await refused(world, made.certificate, jwt=(wrong,)) == "VST1316"
    many = tuple(replace(key, key_id=str(number)) for number in range(MAX_APPENDED + 1))
    assert await refused(world, jwt=many) == "VST1316"
    world.clock.advance(2 * HOUR)
    assert await refused(world, made.certificate) == "VST1316", "over"


async def test_nobody_elses_authority_becomes_ours(world: World) -> None:
    partner = other(world, domain="partner.org")
    assert await refused(world, partner.certificate) == "VST1316"
    assert world.audit.actions().count("bundle.append") == 0
    await world.store.bundles.put(partner.jwt_bundle)
    assert await refused(world, jwt=(partner.jwt_authority,)) == "VST1316"


async def test_what_was_revoked_does_not_come_back_by_this_way(world: World) -> None:
    authorities = world.authorities
    revoked, revoked_key = authorities.active, authorities.jwt.life.active
    assert revoked_key is not None
    public = authorities.bundle().jwt_authorities[0]
    await authorities.activate((await authorities.prepare()).id)
    await authorities.taint(revoked.id)
    await authorities.revoke(revoked.id)
    await authorities.activate_jwt((await authorities.prepare_jwt()).id)
    await authorities.taint_jwt(revoked_key.id)
    await authorities.revoke_jwt(revoked_key.id)
    assert await refused(world, revoked.chain[0]) == "VST1316"
    assert await refused(world, jwt=(public,)) == "VST1316"


async def test_no_record_no_authority(world: World) -> None:
    world.audit.broken = True
    assert (await refused(world, other(world).certificate)).startswith("VST81")
