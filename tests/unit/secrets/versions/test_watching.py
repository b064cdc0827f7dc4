"""Waiting for a new version of a secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from vestibule.errors import VestibuleError
from vestibule.secrets.versions import Actor, Reading, SettingChange, Versions
from vestibule.secrets.versions.codes import TOO_MANY_WAITING
from vestibule.secrets.versions.watching import Watching
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

ANN = Actor(name="ann")
PATH = "payments/db"
AT_ONCE = timedelta(0)
LONG = timedelta(seconds=50)


@pytest.fixture
def barrier() -> MemoryBarrier:
    return MemoryBarrier()


@pytest.fixture
def versions(barrier: MemoryBarrier) -> Versions:
    return Versions(barrier, FakeClock(), Watching(most=4, most_each=2))


async def waiting(versions: Versions, number: int = 1) -> None:
    """Until so many wait."""
    async with asyncio.timeout(60):
        while versions.watching.waiting < number:
            await asyncio.sleep(0)


def number(reading: Reading | None) -> int:
    return reading.version.number if reading else 0


async def test_who_has_an_older_version_does_not_wait(versions: Versions) -> None:
    await versions.put(PATH, {}, ANN)
    await versions.put(PATH, {}, ANN)
    assert number(await versions.wait_newer(PATH, 1, "ann", LONG)) == 2
    # The secret was forgotten and begun anew since they read it.
    assert number(await versions.wait_newer(PATH, 7, "ann", LONG)) == 2
    await versions.forget(PATH)
    assert await versions.wait_newer(PATH, 2, "ann", LONG) is None


async def test_who_has_the_newest_waits_for_the_next(versions: Versions) -> None:
    await versions.put(PATH, {"n": 1}, ANN)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(versions.wait_newer(PATH, 1, who, LONG)) for who in ("ann", "bob")]
        await waiting(versions, 2)
        await versions.put("another", {}, ANN)
        await versions.configure(PATH, SettingChange(custom={"a": "b"}), ANN)
        assert not any(each.done() for each in waits)
        await versions.put(PATH, {"n": 2}, ANN)
    assert [each.result().data for each in waits if each.result()] == [{"n": 2}, {"n": 2}]  # type: ignore[union-attr]
    assert versions.watching.waiting == 0
    assert versions.watching.paths == ()


async def test_a_first_version_can_be_waited_for(versions: Versions) -> None:
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(versions.wait_newer(PATH, 0, "ann", LONG))
        await waiting(versions)
        await versions.put(PATH, {}, ANN)
    assert number(wait.result()) == 1


async def test_a_deletion_ends_the_wait(versions: Versions) -> None:
    await versions.put(PATH, {}, ANN)
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(versions.wait_newer(PATH, 1, "ann", LONG))
        await waiting(versions)
        await versions.delete(PATH, ANN)
    found = wait.result()
    assert found is not None
    assert found.data is None


async def test_who_knows_of_a_deletion_waits_again(versions: Versions) -> None:
    await versions.put(PATH, {}, ANN)
    await versions.delete(PATH, ANN)
    found = await versions.wait_newer(PATH, 1, "ann", AT_ONCE)
    assert found is not None
    assert found.data is None
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(versions.wait_newer(PATH, 1, "ann", LONG))
        await waiting(versions)
        await versions.put(PATH, {}, ANN)
    assert number(wait.result()) == 2


async def test_patience_ends_with_what_is_there(versions: Versions) -> None:
    assert await versions.wait_newer(PATH, 0, "ann", AT_ONCE) is None
    await versions.put(PATH, {"n": 1}, ANN)
    found = await versions.wait_newer(PATH, 1, "ann", timedelta(milliseconds=1))
    assert found is not None
    assert found.data == {"n": 1}


async def test_only_so_many_wait(versions: Versions) -> None:
    async with asyncio.TaskGroup() as group:
        waits = [
            group.create_task(versions.wait_newer(PATH, 0, who, LONG)) for who in ("ann", "ann", "bob", "cy")
        ]
        await waiting(versions, 4)
        for who, reason in (("ann", "4 requests already wait"), ("dora", "4 requests already wait")):
            with pytest.raises(VestibuleError, match=reason) as refused:
                await versions.wait_newer(PATH, 0, who, LONG)
            assert refused.value.code is TOO_MANY_WAITING
        waits[3].cancel()
        await asyncio.wait(waits[3:])
        with pytest.raises(VestibuleError, match="2 requests of ann already wait"):
            await versions.wait_newer(PATH, 0, "ann", LONG)
        await versions.put(PATH, {}, ANN)
    assert versions.watching.waiting == 0


async def test_nobody_waits_for_a_server_that_stops(versions: Versions) -> None:
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(versions.wait_newer(PATH, 0, "ann", LONG))
        await waiting(versions)
        versions.watching.close()
    assert wait.result() is None
    assert await versions.wait_newer(PATH, 0, "ann", LONG) is None


async def test_a_watch_brings_each_newer_version(versions: Versions) -> None:
    await versions.put(PATH, {"n": 1}, ANN)
    seen: list[object] = []

    async def write() -> None:
        for step in (
            versions.put(PATH, {"n": 2}, ANN),
            versions.delete(PATH, ANN),
            versions.put(PATH, {"n": 3}, ANN),
            versions.forget(PATH),
            versions.put(PATH, {"n": 4}, ANN),
        ):
            await waiting(versions)
            await step
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        async for reading in versions.watch(PATH, "ann"):
            assert reading.data is not None
            seen.append(reading.data["n"])
            if seen[-1] == 4:
                break
    assert [seen[0], seen[-1]] == [1, 4]
    assert seen == sorted(set(map(int, map(str, seen))))


async def test_what_another_server_writes_is_noticed(barrier: MemoryBarrier, versions: Versions) -> None:
    there = Versions(barrier, FakeClock())
    wake = asyncio.Event()

    async def changes() -> AsyncIterator[object]:
        for _ in range(2):
            await wake.wait()
            wake.clear()
            yield "secrets"

    async with asyncio.TaskGroup() as group:
        follower = group.create_task(versions.follow(changes(), pause=0))
        wait = group.create_task(versions.wait_newer(PATH, 0, "ann", LONG))
        await waiting(versions)
        await there.put(PATH, {}, ANN)
        wake.set()
        assert number(await wait) == 1
        # While sealed nothing can be looked at; that ends nothing.
        with versions.watching.waiter(PATH, "bob"):
            barrier.is_sealed = True
            wake.set()
            async with asyncio.timeout(60):
                await follower
