"""A kept process comes back by itself, unless it was taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vestibule.app.up.kept import Kept
from vestibule.errors import VestibuleError
from vestibule.processes import Backoff, Command, Ledger, ReadyLine, Spec, State

READY = "echo ready; exec sleep 300"


@asynccontextmanager
async def kept(directory: Path, script: str = READY) -> AsyncIterator[tuple[Kept, asyncio.Task[None]]]:
    ledger = Ledger(directory / "ledger")
    ledger.open()
    spec = Spec(
        name="part",
        command=lambda: Command(argv=("sh", "-c", script)),
        ready=ReadyLine("ready"),
        backoff=Backoff(first=0.01, longest=0.01),
        grace=5.0,
    )
    part = Kept(spec, ledger)
    running = asyncio.create_task(part.run())
    try:
        async with asyncio.timeout(60):
            yield part, running
    finally:
        part.kill()
        await asyncio.gather(running, return_exceptions=True)
        ledger.close(remove=True)


async def test_it_says_when_it_is_ready(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, _):
        assert not part.ready
        await part.became_ready()
        assert (part.ready_line, part.state) == ("ready", State.READY)


async def test_after_an_accident_it_comes_back(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, _):
        await part.became_ready()
        before = part.pid
        await part.crash()
        assert part.ready
        assert part.pid not in (None, before)
        assert part.restarts == 1


async def test_taken_away_it_stays_away_until_it_is_put_back(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, running):
        await part.became_ready()
        await part.take_away()
        assert part.pid is None
        assert not part.ready
        assert not running.done()
        part.put_back()
        await part.became_ready()
        assert part.pid is not None


async def test_it_can_be_taken_away_again_and_again(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, _):
        for times in range(1, 4):
            await part.became_ready()
            await part.take_away()
            part.put_back()
            await part.became_ready()
            assert part.restarts == times


async def test_stopping_ends_it_also_while_it_is_away(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, running):
        await part.became_ready()
        await part.take_away()
        await part.stop()
        await running


async def test_stopping_ends_it_while_it_runs(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, running):
        await part.became_ready()
        await part.stop()
        await running
        assert part.pid is None


async def test_stopping_ends_what_never_started(tmp_path: Path) -> None:
    async with kept(tmp_path) as (part, running):
        await part.stop()
        await running


async def test_what_never_becomes_ready_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    async with kept(tmp_path, "echo the reason; exit 3") as (_, running):
        with pytest.raises(VestibuleError, match="the reason"):
            await running
