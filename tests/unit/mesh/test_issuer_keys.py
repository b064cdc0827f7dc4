"""Keys of outside issuers, through the days of an issuer that is not always there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from vestibule.audit import AuditEvent
from vestibule.calls.http.codes import HTTP_UNREACHABLE
from vestibule.calls.key_sets import Fetched
from vestibule.errors import VestibuleError
from vestibule.mesh.issuer_keys import LONGEST, SHORTEST, USUAL, IssuerKeys, KeptKeys, pause
from vestibule.mesh.kept_issuer_keys import KeyFiles
from vestibule.mesh.revision import Revision
from vestibule.testing.clock import FakeClock

URL, OTHER = "https://login.example.com/jwks", "https://idp.example.net/keys"
AWAY = HTTP_UNREACHABLE.error("the issuer is away")


def key_set(*names: str) -> bytes:
    keys = [{**ECKey.generate_key("P-256", private=False).as_dict(), "kid": name} for name in names]
    return json.dumps({"keys": keys}).encode()


class Issuers:
    """What each URL gives, or why it does not; ``asked`` with which marks."""

    def __init__(self) -> None:
        self.give: dict[str, Fetched | VestibuleError] = {}
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, url: str, etag: str = "") -> Fetched:
        self.asked.append((url, etag))
        given = self.give.get(url, AWAY)
        if isinstance(given, VestibuleError):
            raise given
        return Fetched(document=None, etag=etag) if etag and etag == given.etag else given


class Notes:
    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.failure: VestibuleError | None = None

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.failure is not None:
            raise self.failure
        self.events += events


@dataclass
class Room:
    """A server's keeper of keys, whose intent wants ``wanted``."""

    directory: Path
    clock: FakeClock = field(default_factory=FakeClock)
    issuers: Issuers = field(default_factory=Issuers)
    notes: Notes = field(default_factory=Notes)
    wanted: set[str] = field(default_factory=lambda: {URL})

    def __post_init__(self) -> None:
        self.changed = Revision()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[IssuerKeys]:
        keys = IssuerKeys(
            lambda: frozenset(self.wanted),
            self.changed,
            self.issuers,
            KeyFiles(self.directory / "issuer-keys"),
            self.notes,
            self.clock,
            jitter=lambda: 0.0,
        )
        keys.load()
        task = asyncio.create_task(keys.run())
        try:
            await self.clock.until_asleep(len(self.wanted))
            yield keys
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def after(self, wait: timedelta) -> None:
        asked = len(self.issuers.asked)
        self.clock.advance(wait)
        while len(self.issuers.asked) == asked:
            await asyncio.sleep(0)
        await self.clock.until_asleep(len(self.wanted))

    def give(self, *names: str, etag: str = "", url: str = URL, fresh: timedelta | None = None) -> None:
        self.issuers.give[url] = Fetched(document=key_set(*names), etag=etag, fresh=fresh)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def ids(keys: IssuerKeys, url: str = URL) -> list[str]:
    return [each["kid"] for each in json.loads(keys.now[url])["keys"]] if url in keys.now else []


async def test_what_an_issuer_publishes_is_fetched_and_followed(room: Room) -> None:
    room.give("a")
    async with room.running() as keys:
        assert ids(keys) == ["a"]
        seen = keys.revision
        room.give("a", "b")
        await room.after(USUAL)
        assert ids(keys) == ["a", "b"]
        assert await keys.changed(seen) > seen
        room.give("b")
        await room.after(USUAL)
        assert ids(keys) == ["b"]
        assert keys.warnings() == []
    taken = [each.details for each in room.notes.events]
    assert taken == [
        {"keys": "a", "new": "a", "gone": ""},
        {"keys": "a, b", "new": "b", "gone": ""},
        {"keys": "b", "new": "", "gone": "a"},
    ]


