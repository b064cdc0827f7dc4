"""The table of an authority's life, and what the operator's steps do to bundle and signer."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import World, identity_world, spiffe

from vestibule.errors import Kind, VestibuleError
from vestibule.identity.issuance import IssuedSvid
from vestibule.identity.lifecycle import STEPS, Step, after
from vestibule.keys import DiskKeyManager, Sealer
from vestibule.pki.chains import is_tainted, verify_x509_svid
from vestibule.pki.keys import generate_key
from vestibule.records import AuthorityState
from vestibule.testing import FakeClock, TestUpstream

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with identity_world(tmp_path, with_jwt=True) as made:
        yield made


async def issue(world: World) -> IssuedSvid:
    return await world.issuance.for_server(spiffe("/spire/server"), generate_key().public_key())


def kids(world: World) -> dict[str, bool]:
    return {key.key_id: key.tainted for key in world.authorities.bundle().jwt_authorities}


def test_the_table_of_the_documentation_is_the_table_of_the_code() -> None:
    from vestibule.identity import lifecycle

    rows = [line.split() for line in (lifecycle.__doc__ or "").splitlines()]
    written = {
        (AuthorityState(row[0]), Step(row[1])): AuthorityState(row[2])
        for row in rows
        if len(row) > 3
        and row[0] in {state.value for state in AuthorityState}
        and row[1] in set(map(str_of, Step))
    }
    assert written == STEPS


def str_of(step: Step) -> str:
    return step.value


@pytest.mark.parametrize(("state", "step"), list(itertools.product(AuthorityState, Step)))
def test_every_step_is_in_the_table_or_refused(state: AuthorityState, step: Step) -> None:
    if (state, step) in STEPS:
        assert after("a", state, step) is STEPS[state, step]
        return
    with pytest.raises(VestibuleError) as refusal:
        after("a", state, step)
    assert refusal.value.code.code in {"VST1305", "VST1306", "VST1307", "VST1308"}


def test_refusals_have_the_kinds_of_spire() -> None:
    def kind(state: AuthorityState, step: Step) -> Kind:
        with pytest.raises(VestibuleError) as refusal:
            after("a", state, step)
        return refusal.value.code.kind

    assert kind(AuthorityState.ACTIVE, Step.TAINT) is Kind.INVALID
    assert kind(AuthorityState.ACTIVE, Step.REVOKE) is Kind.INVALID
    assert kind(AuthorityState.PREPARED, Step.TAINT) is Kind.INVALID
    assert kind(AuthorityState.OLD, Step.ACTIVATE) is Kind.INTERNAL
    assert kind(AuthorityState.OLD, Step.REVOKE) is Kind.INTERNAL


async def test_a_forced_rotation_of_certificates_step_by_step(world: World) -> None:
    authorities = world.authorities
    first, svid = authorities.active, await issue(world)
    second = await authorities.prepare("root")
    assert authorities.active == first
    assert set(authorities.bundle().x509_authorities) == {*first.chain, *second.chain}
    await authorities.activate(second.id, "root")
    assert authorities.active.id == second.id
    assert await world.keys.key_ids() >= {second.key_id}
    assert first.key_id not in await world.keys.key_ids()
    assert not is_tainted(svid.chain, authorities.bundle(), world.clock.now())
    sequence = authorities.bundle().sequence
    await authorities.taint(first.id, "root")
    assert authorities.bundle().tainted_x509 == frozenset(first.chain)
    assert authorities.bundle().sequence == sequence + 1
    verify_x509_svid(svid.chain, authorities.bundle(), world.clock.now())
    assert is_tainted(svid.chain, authorities.bundle(), world.clock.now())
    await authorities.revoke(first.id, "root")
    assert authorities.bundle().x509_authorities == second.chain
    assert not authorities.bundle().tainted_x509
    with pytest.raises(VestibuleError, match="VST1007"):
        verify_x509_svid(svid.chain, authorities.bundle(), world.clock.now())
    steps = [(e.action, e.subject) for e in world.audit.events if e.actor == "root"]
    assert steps == [
        ("authority.prepare", second.id),
        ("authority.activate", second.id),
        ("authority.taint", first.id),
        ("authority.revoke", first.id),
    ]


async def test_a_forced_rotation_of_jwt_keys_step_by_step(world: World) -> None:
    authorities, life = world.authorities, world.jwt.life
    assert life.active is not None
    first = life.active.id
    second = (await authorities.prepare_jwt("root")).id
    assert world.jwt.signer.key.id == first
    assert kids(world) == {first: False, second: False}
    await authorities.activate_jwt(second, "root")
    assert world.jwt.signer.key.id == second
    await authorities.taint_jwt(first, "root")
    assert kids(world) == {first: True, second: False}
    await authorities.revoke_jwt(first, "root")
    assert kids(world) == {second: False}


async def test_what_cannot_be_recorded_is_not_done(world: World) -> None:
    authorities = world.authorities
    first, second = authorities.active, await authorities.prepare("root")
    world.audit.broken = True
    for step in (
        authorities.prepare("root"),
        authorities.activate(second.id, "root"),
        authorities.prepare_jwt("root"),
    ):
        with pytest.raises(VestibuleError, match="VST81"):
            await step
    assert authorities.active == first
    world.audit.broken = False
    await authorities.activate(second.id, "root")
    world.audit.broken = True
    with pytest.raises(VestibuleError, match="VST81"):
        await authorities.taint(first.id, "root")
    assert not authorities.bundle().tainted_x509


async def test_steps_that_the_operator_cannot_take(world: World) -> None:
    authorities, active = world.authorities, world.authorities.active.id
    jwt = world.jwt.signer.key.id
    refused: list[tuple[Callable[[str, str], Awaitable[object]], str, str]] = [
        (authorities.activate, "", "VST1202"),
        (authorities.activate, "beef", "VST1304"),
        (authorities.activate, active, "VST1305"),
        (authorities.taint, active, "VST1305"),
        (authorities.revoke, active, "VST1305"),
        (authorities.taint, "beef", "VST1304"),
        (authorities.taint_jwt, jwt, "VST1305"),
        (authorities.revoke_jwt, jwt, "VST1305"),
        (authorities.taint_upstream, "beef", "VST1311"),
        (authorities.revoke_upstream, "beef", "VST1311"),
    ]
    for step, authority_id, code in refused:
        with pytest.raises(VestibuleError, match=code):
            await step(authority_id, "root")
    prepared = (await authorities.prepare()).id
    with pytest.raises(VestibuleError, match="VST1306"):
        await authorities.taint(prepared)
    await authorities.activate(prepared)
    with pytest.raises(VestibuleError, match="VST1308"):
        await authorities.revoke(active)


async def test_preparing_again_replaces_what_was_prepared(world: World) -> None:
    first = await world.authorities.prepare()
    second = await world.authorities.prepare()
    assert world.authorities.life.prepared == second
    with pytest.raises(VestibuleError, match="VST1307"):
        await world.authorities.activate(first.id)
    assert first.key_id not in await world.keys.key_ids()
    await world.authorities.taint(first.id)  # it was in the bundle, and may be taken out


async def test_tainted_and_revoked_outlive_a_restart_and_expire(tmp_path: Path) -> None:
    clock, kek = FakeClock(), Sealer(b"k" * 32)
    keys = DiskKeyManager(tmp_path / "keys", kek)
    async with identity_world(tmp_path, clock=clock, keys=keys, with_jwt=True) as world:
        first = world.authorities.active
        for _ in range(2):
            await world.authorities.activate((await world.authorities.prepare()).id)
        second = world.authorities.life.old
        assert second is not None
        await world.authorities.taint(first.id)
        await world.authorities.revoke(first.id)
        await world.authorities.taint(second.id)
        before = world.authorities.bundle()
    async with identity_world(tmp_path, clock=clock, keys=keys, with_jwt=True) as world:
        assert world.authorities.bundle() == before
        assert before.tainted_x509 == frozenset(second.chain)
        assert first.chain[0] not in before.x509_authorities
        clock.advance(25 * HOUR)
        await world.authorities.advance()
        assert {each.state.value for each in world.authorities.all()} <= {"active", "old", "prepared"}
        assert not world.authorities.bundle().tainted_x509


# --------------------------------------------------------------------------------- below an upstream


async def test_below_an_upstream_its_root_is_tainted_and_revoked_instead(tmp_path: Path) -> None:
    clock = FakeClock()
    upstream = TestUpstream(now=clock.now)
    old_root, old_id = upstream.root, upstream.root_id
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world:
        authorities, first = world.authorities, world.authorities.active
        svid = await issue(world)
        with pytest.raises(VestibuleError, match="VST1305"):
            await authorities.taint_upstream(old_id)
        upstream.add_root()
        second = await authorities.prepare()
        with pytest.raises(VestibuleError, match="VST1306"):
            await authorities.taint_upstream(second.upstream_authority_id)
        await authorities.activate(second.id)
        for step in (authorities.taint, authorities.revoke):
            with pytest.raises(VestibuleError, match="VST1309") as refusal:
                await step(first.id)
            assert refusal.value.code.kind is Kind.PRECONDITION
        with pytest.raises(VestibuleError, match="VST1308"):
            await authorities.revoke_upstream(old_id)
        assert await authorities.taint_upstream(old_id.upper()) == old_id
        assert authorities.bundle().tainted_x509 == {old_root}
        assert is_tainted(svid.chain, authorities.bundle(), clock.now())
        await authorities.revoke_upstream(old_id, "root")
        # Whatever the upstream goes on saying.
        await authorities.advance()
        assert authorities.bundle().x509_authorities == (upstream.root,)
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world:
        await world.authorities.prepare()
        assert old_root not in world.authorities.bundle().x509_authorities
