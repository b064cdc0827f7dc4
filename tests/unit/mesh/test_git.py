"""A repository that is elsewhere: when it is asked, and what is said while it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from vestibule.calls.git import CommitFacts, CommitTree, Head, Mirror, Place, Ref
from vestibule.calls.git.codes import GIT_ACCESS_DENIED, GIT_COMMIT_NOT_SIGNED, GIT_TOO_LARGE, GIT_UNREACHABLE
from vestibule.errors import VestibuleError
from vestibule.intent import Loaded, load_files
from vestibule.mesh import Following, GitSource
from vestibule.testing import FakeClock

FILES = {
    "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\n",
    "services/web.yaml": b"service: web\nports: {http: {protocol: http}}\nallow: []\n",
}


class Remote:
    """A ``Mirror`` of a repository somewhere else, that does what a test says."""

    place = Place.parse("https://git.example.org/intent")

    def __init__(self) -> None:
        self.now = "a" * 40
        self.asked = 0
        self.fetched: list[str] = []
        self.away: VestibuleError | None = None
        self.refused: VestibuleError | None = None
        self.unsigned: VestibuleError | None = None

    async def prepare(self, ref: Ref) -> None: ...

    async def discard(self) -> None: ...

    async def kept(self) -> None:
        return None

    async def keep(self, commit: str, source: str) -> None: ...

    async def head(self, ref: Ref) -> Head:
        self.asked += 1
        if self.away is not None:
            raise self.away
        return Head(name="refs/heads/main", id=self.now)

    async def fetch(self, head: Head) -> str:
        self.fetched.append(head.id)
        if self.refused is not None:
            raise self.refused
        return head.id

    async def signer(self, commit: str) -> str | None:
        if self.unsigned is not None:
            raise self.unsigned
        return None

    async def contains(self, commit: str, other: str) -> bool:
        return True

    async def facts(self, commit: str) -> CommitFacts:
        return CommitFacts(author="Ann", subject="a change", committed_at=datetime(2026, 1, 1, tzinfo=UTC))

    @contextmanager
    def tree(self, commit: str, directory: str) -> Iterator[str]:
        yield commit


def read(commit: object) -> Loaded:
    """Another file in each commit."""
    name = f"s{str(commit)[0]}"
    service = FILES["services/web.yaml"].replace(b"web", name.encode())
    return load_files({**FILES, f"services/{name}.yaml": service})


class Room:
    def __init__(self) -> None:
        self.remote, self.clock = Remote(), FakeClock()
        following = Following(ref=Ref.parse("main"), poll=timedelta(seconds=10))
        reader = cast("Callable[[CommitTree], Loaded]", read)
        self.source = GitSource(cast("Mirror", self.remote), following, self.clock, read=reader)

    def asked(self, times: int) -> bool:
        return self.remote.asked == times

    @property
    def told(self) -> list[str]:
        return [f"{each.code.code} {each.message}" for each in self.source.reading.problems]

    @property
    def version(self) -> str | None:
        intent = self.source.reading.intent
        return intent.version if intent else None


async def turns(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_it_is_asked_once_per_poll_and_fetched_when_something_moved() -> None:
    room = Room()
    await room.source.load()
    task = asyncio.create_task(room.source.run())
    await turns(lambda: room.remote.asked == 2)
    for polls in range(3, 6):
        await room.clock.until_asleep()
        room.clock.advance(timedelta(seconds=10))
        await turns(partial(room.asked, polls))
    assert room.remote.fetched == ["a" * 40]
    room.remote.now = "b" * 40
    await room.clock.until_asleep()
    room.clock.advance(timedelta(seconds=10))
    await turns(lambda: room.version == "b" * 12)
    task.cancel()


async def test_who_is_told_of_something_new_looks_at_once() -> None:
    room = Room()
    await room.source.load()
    task = asyncio.create_task(room.source.run())
    await turns(lambda: room.remote.asked == 2)
    room.remote.now = "b" * 40
    room.source.look_now()
    await turns(lambda: room.version == "b" * 12)
    # Many messages at once are one question, or two.
    asked = room.remote.asked
    for _ in range(50):
        room.source.look_now()
    await turns(lambda: room.remote.asked > asked)
    await asyncio.sleep(0.02)
    assert room.remote.asked <= asked + 2
    task.cancel()


async def test_since_when_it_is_away_is_told_until_it_is_back() -> None:
    room = Room()
    await room.source.load()
    room.remote.away = GIT_UNREACHABLE.error("no route to host")
    began = room.clock.now()
    await room.source.look()
    room.clock.advance(timedelta(minutes=5))
    await room.source.look()
    assert room.told == [f"VST3222 no route to host (since {began:%Y-%m-%dT%H:%M:%SZ})"]
    room.remote.away = GIT_ACCESS_DENIED.error("the token expired")
    await room.source.look()
    assert room.told == [f"VST3228 the token expired (since {room.clock.now():%Y-%m-%dT%H:%M:%SZ})"]
    assert room.version == "a" * 12
    room.remote.away = None
    await room.source.look()
    assert room.told == []


async def test_what_cannot_be_taken_up_is_tried_ever_more_rarely_but_what_follows_at_once() -> None:
    room = Room()
    await room.source.load()
    room.remote.now, room.remote.refused = "b" * 40, GIT_TOO_LARGE.error("too large")
    for _ in range(100):
        await room.source.look()
        room.clock.advance(timedelta(seconds=10))
    assert 5 < len(room.remote.fetched) < 12
    assert room.version == "a" * 12
    assert room.told[0].startswith("VST3226")
    room.remote.now, room.remote.refused = "c" * 40, None
    await room.source.look()
    assert (room.version, room.told) == ("c" * 12, [])


async def test_a_refused_signature_is_judged_again_when_somebody_asks() -> None:
    room = Room()
    await room.source.load()
    room.remote.now, room.remote.unsigned = "b" * 40, GIT_COMMIT_NOT_SIGNED.error("by nobody")
    await room.source.look()
    room.remote.unsigned = None
    await room.source.look()
    assert room.version == "a" * 12
    room.source.look_now()
    await room.source.look()
    assert (room.version, room.told) == ("b" * 12, [])
