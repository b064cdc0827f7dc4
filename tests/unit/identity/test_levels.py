"""Three servers above each other, without any wire: what is done at one level, and what follows at the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.world import DOMAIN, World, identity_world, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity.codes import UPSTREAM_FAILED, WIT_SVIDS_DISABLED
from vestibule.identity.downstream import Downstream
from vestibule.identity.jwt_trust import MAX_PUBLISHED
from vestibule.identity.upstream import UpstreamChain
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.pki.chains import is_tainted, verify_x509_svid
from vestibule.pki.jwt import verify_jwt_svid
from vestibule.pki.keys import generate_key
from vestibule.records import Authority
from vestibule.spiffe import JwtAuthority, TrustBundle
from vestibule.testing import FakeClock, TestAuthority

HOUR = timedelta(hours=1)
AUDIENCE = ["db"]


class Above:
    """A server in this process, as the upstream of another one."""

    name = "above"

    def __init__(self, world: World, who: str) -> None:
        self._world = world
        self._who = spiffe(who)
        self._downstream = Downstream(
            world.authorities, world.store, world.audit, world.clock, DOMAIN, default_ttl=HOUR
        )
        self.away = False

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        self._check()
        ca = await self._downstream.sign_ca(self._who, csr, ttl)
        return UpstreamChain(chain=ca.chain, roots=ca.roots)

    async def publish_jwt(self, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        self._check()
        return await self._downstream.publish_jwt(self._who, key)

    async def publish_wit(self, key: JwtAuthority) -> tuple[JwtAuthority, ...] | None:
        self._check()
        try:
            return await self._downstream.publish_wit(self._who, key)
        except VestibuleError as error:
            if error.code is not WIT_SVIDS_DISABLED:
                raise
            return None

    async def bundles(self) -> AsyncIterator[TrustBundle]:
        while True:
            seen = self._world.authorities.revision
            self._check()
            yield self._world.authorities.bundle()
            await self._world.authorities.changed(seen)

    async def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        async for bundle in self.bundles():
            yield bundle.x509_authorities

    def _check(self) -> None:
        if self.away:
            raise UPSTREAM_FAILED.error("it is away")


@dataclass
class Levels:
    """Root, middle and leaf; each follows the one above."""

    root: World
    middle: World
    leaf: World
    above_leaf: Above

    @property
    def all(self) -> tuple[World, World, World]:
        return self.root, self.middle, self.leaf


@asynccontextmanager
async def three_levels(directory: Path) -> AsyncIterator[Levels]:
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        worlds: list[World] = []
        above: Above | None = None
        for name in ("root", "middle", "leaf"):
            (directory / name).mkdir()
            world = await stack.enter_async_context(
                identity_world(directory / name, clock=clock, with_jwt=True, upstream=above)
            )
            worlds.append(world)
            if name != "leaf":
                above = Above(world, f"/below-{name}")
        tasks = [asyncio.create_task(world.authorities.run()) for world in worlds]
        try:
            assert above is not None
            root, middle, leaf = worlds
            yield Levels(root, middle, leaf, above)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def levels(tmp_path: Path) -> AsyncIterator[Levels]:
    async with three_levels(tmp_path) as made:
        yield made


async def until(world: World, holds: Callable[[World], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            seen = world.authorities.revision
            if holds(world):
                return
            await world.authorities.changed(seen)


async def chain_of(world: World) -> tuple[bytes, ...]:
    issued = await world.issuance.for_server(spiffe("/spire/server"), generate_key().public_key())
    return issued.chain


def kids(world: World) -> dict[str, bool]:
    return {key.key_id: key.tainted for key in world.authorities.bundle().jwt_authorities}


def signing_kid(world: World) -> str:
    return world.jwt.signer.key.id


async def test_what_any_level_issues_every_level_verifies(levels: Levels) -> None:
    keys = {signing_kid(world) for world in levels.all}
    for world in levels.all:
        await until(world, lambda each: keys <= kids(each).keys())
        assert world.authorities.bundle().x509_authorities == levels.root.authorities.active.chain
    for place, issuer in enumerate(levels.all):
        chain = await chain_of(issuer)
        assert len(chain) == 1 + place
        token = await issuer.jwt_issuance.mint("test", spiffe("/web"), AUDIENCE, None)
        for judge in levels.all:
            bundle, now = judge.authorities.bundle(), judge.clock.now()
            assert verify_x509_svid(chain, bundle, now) == spiffe("/spire/server")
            trusted = {DOMAIN: bundle}
            assert verify_jwt_svid(token.token, AUDIENCE, trusted.get, now).spiffe_id == spiffe("/web")


async def test_a_forced_rotation_at_the_top_goes_down_level_by_level(levels: Levels) -> None:
    root = levels.root.authorities
    first = root.active
    second = await root.prepare()
    for world in levels.all:
        await until(world, lambda each: second.chain[0] in each.authorities.bundle().x509_authorities)
    before = [await chain_of(world) for world in levels.all]
    await root.activate(second.id)
    await root.taint(first.id)
    for world, chain in zip(levels.all, before, strict=True):
        await until(world, lambda each: bool(each.authorities.bundle().tainted_x509))
        bundle = world.authorities.bundle()
        verify_x509_svid(chain, bundle, world.clock.now())
        assert is_tainted(chain, bundle, world.clock.now())
        # Who knows of the taint, and asks again, already gets something sound.
        await until(world, lambda each: sound(each))
        assert not is_tainted(await chain_of(world), bundle, world.clock.now())
    await root.revoke(first.id)
    for world in levels.all:
        await until(world, lambda each: each.authorities.bundle().x509_authorities == second.chain)
        verify_x509_svid(await chain_of(world), world.authorities.bundle(), world.clock.now())


def sound(world: World) -> bool:
    active: Authority = world.authorities.active
    tainted = world.authorities.bundle().tainted_x509
    return not tainted & set(active.chain) and active.upstream_authority_id not in ids(tainted)


def ids(certificates: frozenset[bytes]) -> set[str]:
    return {subject_key_id(load_certificate(der)) for der in certificates}


async def test_a_key_of_the_lowest_level_is_tainted_and_revoked_at_the_top(levels: Levels) -> None:
    stolen = signing_kid(levels.leaf)
    await until(levels.root, lambda each: stolen in kids(each))
    await levels.root.authorities.taint_jwt(stolen, "root")
    for world in levels.all:
        await until(world, lambda each: kids(each).get(stolen) is not False)
    await levels.root.authorities.revoke_jwt(stolen, "root")
    for world in levels.all:
        await until(world, lambda each: stolen not in kids(each))
    await until(levels.leaf, lambda each: signing_kid(each) != stolen)
    fresh = signing_kid(levels.leaf)
    for world in levels.all:
        await until(world, lambda each: fresh in kids(each))


async def test_a_key_that_is_revoked_where_it_is_from_is_withdrawn_above(levels: Levels) -> None:
    leaf, old = levels.leaf.authorities, signing_kid(levels.leaf)
    await until(levels.root, lambda each: old in kids(each))
    await leaf.activate_jwt((await leaf.prepare_jwt()).id)
    await leaf.taint_jwt(old)
    await until(levels.root, lambda each: kids(each).get(old) is True)
    await leaf.revoke_jwt(old)
    for world in levels.all:
        await until(world, lambda each: old not in kids(each))
    steps = [event.action for event in levels.root.audit.events if event.subject == old]
    assert steps == ["jwt-authority.publish", "jwt-authority.publish", "jwt-authority.revoke"]


async def test_a_key_that_cannot_be_published_above_does_not_sign(levels: Levels) -> None:
    signing = signing_kid(levels.leaf)
    levels.above_leaf.away = True
    with pytest.raises(VestibuleError, match="VST1310"):
        await levels.leaf.authorities.prepare_jwt()
    assert signing_kid(levels.leaf) == signing
    # What is done here is done, and told above later.
    levels.above_leaf.away = False
    second = (await levels.leaf.authorities.prepare_jwt()).id
    await levels.leaf.authorities.activate_jwt(second)
    levels.above_leaf.away = True
    await levels.leaf.authorities.taint_jwt(signing)
    assert kids(levels.leaf)[signing]
    levels.above_leaf.away = False
    await levels.middle.authorities.prepare_jwt()  # any news
    await until(levels.middle, lambda each: kids(each).get(signing) is True)


# -------------------------------------------------------------------------------- WIT-SVIDs, a flag


@asynccontextmanager
async def with_wit(directory: Path, *, above: bool) -> AsyncIterator[tuple[World, World]]:
    """Two levels, of which the lower one has WIT-SVIDs, and the one ``above`` perhaps."""
    clock = FakeClock()
    for name in ("root", "leaf"):
        (directory / name).mkdir()
    async with (
        identity_world(directory / "root", clock=clock, with_jwt=True, with_wit=above) as root,
        identity_world(
            directory / "leaf", clock=clock, with_jwt=True, with_wit=True, upstream=Above(root, "/below")
        ) as leaf,
    ):
        tasks = [asyncio.create_task(world.authorities.run()) for world in (root, leaf)]
        try:
            yield root, leaf
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def wit_kids(world: World) -> set[str]:
    return {key.key_id for key in world.authorities.bundle().wit_authorities}


async def test_wit_keys_are_known_at_every_level_and_revoked_at_the_top(tmp_path: Path) -> None:
    async with with_wit(tmp_path, above=True) as (root, leaf):
        keys = {world.authorities.wit.signer.key.id for world in (root, leaf)}
        for world in (root, leaf):
            await until(world, lambda each: keys <= wit_kids(each))
            assert not keys & kids(world).keys()
        stolen = leaf.authorities.wit.signer.key.id
        await root.authorities.taint_wit(stolen, "root")
        await root.authorities.revoke_wit(stolen, "root")
        for world in (root, leaf):
            await until(world, lambda each: stolen not in wit_kids(each))
        await until(leaf, lambda each: each.authorities.wit.signer.key.id != stolen)
        own = leaf.authorities.wit.signer.key.id
        await until(root, lambda each: own in wit_kids(each))
        await leaf.authorities.activate_wit((await leaf.authorities.prepare_wit()).id)
        await leaf.authorities.taint_wit(own)
        await leaf.authorities.revoke_wit(own)
        await until(root, lambda each: own not in wit_kids(each))


async def test_below_a_server_that_knows_no_wit_keys_they_are_known_here_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_wit(tmp_path, above=False) as (root, leaf):
        own = leaf.authorities.wit.signer.key.id
        second = (await leaf.authorities.prepare_wit()).id
        third = (await root.authorities.prepare_jwt()).id
        await until(leaf, lambda each: third in kids(each))  # news from above change nothing
        assert wit_kids(leaf) == {own, second}
        assert wit_kids(root) == set()
        assert leaf.authorities.wit.signer.key.id == own
    told = [each.message for each in caplog.records if "knows no WIT-SVIDs" in each.message]
    assert len(told) == 1, "once"


# ------------------------------------------------------------------------------------- what is refused


async def test_no_server_takes_the_place_of_anothers_key_or_fills_the_bundle(world: World) -> None:
    clock, authorities = world.clock, world.authorities

    def key(**changes: object) -> JwtAuthority:
        plain = replace(TestAuthority(now=clock.now()).jwt_authority, expires_at=clock.now() + HOUR)
        return replace(plain, **changes)  # type: ignore[arg-type]

    mine = key()
    await authorities.publish_jwt(mine, spiffe("/a"))
    stolen_name = key(key_id=mine.key_id)
    with pytest.raises(VestibuleError, match="VST1313"):
        await authorities.publish_jwt(stolen_name, spiffe("/b"))
    # Nobody else can withdraw it, either.
    with pytest.raises(VestibuleError, match="VST1313"):
        await authorities.publish_jwt(replace(mine, tainted=True, expires_at=clock.now()), spiffe("/b"))
    assert kids(world) == {mine.key_id: False}
    for _ in range(MAX_PUBLISHED):
        await authorities.publish_jwt(key(), spiffe("/b"))
    with pytest.raises(VestibuleError, match="VST1315"):
        await authorities.publish_jwt(key(), spiffe("/b"))
    await authorities.publish_jwt(key(), spiffe("/a"))
    clock.advance(2 * HOUR)
    await authorities.advance()
    assert kids(world) == {}


async def test_a_published_key_outlives_a_restart_and_a_revoked_one_stays_revoked(tmp_path: Path) -> None:
    clock = FakeClock()
    keys = [
        replace(TestAuthority(now=clock.now()).jwt_authority, expires_at=clock.now() + HOUR) for _ in "ab"
    ]
    async with identity_world(tmp_path, clock=clock) as world:
        for key in keys:
            await world.authorities.publish_jwt(key, spiffe("/a"))
        await world.authorities.taint_jwt(keys[0].key_id)
        await world.authorities.revoke_jwt(keys[0].key_id)
        await world.authorities.taint_jwt(keys[1].key_id)
    async with identity_world(tmp_path, clock=clock) as world:
        assert kids(world) == {keys[1].key_id: True}
        with pytest.raises(VestibuleError, match="VST1314"):
            await world.authorities.publish_jwt(keys[0], spiffe("/a"))
        # Publishing again does not make it clean.
        await world.authorities.publish_jwt(keys[1], spiffe("/a"))
        assert kids(world) == {keys[1].key_id: True}
