"""What the barrier promises on every store, and what its double for tests promises too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.postgres import Postgres
from tests.unit.secrets.conftest import NOW, Recording

from vestibule.errors import VestibuleError
from vestibule.secrets.barrier import SealedBarrier
from vestibule.store import Store
from vestibule.store.barrier import Barrier, Item, Put, Remove
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock
from vestibule.testing.barrier import MemoryBarrier

ROOT = bytes(range(32))

Open: TypeAlias = Callable[[], Awaitable[Store]]


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    name = postgres.new_database()
    prepare(PostgresAddress.parse(postgres.conninfo(name)))
    return name


def on_postgres(request: pytest.FixtureRequest) -> Open:
    name, postgres = request.getfixturevalue("database"), request.getfixturevalue("postgres")
    postgres.execute("TRUNCATE sealed_rows", name)
    address = PostgresAddress.parse(postgres.conninfo(name))
    return lambda: open_postgres(address, FakeClock(NOW))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def barrier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Barrier]:
    if request.param == "memory":
        yield MemoryBarrier()
        return
    if request.param == "sqlite":
        store: Store = await open_store(tmp_path / "vestibule.db", FakeClock(NOW))
    else:
        store = await on_postgres(request)()
    barrier = SealedBarrier(store.sealed_rows, store.changes, Recording())
    assert await barrier.create(ROOT, b"seal")
    yield barrier
    await store.close()


def put(key: str, value: bytes = b"value", expected: int | None = None) -> Put:
    return Put(space="kv", key=key, value=value, expected=expected)


async def test_what_is_put_is_there_until_it_is_removed(barrier: Barrier) -> None:
    large = bytes(range(256)) * 4096
    (revision,) = await barrier.apply([put("a/ü", large)])
    assert await barrier.get("kv", "a/ü") == Item(value=large, revision=revision)
    assert await barrier.apply([Remove(space="kv", key="a/ü")]) == (0,)
    assert await barrier.get("kv", "a/ü") is None
    assert await barrier.apply([Remove(space="kv", key="a/ü", expected=0)]) == (0,)


async def test_a_revision_is_never_used_twice(barrier: Barrier) -> None:
    (first,) = await barrier.apply([put("a")])
    await barrier.apply([Remove(space="kv", key="a")])
    (second,) = await barrier.apply([put("a")])
    assert second > first


async def test_all_changes_or_none(barrier: Barrier) -> None:
    (revision,) = await barrier.apply([put("a", expected=0)])
    with pytest.raises(VestibuleError) as error:
        await barrier.apply([put("b"), put("a", expected=revision + 1)])
    assert error.value.code.code == "VST5001"
    assert await barrier.keys("kv") == ["a"]


async def test_listing(barrier: Barrier) -> None:
    await barrier.apply([put(key) for key in ("a", "a/b", "a/c/d", "b")])
    assert await barrier.keys("kv", "a/") == ["a/b", "a/c/d"]
    assert await barrier.keys("kv", after="a", limit=2) == ["a/b", "a/c/d"]
    assert await barrier.children("kv", "") == ["a", "a/", "b"]
    assert await barrier.children("kv", "a/", after="b") == ["c/"]


async def test_macs_are_by_purpose(barrier: Barrier) -> None:
    assert barrier.mac("one", b"data") == barrier.mac("one", b"data") != barrier.mac("two", b"data")


async def test_several_servers_write_and_rotate_at_the_same_time(request: pytest.FixtureRequest) -> None:
    opening = on_postgres(request)
    async with AsyncExitStack() as stack:
        barriers, following = [], []
        for number in range(3):
            store = await opening()
            stack.push_async_callback(store.close)
            barrier = SealedBarrier(store.sealed_rows, store.changes, Recording())
            following += [asyncio.create_task(store.run()), asyncio.create_task(barrier.run())]
            if number == 0:
                assert await barrier.create(ROOT, b"seal")
            else:
                await barrier.unlock(ROOT)
            barriers.append(barrier)

        async def write(barrier: SealedBarrier, name: str) -> None:
            for number in range(10):
                await barrier.apply([put(f"{name}/{number}"), put("shared")])

        await asyncio.gather(
            *(write(barrier, f"{number}") for number, barrier in enumerate(barriers)),
            *(barrier.rotate() for barrier in barriers),
        )
        async with asyncio.timeout(60):
            while {barrier.key_id for barrier in barriers} != {4}:
                await asyncio.sleep(0.02)
        while await barriers[1].reencrypt() is not None:
            pass
        for barrier in barriers:
            assert await barrier.verify(values=True) == ([], [])
            assert len(await barrier.keys("kv")) == 31
            assert await barrier.get("kv", "0/0") is not None
        for task in following:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*following)
