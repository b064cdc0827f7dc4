"""What a server tells proxies of its token service before that can say anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.app.known_tokens import KnownTokens
from vestibule.mesh.revision import Revision
from vestibule.tokens.ports import RevokedBy, RevokedTokens

ISSUER = "https://tokens.example.org"


class _Telling:
    def __init__(self) -> None:
        self._revision = Revision()

    @property
    def revision(self) -> int:
        return self._revision.value

    async def changed(self, since: int) -> int:
        return await self._revision.changed(since)


class Keys(_Telling):
    now = ""

    def say(self, keys: str) -> None:
        self.now = keys
        self._revision.bump()


class Revoked(_Telling):
    now: tuple[RevokedTokens, ...] = ()

    def say(self, *values: str, until: datetime) -> None:
        self.now = tuple(
            RevokedTokens(by=RevokedBy.TOKEN, value=each, before=until, until=until) for each in values
        )
        self._revision.bump()


@asynccontextmanager
async def running(known: KnownTokens) -> AsyncIterator[None]:
    task = asyncio.create_task(known.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def told(path: Path, wanted: str) -> None:
    async with asyncio.timeout(60):
        while not path.exists() or wanted not in path.read_text():
            await asyncio.sleep(0.01)


async def test_what_was_known_last_counts_until_the_service_speaks_and_nothing_is_taken_back(
    tmp_path: Path,
) -> None:
    path, later = tmp_path / "known", datetime.now(UTC) + timedelta(hours=1)
    known, keys, revoked = KnownTokens(ISSUER, path), Keys(), Revoked()
    assert (known.own.keys.now, tuple(known.own.revoked.now)) == ("", ())
    async with running(known):
        known.connect(keys, revoked)
        keys.say("first")
        revoked.say("bad", until=later)
        await told(path, "first")
        await told(path, "bad")
    assert path.stat().st_mode & 0o077 == 0

    again, keys, revoked = KnownTokens(ISSUER, path), Keys(), Revoked()
    assert again.own.keys.now == "first"
    assert [each.value for each in again.own.revoked.now] == ["bad"]
    again.connect(keys, revoked)
    # Sealed: it says nothing yet.
    assert again.own.keys.now == "first"
    assert [each.value for each in again.own.revoked.now] == ["bad"]
    keys.say("second")
    revoked.say("worse", until=later)
    assert again.own.keys.now == "second"
    assert [each.value for each in again.own.revoked.now] == ["worse", "bad"]
    assert again.own.revoked.now is again.own.revoked.now


async def test_who_waits_before_there_is_a_service_hears_of_it(tmp_path: Path) -> None:
    known, keys, revoked = KnownTokens(ISSUER, tmp_path / "known"), Keys(), Revoked()
    waiting = asyncio.create_task(known.own.keys.changed(known.own.keys.revision))
    await asyncio.sleep(0)
    assert not waiting.done()
    known.connect(keys, revoked)
    assert await asyncio.wait_for(waiting, 60) == keys.revision


async def test_what_is_over_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "known"
    known, keys, revoked = KnownTokens(ISSUER, path), Keys(), Revoked()
    async with running(known):
        known.connect(keys, revoked)
        revoked.say("bad", until=datetime.now(UTC) - timedelta(seconds=1))
        await told(path, "bad")
    assert tuple(KnownTokens(ISSUER, path).own.revoked.now) == ()


@pytest.mark.parametrize("content", ["", "[]", '{"keys": "a"}', '{"keys": "a", "revoked": [{}]}'])
def test_a_file_that_makes_no_sense_is_said_and_left(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "known"
    path.write_text(content)
    path.chmod(0o600)
    known = KnownTokens(ISSUER, path)
    assert (known.own.keys.now, tuple(known.own.revoked.now)) == ("", ())
    assert str(path) in caplog.text
