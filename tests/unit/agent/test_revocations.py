"""The agent's list: what it takes, what it drops, what it keeps on disk."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.agent.cache import Held, Holdings, SvidCache
from vestibule.agent.codes import CACHE_UNUSABLE
from vestibule.agent.revocation_file import RevocationFile
from vestibule.agent.revocations import AgentRevocations
from vestibule.calls.revocations import Update, from_wire
from vestibule.doors.revocation_feed import pages, to_wire
from vestibule.errors import VestibuleError
from vestibule.keys.sealing import Sealer
from vestibule.net.codes import SERVER_NOT_TRUSTED
from vestibule.records import Entry
from vestibule.spiffe import (
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    Selector,
    SpiffeId,
    TrustDomain,
)
from vestibule.testing import FakeClock, TestAuthority
from vestibule.wire.gen.vestibule.node.v1 import revocations_pb2 as wire

DOMAIN = TrustDomain.parse("example.org")
CLOCK = FakeClock()
NOW = CLOCK.now()
WEB, DB = (SpiffeId.of(DOMAIN, path) for path in ("/web", "/db"))
AGENT = SpiffeId.of(DOMAIN, "/spire/agent/one")
ME = frozenset({Selector.parse("unix:uid:1")})


def revocation(target: object, version: int = 1, **fields: object) -> Revocation:
    return Revocation(target=target, at=NOW, version=version, **fields)  # type: ignore[arg-type]


def update(*changes: Revocation, version: int | None = None, more: bool = False) -> Update:
    newest = max((each.version for each in changes), default=0)
    return Update(version=newest if version is None else version, changes=changes, more=more)


class Silent:
    """A server that says nothing."""

    async def watch(self, since: int) -> AsyncGenerator[Update, None]:
        await asyncio.Event().wait()
        yield update(version=since)


async def joined() -> None:
    """The agent has joined long ago."""


@dataclass
class Scene:
    cache: SvidCache
    file: RevocationFile
    agent: AgentRevocations
    news: list[int]

    def served(self) -> set[SpiffeId]:
        entries = self.cache.matching(ME, NOW)
        return {each.spiffe_id for each in self.cache.now.svids_of(entries, NOW)}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    cache, authority = SvidCache(), TestAuthority(DOMAIN, now=NOW)
    file = RevocationFile(tmp_path / "revocations.sealed", Sealer(b"k" * 32), DOMAIN)
    news: list[int] = []
    agent = AgentRevocations(
        cache=cache,
        file=file,
        upstream=Silent(),
        until_joined=joined,
        clock=CLOCK,
        news=lambda: news.append(len(cache.revocations)),
    )
    entries = {
        each.path: Entry(id=each.path, spiffe_id=each, parent_id=AGENT, selectors=ME) for each in (WEB, DB)
    }
    svids = {
        each.path: Held(svid=authority.svid(each, now=NOW), renew_at=NOW + timedelta(minutes=30))
        for each in (WEB, DB)
    }
    cache.become(Holdings(bundle=authority.bundle, entries=entries, svids=svids))
    return Scene(cache, file, agent, news)


class Forgetful:
    """A server that tells what it is asked for, and then hangs up, at a clock that is wrong at times."""

    def __init__(self, clock: FakeClock, *clocks: datetime) -> None:
        self.everything = (
            revocation(RevokedIdentity(spiffe_id=WEB), 5, expires_at=NOW + timedelta(hours=1)),
            revocation(RevokedIdentity(spiffe_id=DB), 6),
        )
        self.asked: list[int] = []
        self.done = asyncio.Event()
        self._clock, self._clocks = clock, list(clocks)

    async def watch(self, since: int) -> AsyncGenerator[Update, None]:
        self.asked.append(since)
        if not self._clocks:
            self.done.set()
            await asyncio.Event().wait()
        self._clock.set(self._clocks.pop(0))
        yield update(*(each for each in self.everything if each.version > since), version=6)
        raise SERVER_NOT_TRUSTED.error("its clock is wrong")


async def test_what_a_wrong_clock_let_us_forget_is_told_again_once_it_is_right(tmp_path: Path) -> None:
    clock, cache = FakeClock(NOW), SvidCache()
    server = Forgetful(clock, NOW, NOW, NOW + timedelta(hours=2), NOW, NOW)
    agent = AgentRevocations(
        cache=cache,
        file=RevocationFile(tmp_path / "revocations.sealed", Sealer(b"k" * 32), DOMAIN),
        upstream=server,
        until_joined=joined,
        clock=clock,
        jitter=lambda: -1.0,
    )
    cache.revoke(Revocations(6, server.everything))  # as it was taken up from disk
    running = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(60):
            await server.done.wait()
    finally:
        running.cancel()
    # At the start all of it; then the news; and all of it once more after the clock went back.
    assert server.asked == [0, 6, 6, 6, 0, 6]
    assert {each.target for each in agent.now.entries} == {each.target for each in server.everything}


def test_a_revoked_identity_is_served_no_more_and_others_are(scene: Scene) -> None:
    assert scene.served() == {WEB, DB}
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB))))
    assert scene.served() == {DB}
    assert [each.spiffe_id for each in scene.cache.matching(ME, NOW)] == [DB]
    assert scene.news == [1]


def test_what_was_issued_before_is_dropped_and_what_comes_after_is_served(scene: Scene) -> None:
    since = NOW + timedelta(seconds=1)
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB, issued_before=since))))
    assert scene.served() == {DB}
    assert len(scene.cache.matching(ME, NOW)) == 2
    again = TestAuthority(DOMAIN, now=NOW).svid(WEB, now=NOW + timedelta(minutes=2))
    held = Held(svid=again, renew_at=NOW + timedelta(minutes=30))
    now = scene.cache.now
    scene.cache.become(replace(now, svids={**now.svids, "/web": held}))
    assert scene.served() == {WEB, DB}


def test_a_revoked_svid_that_a_server_hands_out_all_the_same_is_not_taken(scene: Scene) -> None:
    now = scene.cache.now
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB))))
    scene.cache.become(now)
    assert scene.served() == {DB}


def test_a_revoked_authority_leaves_the_bundle_that_is_served(scene: Scene) -> None:
    bundle = scene.cache.bundle
    assert bundle is not None
    [root] = bundle.x509_authorities
    target = RevokedAuthority(fingerprint=hashlib.sha256(root).hexdigest())
    scene.agent.take(update(revocation(target)))
    after = scene.cache.bundle
    assert after is not None
    assert after.x509_authorities == ()
    assert scene.cache.trusted([bundle]) == (after,)


def test_an_old_or_repeated_message_takes_nothing_back(scene: Scene) -> None:
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB), 5)))
    weaker = RevokedIdentity(spiffe_id=WEB, issued_before=NOW)
    scene.agent.take(update(revocation(weaker, 4)))
    scene.agent.take(update(version=0))
    assert scene.agent.now.version == 5
    assert scene.served() == {DB}
    assert scene.news == [1]


async def test_the_list_is_kept_sealed_and_taken_up_again(scene: Scene, tmp_path: Path) -> None:
    targets = (
        RevokedIdentity(spiffe_id=WEB),
        RevokedIdentity(spiffe_id=DB, issued_before=NOW),
        RevokedCertificate(authority_id="0a" * 20, serial=2**150),
        RevokedAuthority(fingerprint="ab" * 32, key="cd" * 32, authority_id="ef" * 20),
        RevokedJwtKey(trust_domain=DOMAIN, key_id="k/1"),
        RevokedAgent(agent_id=AGENT, mark=7),
    )
    scene.agent.take(update(*(revocation(each, n) for n, each in enumerate(targets, 1))))
    await scene.file.save(scene.agent.now)
    again = scene.file.load()
    assert again.entries == scene.agent.now.entries
    assert again.version == 6
    assert str(WEB).encode() not in (tmp_path / "revocations.sealed").read_bytes()
    other = RevocationFile(tmp_path / "revocations.sealed", Sealer(b"k" * 32), TrustDomain.parse("other.org"))
    with pytest.raises(VestibuleError, match="VST2114"):
        other.load()


async def test_a_revocation_that_comes_as_the_agent_is_stopped_holds_after_the_restart(scene: Scene) -> None:
    running = asyncio.create_task(scene.agent.run())
    await asyncio.sleep(0)
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB))))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scene.file.load().entries == scene.agent.now.entries != ()


async def test_a_hundred_thousand_revocations_are_taken_kept_and_read(scene: Scene) -> None:
    many = [revocation(RevokedCertificate(authority_id="0a", serial=n), n) for n in range(1, 100_001)]
    parts = pages(many, 2000)
    for number, part in enumerate(parts, 1):
        scene.agent.take(update(*part, more=number < len(parts)))
    await scene.file.save(scene.agent.now)
    assert len(scene.file.load()) == 100_000
    scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB), 100_001)))
    assert scene.served() == {DB}


async def test_a_disk_without_room_does_not_weaken_what_is_in_force(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failed = scene.file.save, asyncio.Event()

    async def full(_: Revocations) -> None:
        failed.set()
        raise CACHE_UNUSABLE.error("no space")

    monkeypatch.setattr(scene.file, "save", full)
    monkeypatch.setattr("vestibule.agent.revocations.SAVE_AGAIN_SECONDS", 0.01)
    running = asyncio.create_task(scene.agent.run())
    try:
        scene.agent.take(update(revocation(RevokedIdentity(spiffe_id=WEB))))
        async with asyncio.timeout(60):
            await failed.wait()
            assert scene.served() == {DB}
            monkeypatch.setattr(scene.file, "save", save)
            while scene.agent.not_saved is not None or not len(scene.file.load()):
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


@pytest.mark.parametrize(
    "target",
    [
        RevokedIdentity(spiffe_id=WEB),
        RevokedIdentity(spiffe_id=DB, issued_before=NOW),
        RevokedCertificate(authority_id="0a" * 20, serial=2**150),
        RevokedAuthority(fingerprint="ab" * 32, key="cd" * 32),
        RevokedJwtKey(trust_domain=DOMAIN, key_id="k/1"),
        RevokedAgent(agent_id=AGENT, mark=2**63 - 1),
    ],
)
def test_a_revocation_travels_as_it_is_but_for_note_and_actor(target: object) -> None:
    sent = revocation(target, 9, note="secret", actor="local:uid=0", expires_at=NOW + timedelta(hours=1))
    received = from_wire(to_wire(sent))
    assert received == replace(sent, note="", actor="")


def test_an_instant_of_expiry_is_rounded_so_that_nothing_ends_early() -> None:
    sent = revocation(RevokedIdentity(spiffe_id=WEB), expires_at=NOW + timedelta(milliseconds=1))
    assert from_wire(to_wire(sent)).expires_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    "change",
    [
        wire.RevocationChange(),
        wire.RevocationChange(kind="everything", name="*"),
        wire.RevocationChange(kind="identity", name="spiffe://Example.org/%2e"),
        wire.RevocationChange(kind="certificate", name="aa/" + "9" * 60),
        wire.RevocationChange(kind="agent", name="#"),
        wire.RevocationChange(kind="authority", name="a" * 5000),
    ],
)
def test_a_change_that_means_nothing_is_refused_alone(change: wire.RevocationChange) -> None:
    with pytest.raises(VestibuleError):
        from_wire(change)


def test_absurd_instants_and_unknown_reasons_do_not_keep_from_revoking() -> None:
    change = wire.RevocationChange(
        kind="identity", name=str(WEB), at=-5, expires_at=2**62, reason="because", version=1
    )
    read = from_wire(change)
    assert read.target == RevokedIdentity(spiffe_id=WEB)
    assert read.expires_at is not None
    assert read.expires_at.year == 9999
    assert read.at == datetime.fromtimestamp(0, UTC)


# ------------------------------------------------------------------------------------ a list that is damaged


class Telling:
    """A server that tells its list once somebody lets it."""

    def __init__(self, *known: Revocation) -> None:
        self.known = known
        self.asked: list[int] = []
        self.reachable = asyncio.Event()

    async def watch(self, since: int) -> AsyncGenerator[Update, None]:
        await self.reachable.wait()
        self.asked.append(since)
        half = len(self.known) // 2
        yield update(*self.known[:half], more=True)
        yield update(*self.known[half:])
        await asyncio.Event().wait()


def damaged(tmp_path: Path, server: Telling) -> tuple[AgentRevocations, SvidCache, RevocationFile]:
    """An agent whose list was damaged while it did not run."""
    path, cache = tmp_path / "revocations.sealed", SvidCache()
    file = RevocationFile(path, Sealer(b"k" * 32), DOMAIN)
    path.write_bytes(b"damaged")
    agent = AgentRevocations(cache=cache, file=file, upstream=server, until_joined=joined, clock=CLOCK)
    agent.load()
    cache.get_ready()
    return agent, cache, file


def serves(cache: SvidCache) -> bool:
    return cache.ready


async def test_with_a_damaged_list_nothing_is_served_until_the_server_has_told_all_of_it(
    tmp_path: Path,
) -> None:
    server = Telling(revocation(RevokedIdentity(spiffe_id=WEB)), revocation(RevokedIdentity(spiffe_id=DB), 2))
    agent, cache, file = damaged(tmp_path, server)
    assert not serves(cache)
    assert "VST2114" in str(cache.doubt)
    running = asyncio.create_task(agent.run())
    try:
        await asyncio.sleep(0)
        assert not serves(cache)
        server.reachable.set()
        async with asyncio.timeout(60):
            while not serves(cache):
                await asyncio.sleep(0)
        assert server.asked == [0]
        assert {each.target.name for each in agent.now.entries} == {str(WEB), str(DB)}
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert len(file.load()) == 2


async def test_a_damaged_list_is_not_forgotten_by_stopping_and_starting_again(tmp_path: Path) -> None:
    agent, _, file = damaged(tmp_path, Telling())
    running = asyncio.create_task(agent.run())
    await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    with pytest.raises(VestibuleError, match="VST2114"):
        file.load()


async def test_a_list_that_turns_out_to_be_empty_is_kept_as_such_after_damage(tmp_path: Path) -> None:
    server = Telling()
    server.reachable.set()
    agent, cache, file = damaged(tmp_path, server)
    running = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(60):
            while not serves(cache):
                await asyncio.sleep(0)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert not file.load()
