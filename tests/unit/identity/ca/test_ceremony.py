"""The upstream whose own certificate comes from people."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.identity.ca.lab import NOW, Recorded, RootLab, ceremony

from vestibule.errors import VestibuleError
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.keys import MemoryKeyManager
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.testing import FakeClock

DAYS = timedelta(days=1)


class Scene:
    """A root, and a server's upstream that can be restarted: what it remembers is on disk and in its keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock(NOW)
        self.keys = MemoryKeyManager()
        self.audit = Recorded()
        self.lab = RootLab(path / "root")
        self.roots = path / "roots.pem"

    async def made(self) -> Scene:
        await self.lab.made()
        self.roots.write_bytes(self.lab.pem.read_bytes())
        await self.restart()
        return self

    async def restart(self) -> None:
        self.upstream = self.fresh()
        await self.upstream.start()

    def fresh(self) -> CeremonyUpstream:
        return ceremony(self.path / "server", self.roots, self.clock, self.keys, self.audit)

    async def answer(self, **more: object) -> bytes:
        return await self.lab.answers(self.upstream.state().request_file, self.clock.now(), **more)

    async def mint(self) -> bytes:
        minted = await self.upstream.mint(make_csr(generate_key(), self.lab.domain.id), DAYS)
        return minted.chain[1]


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return await Scene(tmp_path).made()


async def test_a_new_server_waits_with_a_request_named_after_environment_and_quarter(scene: Scene) -> None:
    state = scene.upstream.state()
    assert state.intermediate is None
    assert state.request is not None
    assert state.request.name == "prod-2026-Q4"
    assert "waiting for the ceremony" in state.warning
    assert scene.upstream.ends() is None
    assert scene.audit.actions == ["ceremony.request"]
    with pytest.raises(VestibuleError, match="VST1384"):
        await scene.mint()


async def test_a_restart_in_the_middle_of_a_ceremony_changes_nothing(scene: Scene) -> None:
    answer = await scene.answer()
    before = scene.upstream.state().request_file
    await scene.restart()
    assert scene.upstream.state().request_file == before
    await scene.upstream.deliver(answer)
    await scene.restart()
    state = scene.upstream.state()
    assert state.intermediate is not None
    assert (state.intermediate.name, state.request, state.warning) == ("prod-2026-Q4", None, "")
    await scene.mint()


async def test_a_wrong_answer_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    good = await scene.answer()
    stranger = await RootLab(tmp_path / "stranger").made()
    wrong = await stranger.answers(scene.upstream.state().request_file)
    with pytest.raises(VestibuleError, match="VST1385"):
        await scene.upstream.deliver(wrong)
    for short in (b"", good[: len(good) // 2]):
        with pytest.raises(VestibuleError, match=r"VST1032|VST1385"):
            await scene.upstream.deliver(short)
    assert scene.upstream.state().intermediate is None
    await scene.upstream.deliver(good)
    with pytest.raises(VestibuleError, match="VST1387"):
        await scene.upstream.deliver(good)


async def test_an_answer_that_forbids_our_authorities_below_it_is_refused(scene: Scene) -> None:
    with pytest.raises(VestibuleError, match="VST1385"):
        await scene.upstream.deliver(await scene.answer(path_length=0))


async def test_without_a_record_nothing_is_requested_installed_or_minted(scene: Scene) -> None:
    answer = await scene.answer()
    scene.audit.broken = OSError("full")
    with pytest.raises(OSError, match="full"):
        await scene.upstream.deliver(answer)
    assert scene.upstream.state().intermediate is None
    scene.audit.broken = None
    await scene.upstream.deliver(answer)
    scene.audit.broken = OSError("full")
    with pytest.raises(OSError, match="full"):
        await scene.mint()
    with pytest.raises(OSError, match="full"):
        await scene.upstream.request("next")
    assert not scene.upstream.is_waiting()


async def test_the_next_request_is_made_in_time_and_warned_of_until_it_is_answered(scene: Scene) -> None:
    await scene.upstream.deliver(await scene.answer(ttl=90 * DAYS))
    assert scene.upstream.warning() == ""
    scene.clock.advance(61 * DAYS)
    assert "make a request" in scene.upstream.warning()
    running = asyncio.create_task(scene.upstream.run())
    async with asyncio.timeout(60):
        while not scene.upstream.is_waiting():
            await asyncio.sleep(0.01)
    running.cancel()
    state = scene.upstream.state()
    assert state.request is not None
    assert state.request.name == "prod-2026-Q4b"
    assert "ends in 29 days" in state.warning
    assert "have its request signed" in state.warning
    first = await scene.mint()
    await scene.upstream.deliver(await scene.answer())
    assert scene.upstream.warning() == ""
    assert await scene.mint() != first


async def test_the_key_of_a_replaced_intermediate_is_gone(scene: Scene) -> None:
    await scene.upstream.deliver(await scene.answer())
    await scene.upstream.request("prod-emergency")
    await scene.upstream.deliver(await scene.answer())
    assert await scene.keys.key_ids() == {"ceremony-prod-emergency"}
    await scene.restart()
    state = scene.upstream.state()
    assert state.intermediate is not None
    assert state.intermediate.name == "prod-emergency"


async def test_an_intermediate_whose_root_is_trusted_no_more_signs_no_more(
    scene: Scene, tmp_path: Path
) -> None:
    await scene.upstream.deliver(await scene.answer())
    other = await RootLab(tmp_path / "other").made()
    scene.roots.write_bytes(other.pem.read_bytes())
    await scene.restart()
    with pytest.raises(VestibuleError, match="VST1384"):
        await scene.mint()


async def test_an_answer_in_the_drop_directory_is_taken_and_a_wrong_one_stays_with_its_reason(
    scene: Scene, tmp_path: Path
) -> None:
    drop = scene.path / "server" / "drop"
    good = await scene.answer()
    wrong = await (await RootLab(tmp_path / "s").made()).answers(scene.upstream.state().request_file)
    for name, file in (("a.pem", wrong), ("b.pem", good)):
        (drop / name).touch(mode=0o600)
        (drop / name).write_bytes(file)
    running = asyncio.create_task(scene.upstream.run())
    async with asyncio.timeout(60):
        await scene.upstream.issuing()
        while (drop / "b.pem").exists():
            await asyncio.sleep(0.01)
    running.cancel()
    assert [path.name for path in drop.iterdir()] == ["a.pem"]


async def test_a_second_request_is_not_made_while_one_waits(scene: Scene) -> None:
    first = await scene.upstream.request()
    assert (await scene.upstream.request("another")).name == first.name
    with pytest.raises(VestibuleError, match="VST1031"):
        CeremonyUpstream(
            scene.path, scene.roots, "../prod", scene.lab.domain, scene.keys, scene.audit, scene.clock
        )