async def test_an_issuer_that_has_nothing_new_is_asked_for_no_more_than_that(room: Room) -> None:
    room.give("a", etag='"1"')
    async with room.running() as keys:
        seen = keys.revision
        await room.after(USUAL)
        assert room.issuers.asked == [(URL, ""), (URL, '"1"')]
        assert (ids(keys), keys.revision) == (["a"], seen)
        assert keys.seen() == {URL: room.clock.now().timestamp()}


async def test_it_is_asked_as_often_as_it_says_within_bounds(room: Room) -> None:
    room.give("a", fresh=timedelta(seconds=1))
    async with room.running():
        assert room.clock.next_wake == room.clock.now() + SHORTEST
        room.give("a", fresh=timedelta(days=30))
        await room.after(SHORTEST)
        assert room.clock.next_wake == room.clock.now() + LONGEST


async def test_an_issuer_that_is_away_or_gives_what_is_none_takes_nothing_away(room: Room) -> None:
    room.give("a")
    async with room.running() as keys:
        room.issuers.give[URL] = AWAY
        await room.after(USUAL)
        assert ids(keys) == ["a"]
        assert "the issuer is away" in keys.warnings()[0]
        room.issuers.give[URL] = Fetched(document=b"<html>")
        await room.after(USUAL)
        assert ids(keys) == ["a"]
        assert "VST6141" in keys.warnings()[0]
        assert room.notes.events[-1].outcome == "refused"
        room.give("b")
        await room.after(USUAL)
        assert ids(keys) == ["b"]
        assert keys.warnings() == []


async def test_last_good_keys_outlive_a_restart_but_do_not_count_for_ever(room: Room) -> None:
    room.give("a")
    async with room.running():
        pass
    room.issuers.give[URL] = AWAY
    room.clock.advance(timedelta(hours=23))
    async with room.running() as keys:
        assert ids(keys) == ["a"]
        room.clock.advance(timedelta(hours=1))
        await room.after(USUAL)
        assert ids(keys) == []
        assert "no keys" in keys.warnings()[0]
    async with room.running() as keys:
        assert ids(keys) == []
    assert list((room.directory / "issuer-keys").iterdir()) == []


async def test_what_no_intent_names_any_more_is_neither_fetched_nor_counts(room: Room) -> None:
    room.give("a")
    room.give("o", url=OTHER)
    async with room.running() as keys:
        room.wanted = {OTHER}
        room.changed.bump()
        while ids(keys, OTHER) != ["o"]:
            await asyncio.sleep(0)
        assert ids(keys) == []
        assert set(keys.seen()) == {OTHER}


async def test_keys_that_cannot_be_put_on_record_do_not_count(room: Room) -> None:
    room.give("a")
    room.notes.failure = HTTP_UNREACHABLE.error("the disk is full")
    async with room.running() as keys:
        assert ids(keys) == []
        room.notes.failure = None
        await room.after(timedelta(seconds=2))
        assert ids(keys) == ["a"]


def test_files_that_somebody_else_wrote_or_moved_are_not_read(tmp_path: Path) -> None:
    directory = tmp_path / "issuer-keys"
    files = KeyFiles(directory)
    known = KeptKeys(url=URL, keys=key_set("a").decode(), ids=("a",), etag="", seen_at=FakeClock().now())
    asyncio.run(files.keep(known))
    (found,) = files.read()
    assert found.url == URL
    (file,) = directory.iterdir()
    file.chmod(0o644)
    assert list(files.read()) == []
    file.chmod(0o600)
    file.rename(directory / "other.json")
    assert list(files.read()) == []
    (directory / "other.json").write_bytes(b"\x00{")
    assert list(files.read()) == []


def test_after_failures_it_is_asked_again_soon_then_less_and_less_often() -> None:
    waits = [pause(None, failures, 0.0).total_seconds() for failures in (1, 2, 3, 20, 2000)]
    assert waits == [2, 4, 8, 300, 300]
