"""A server whose authorities are signed by an upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import World, identity_world, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity.codes import UPSTREAM_FAILED
from vestibule.identity.issuance import IssuedSvid
from vestibule.identity.upstream import UpstreamChain
from vestibule.identity.x509_authorities import activate_at, prepare_at
from vestibule.keys import DiskKeyManager, MemoryKeyManager, Sealer
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.keys import generate_key
from vestibule.testing import FakeClock, TestUpstream

HOUR = timedelta(hours=1)


async def issue(world: World) -> IssuedSvid:
    return await world.issuance.for_server(spiffe("/spire/server"), generate_key().public_key())


async def until_bundle(world: World, *roots: bytes) -> None:
    async with asyncio.timeout(60):
        while set(world.authorities.bundle().x509_authorities) != set(roots):
            await world.authorities.changed(world.authorities.revision)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.authorities.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("intermediates", [0, 1, 3])
async def test_svids_bring_what_is_between_them_and_the_root(tmp_path: Path, intermediates: int) -> None:
    clock = FakeClock()
    upstream = TestUpstream(now=clock.now, intermediates=intermediates)
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world:
        svid = await issue(world)
        assert len(svid.chain) == 2 + intermediates
        assert world.authorities.bundle().x509_authorities == (upstream.root,)
        assert world.authorities.active.upstream_authority_id == upstream.root_id
        verified = verify_x509_svid(svid.chain, world.authorities.bundle(), clock.now())
        assert verified == spiffe("/spire/server")
        with pytest.raises(VestibuleError):
            verify_x509_svid(svid.chain[:1], world.authorities.bundle(), clock.now())


async def test_no_svid_outlives_what_is_above_it(tmp_path: Path) -> None:
    clock = FakeClock()
    upstream = TestUpstream(now=clock.now, longest=HOUR / 2)
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world:
        authority = world.authorities.active
        assert authority.not_after <= clock.now() + HOUR / 2
        assert (await issue(world)).not_after <= authority.not_after


async def test_a_new_root_is_published_when_it_comes_and_an_old_one_goes_when_it_goes(tmp_path: Path) -> None:
    clock = FakeClock()
    upstream = TestUpstream(now=clock.now)
    first = upstream.root
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world, running(world):
        second = upstream.add_root()
        await until_bundle(world, first, second)
        before = world.authorities.active
        assert before.upstream_authority_id != upstream.root_id
        upstream.drop_root(first)
        await until_bundle(world, second)
        # What signs below a root that is gone is worth nothing: it was replaced in the same change.
        assert world.authorities.active.upstream_authority_id == upstream.root_id
        verify_x509_svid((await issue(world)).chain, world.authorities.bundle(), clock.now())


async def test_an_upstream_that_is_away_is_missed_only_when_there_is_nothing_to_sign_with(
    tmp_path: Path,
) -> None:
    clock, kek = FakeClock(), Sealer(b"k" * 32)
    upstream = TestUpstream(now=clock.now)
    away = UPSTREAM_FAILED.error("it is away")
    keys = DiskKeyManager(tmp_path / "keys", kek)
    async with identity_world(tmp_path, clock=clock, keys=keys, upstream=upstream) as world:
        first = world.authorities.active
        upstream.failure = away
        clock.set(prepare_at(first))
        with pytest.raises(VestibuleError, match="VST1310"):
            await world.authorities.advance()
        assert (await issue(world)).chain[1:] == first.chain
    keys = DiskKeyManager(tmp_path / "keys", kek)
    async with identity_world(tmp_path, clock=clock, keys=keys, upstream=upstream) as world:
        assert world.authorities.problem is not None
        assert world.authorities.bundle().x509_authorities == (upstream.root,)
        assert (await issue(world)).chain[1:] == first.chain
        upstream.failure = None
        await world.authorities.advance()
        clock.set(activate_at(first))
        await world.authorities.advance()
        assert world.authorities.active != first
    clock.advance(30 * 24 * HOUR)
    upstream.failure = away
    with pytest.raises(VestibuleError, match="VST1310"):
        async with identity_world(tmp_path, clock=clock, keys=MemoryKeyManager(), upstream=upstream):
            pass


async def test_a_server_that_gets_an_upstream_changes_over_and_keeps_its_old_authority_trusted(
    tmp_path: Path,
) -> None:
    clock, kek = FakeClock(), Sealer(b"k" * 32)
    upstream = TestUpstream(now=clock.now)
    keys = DiskKeyManager(tmp_path / "keys", kek)
    async with identity_world(tmp_path, clock=clock, keys=keys) as world:
        alone, before = world.authorities.active, await issue(world)
    async with identity_world(tmp_path, clock=clock, keys=keys, upstream=upstream) as world:
        bundle = world.authorities.bundle()
        assert set(bundle.x509_authorities) == {*alone.chain, upstream.root}
        assert world.authorities.active.upstream_authority_id == upstream.root_id
        verify_x509_svid(before.chain, bundle, clock.now())
        below = await issue(world)
    async with identity_world(tmp_path, clock=clock, keys=keys) as world:
        # And back: the root is needed until what it signed has expired.
        assert world.authorities.active.upstream_authority_id == ""
        verify_x509_svid(below.chain, world.authorities.bundle(), clock.now())
        clock.advance(25 * HOUR)
        await world.authorities.advance()
        assert upstream.root not in world.authorities.bundle().x509_authorities


async def test_an_answer_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    clock = FakeClock()
    upstream, other = TestUpstream(now=clock.now), TestUpstream(now=clock.now)
    honest = upstream.mint
    answers: list[UpstreamChain] = []

    async def keep(csr: bytes, ttl: timedelta) -> UpstreamChain:
        answers.append(await honest(csr, ttl))
        return answers[-1]

    upstream.mint = keep  # type: ignore[method-assign]
    async with identity_world(tmp_path, clock=clock, upstream=upstream) as world:
        answer = answers[-1]
        forged = (
            replace(answer, chain=()),  # nothing
            replace(answer, roots=(other.root,)),  # a root that did not sign it
            answer,  # the answer to another question: another key
            UpstreamChain(chain=(upstream.root,), roots=(upstream.root,)),
            UpstreamChain(chain=answer.chain * 9, roots=answer.roots),
        )
        for each in forged:

            async def mint(csr: bytes, ttl: timedelta, each: UpstreamChain = each) -> UpstreamChain:
                return each

            upstream.mint = mint  # type: ignore[method-assign]
            with pytest.raises(VestibuleError, match="VST1310"):
                await world.authorities.prepare()
        assert [each.state.value for each in world.authorities.all()] == ["active"]
