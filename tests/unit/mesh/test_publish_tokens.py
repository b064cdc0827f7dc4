"""What proxies are told of the mesh's own token service, and how soon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envoy.config.core.v3 import extension_pb2
from tests.unit.mesh.kept import KeptInstances
from tests.unit.mesh.test_discovery import FILES, at, instance
from tests.unit.mesh.test_publish import PAYMENTS, WEB, Lifetimes

from vestibule.envoy.compile import Compiler
from vestibule.envoy.nothing import NOTHING
from vestibule.envoy.revoked_tokens import MOST, SLOT, Entry
from vestibule.intent import load_files
from vestibule.mesh import DirectorySource, Discovery, Publisher
from vestibule.mesh.own_tokens import OwnTokens
from vestibule.mesh.revision import Revision
from vestibule.testing import FakeClock
from vestibule.testing.intents import AllAtOnce
from vestibule.tokens.ports import RevokedBy, RevokedTokens
from vestibule.xds.resources import EXTENSION, ProxyKey, Snapshot

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SPEAKING = b"issuers: {internal: {keys: tokens}}\n"
DEMANDING = b"""service: payments
ports: {http: {protocol: http}}
allow: [{id: web, from: [web], token: {audience: payments}}]
"""


class _Telling:
    def __init__(self) -> None:
        self._revision = Revision()

    @property
    def revision(self) -> int:
        return self._revision.value

    async def changed(self, since: int) -> int:
        return await self._revision.changed(since)

    def tell(self) -> None:
        self._revision.bump()


class Keys(_Telling):
    now = ""


class Revoked(_Telling):
    now: tuple[Entry, ...] = ()

    def revoke(self, *values: str) -> None:
        self.now = tuple(
            RevokedTokens(by=RevokedBy.TOKEN, value=value, before=NOW, until=NOW) for value in values
        )
        self.tell()


class Room:
    def __init__(self, mesh: bytes) -> None:
        files = {**FILES, "services/payments.yaml": DEMANDING if mesh else FILES["services/payments.yaml"]}
        self.files = {**files, "mesh.yaml": FILES["mesh.yaml"] + mesh}
        clock = FakeClock()
        self.source = DirectorySource(Path("intent"), clock, read=lambda _: load_files(self.files))
        intents = AllAtOnce(self.source)
        self.discovery = Discovery(KeptInstances(), intents, clock)
        self.keys, self.revoked = Keys(), Revoked()
        own = OwnTokens(issuer="https://tokens.example.org", keys=self.keys, revoked=self.revoked)
        self.publisher = Publisher(intents, self.discovery, Lifetimes(), clock=clock, own_tokens=own)
        self._watches: dict[ProxyKey, AsyncIterator[Snapshot]] = {}

    async def next(self, proxy: ProxyKey) -> Snapshot:
        watch = self._watches.setdefault(proxy, self.publisher.watch(proxy))
        return await asyncio.wait_for(anext(watch), 60)

    async def until(self, proxy: ProxyKey, holds: Callable[[Snapshot], bool]) -> Snapshot:
        while not holds(snapshot := await self.next(proxy)):
            pass
        return snapshot

    async def run(self) -> None:
        await self.source.load()
        await self.discovery.register(instance("web"))
        await self.discovery.register(
            instance("payments", id="i-2", ingress={"http": at(2000)}, apps={"http": at(2001)})
        )
        await self.publisher.run()


async def _running(room: Room) -> AsyncIterator[Room]:
    task = asyncio.create_task(room.run())
    yield room
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async for each in _running(Room(SPEAKING)):
        yield each


@pytest.fixture
async def silent() -> AsyncIterator[Room]:
    async for each in _running(Room(b"")):
        yield each


def slot_of(snapshot: Snapshot) -> bytes:
    return snapshot.of_type(EXTENSION)[SLOT].body


def policy_of(snapshot: Snapshot) -> bytes:
    return snapshot.of_type(EXTENSION)["policy/http"].body


def is_empty(snapshot: Snapshot) -> bool:
    config = extension_pb2.TypedExtensionConfig.FromString(slot_of(snapshot)).typed_config
    return bool(config == NOTHING)


async def test_revoked_tokens_are_refused_by_all_before_anything_is_compiled(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_empty(await room.next(PAYMENTS))
    monkeypatch.setattr(Compiler, "compile", None)
    room.revoked.revoke("bad")
    refusing = await room.next(PAYMENTS)
    assert b"bad" in slot_of(refusing)
    room.revoked.revoke()
    assert is_empty(await room.next(PAYMENTS))


async def test_who_comes_later_refuses_them_too_and_goes_on_when_other_things_change(room: Room) -> None:
    room.keys.now = json.dumps({"keys": []})
    room.revoked.revoke("bad")
    await room.until(PAYMENTS, lambda each: b"bad" in slot_of(each))
    room.files["services/payments.yaml"] = DEMANDING.replace(b"id: web", b"id: website")
    await room.source.load()
    snapshot = await room.until(PAYMENTS, lambda each: b"website" in policy_of(each))
    assert b"bad" in slot_of(snapshot)


async def test_new_keys_reach_the_filter_that_verifies_and_nothing_else(room: Room) -> None:
    before = await room.next(PAYMENTS)
    room.keys.now = json.dumps({"keys": [{"kty": "EC", "kid": "first"}]})
    room.keys.tell()
    after = await room.next(PAYMENTS)
    told = after.of_type(EXTENSION)["token/http"]
    assert b"first" in told.body
    assert b"https://tokens.example.org" in told.body
    changed = [
        name
        for url, by_name in after.resources.items()
        for name, each in by_name.items()
        if before.of_type(url)[name] != each
    ]
    assert sorted(changed) == ["policy/http", "token/http"] or changed == ["token/http"]


async def test_a_mesh_that_does_not_speak_of_the_service_is_told_nothing(silent: Room) -> None:
    silent.keys.now = json.dumps({"keys": []})
    for proxy in (WEB, PAYMENTS):
        assert SLOT not in (await silent.next(proxy)).of_type(EXTENSION)
    silent.revoked.revoke("bad")
    silent.keys.tell()
    silent.files["services/web.yaml"] += b"owner: somebody\n"
    await silent.source.load()
    snapshot = await silent.next(PAYMENTS)
    assert SLOT not in snapshot.of_type(EXTENSION)


async def test_a_list_that_is_too_long_is_said_so(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    await room.next(PAYMENTS)
    room.revoked.revoke(*map(str, range(MOST + 1)))
    assert not is_empty(await room.next(PAYMENTS))
    assert "refuse all tokens from before" in caplog.text
