"""Files that follow a Workload API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from vestibule.agent.codes import NO_IDENTITY, NOT_READY
from vestibule.errors import VestibuleError
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.codes import HINT_UNKNOWN, NOT_TOLD
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.sdk.files.directory import FileDirectory
from vestibule.sdk.files.health import HealthDoor, HealthPages
from vestibule.sdk.files.keeping import Keeper
from vestibule.sdk.files.reload import OnFailure, Reload
from vestibule.spiffe import X509Svid
from vestibule.testing import TestAuthority
from vestibule.testing.workload_api import ScriptedWorkloadApi, scripted_workload_api

NAMED = Layout(certificate="cert", key="key", bundle="bundle")
TOKEN = JwtFile(name="token", audience=("db",))


@dataclass
class Field:
    """A Workload API, and a directory that follows it."""

    api: ScriptedWorkloadApi
    path: Path
    socket: Path
    told: list[int] = field(default_factory=list)

    def keeper(self, layout: Layout, directory: FileDirectory, **options: object) -> Keeper:
        reload = Reload(receiver=lambda: self.told.append(self.serial()))
        return Keeper(layout, directory, Endpoint(path=str(self.socket)), **{"reload": reload} | options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def following(self, layout: Layout = NAMED, **options: object) -> AsyncIterator[Keeper]:
        with FileDirectory(self.path) as directory:
            keeper = self.keeper(layout, directory, **options)
            task = asyncio.create_task(keeper.follow())
            try:
                yield keeper
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def serial(self) -> int:
        return x509.load_pem_x509_certificate((self.path / "cert").read_bytes()).serial_number

    def shows(self, svid: X509Svid) -> bool:
        return (self.path / "cert").exists() and self.serial() == svid.serial


@pytest.fixture
async def world(short_dir: Path) -> AsyncIterator[Field]:
    path = short_dir / "files"
    path.mkdir()
    async with scripted_workload_api(short_dir / "a.sock") as api:
        yield Field(api, path, short_dir / "a.sock")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_files_follow_every_renewal_and_each_is_told(world: Field) -> None:
    first = world.api.issue("/web")
    async with world.following() as keeper:
        await until(lambda: world.told == [first.serial])
        second = world.api.issue("/web")
        await until(lambda: world.told == [first.serial, second.serial])
        await until(lambda: keeper.is_ready)
        assert keeper.board.expires == second.not_after


async def test_an_identity_that_comes_later_is_waited_for(world: Field) -> None:
    async with world.following() as keeper:
        await until(lambda: keeper.board.problems["x509"] != "")
        assert not keeper.is_ready
        svid = world.api.issue("/web")
        await until(lambda: world.shows(svid))


async def test_keys_of_an_identity_that_is_taken_away_go_and_come_back_with_it(world: Field) -> None:
    world.api.issue("/web")
    async with world.following(Layout(certificate="cert", key="key", jwts=(TOKEN,))) as keeper:
        await until(lambda: keeper.is_ready)
        assert (world.path / "token").exists()
        told = len(world.told)
        world.api.withdraw()
        await until(lambda: not (world.path / "key").exists())
        assert (world.path / "cert").exists()
        assert not (world.path / "token").exists()
        assert not keeper.is_ready
        assert len(world.told) == told, "there is nothing new to read"
        svid = world.api.issue("/web")
        await until(lambda: world.shows(svid) and (world.path / "key").exists())
        await until(lambda: (world.path / "token").exists() and keeper.is_ready)


async def test_they_stay_where_that_is_wanted_and_over_an_outage_in_any_case(world: Field) -> None:
    world.api.issue("/web")
    async with world.following(keep_withdrawn=True) as keeper:
        await until(lambda: keeper.is_ready)
        world.api.withdraw()
        await until(lambda: NO_IDENTITY.name in keeper.board.problems["x509"] or not keeper.is_ready)
        assert (world.path / "key").exists()
    async with world.following() as keeper:
        world.api.issue("/web")
        await until(lambda: keeper.is_ready)
        world.api.withdraw(NOT_READY.error("the agent is starting"))
        svid = world.api.issue("/web")
        await until(lambda: world.shows(svid))


async def test_an_svid_that_nobody_would_believe_is_not_written(
    world: Field, caplog: pytest.LogCaptureFixture
) -> None:
    good = world.api.issue("/web")
    async with world.following() as keeper:
        await until(lambda: keeper.is_ready)
        with caplog.at_level(logging.WARNING):
            world.api.give(TestAuthority("example.org").svid("/web"))
            await until(lambda: bool(keeper.board.problems["x509"]))
        assert world.shows(good)
        assert "x509" in caplog.text
        assert (world.path / "key").exists()
        better = world.api.issue("/web")
        await until(lambda: world.shows(better) and keeper.is_ready)


async def test_an_svid_of_the_future_is_said_with_its_time(world: Field) -> None:
    future = datetime.now(UTC) + timedelta(hours=2)
    world.api.give(world.api.authority.svid("/web", now=future))
    async with world.following() as keeper:
        await until(lambda: "valid" in keeper.board.problems["x509"])
        assert not (world.path / "cert").exists()


async def test_a_disk_that_cannot_be_written_is_tried_again(world: Field) -> None:
    (world.path / "cert").mkdir()
    world.api.issue("/web")
    async with world.following() as keeper:
        await until(lambda: "files" in keeper.board.problems)
        assert not keeper.is_ready
        (world.path / "cert").rmdir()
        await until(lambda: keeper.is_ready)


async def test_a_reader_that_cannot_be_told_is_told_again(world: Field, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    world.api.issue("/web")
    async with world.following(reload=Reload(command=("test", "-e", str(allowed)))) as keeper:
        await until(lambda: "VST2454" in keeper.board.problems.get("reload", ""))
        assert not keeper.is_ready
        allowed.touch()
        await until(lambda: keeper.is_ready)


async def test_or_not_again_or_it_ends_everything(world: Field) -> None:
    world.api.issue("/web")
    once = Reload(command=("false",), on_failure=OnFailure.CONTINUE)
    async with world.following(reload=once) as keeper:
        await until(lambda: "reload" in keeper.board.problems)
    ends = Reload(command=("false",), on_failure=OnFailure.EXIT)
    with FileDirectory(world.path) as directory, pytest.raises(VestibuleError) as raised:
        async with asyncio.timeout(60):
            await world.keeper(NAMED, directory, reload=ends).follow()
    assert raised.value.code is NOT_TOLD


async def test_tokens_are_renewed_at_half_of_their_life(world: Field) -> None:
    world.api.issue("/web")
    world.api.token_ttl = timedelta(seconds=2)
    async with world.following(Layout(jwts=(TOKEN,), jwt_bundle="keys.json")):
        await until(lambda: (world.path / "token").exists() and (world.path / "keys.json").exists())
        before = (world.path / "token").read_text()
        await until(lambda: (world.path / "token").read_text() != before)
    assert set(json.loads((world.path / "keys.json").read_text())) == {"keys"}
    assert not (world.path / "cert").exists()


async def test_keys_of_tokens_follow_the_trust_domains(world: Field) -> None:
    world.api.issue("/web")
    async with world.following(Layout(jwt_bundle="keys.json", federated=True)) as keeper:
        await until(lambda: keeper.is_ready)
        world.api.issue("/web", federated=[TestAuthority("other.org").jwt_bundle])
        await until(lambda: "other.org" in (world.path / "keys.json").read_text())


async def test_once_is_once_and_says_what_is_missing(world: Field) -> None:
    with FileDirectory(world.path) as directory:
        with pytest.raises(VestibuleError, match="no identity") as raised:
            await world.keeper(NAMED, directory).once()
        world.api.issue("/web")
        with pytest.raises(VestibuleError) as raised:
            await world.keeper(Layout(hint="none"), directory).once()
        assert raised.value.code is HINT_UNKNOWN
        layout = Layout(certificate="cert", key="key", jwts=(TOKEN,), jwt_bundle="keys.json")
        await world.keeper(layout, directory).once()
    assert {path.name for path in world.path.iterdir() if path.is_symlink()} == {
        "cert", "key", "token", "keys.json", "current"
    }  # fmt: skip
    assert len(world.told) == 1


async def test_once_waits_for_an_identity_as_long_as_it_is_told_to(world: Field) -> None:
    with FileDirectory(world.path) as directory:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(world.keeper(NAMED, directory).once(60))
            await asyncio.sleep(0)
            world.api.issue("/web")
    assert (world.path / "key").exists()


async def test_a_hint_chooses_among_several_identities(world: Field) -> None:
    world.api.issue("/a", "/b", hints=("first", "second"))
    async with world.following(Layout(certificate="cert", key="key", hint="second")):
        await until(lambda: world.shows(world.api.svids[1]))


async def test_an_identity_that_is_not_among_several_any_more_loses_its_keys(world: Field) -> None:
    world.api.issue("/a", "/b", hints=("first", "second"))
    async with world.following(Layout(certificate="cert", key="key", hint="second", jwts=(TOKEN,))) as keeper:
        await until(lambda: keeper.is_ready)
        world.api.issue("/a", hints=("first",))
        await until(lambda: not (world.path / "key").exists() and not (world.path / "token").exists())


async def ask(port: int, request: bytes) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode(), body
    finally:
        writer.close()


async def test_probes_learn_whether_the_files_are_current(world: Field) -> None:
    async with asyncio.timeout(60), world.following() as keeper:
        ports: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(HealthDoor(HealthPages(port=0), keeper).run(ports.set_result))
        port = await ports
        assert await ask(port, b"GET /live HTTP/1.1\r\n\r\n") == ("HTTP/1.1 200 OK", b'{"live": true}')
        status, body = await ask(port, b"GET /ready HTTP/1.1\r\n\r\n")
        assert (status, json.loads(body)["ready"]) == ("HTTP/1.1 503 Service Unavailable", False)
        svid = world.api.issue("/web")
        await until(lambda: keeper.is_ready)
        status, body = await ask(port, b"GET /ready?x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
        assert json.loads(body) == {
            "ready": True,
            "checks": {"x509": "ok"},
            "expires_at": svid.not_after.isoformat(),
        }
        assert await ask(port, b"HEAD /ready HTTP/1.1\r\n\r\n") == ("HTTP/1.1 200 OK", b"")
        assert (await ask(port, b"GET /key HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 404 Not Found"
        assert (await ask(port, b"POST /live HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 405 Method Not Allowed"
        assert (await ask(port, b"\x16\x03\x01\r\n\r\n"))[0] == "HTTP/1.1 400 Bad Request"
        assert await ask(port, b"x" * 100_000) in (("", b""),)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
