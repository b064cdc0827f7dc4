"""Versioned secrets in real databases, encrypted: what is on the disk, what a restart finds, several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.postgres import Postgres

from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.versions import Actor, Reading, Versions
from vestibule.store import Store
from vestibule.store.codes import SEALED
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sqlite import open_store

ANN = Actor(name="spiffe://example.org/ann", request_id="r-1")
ROOT_KEY = bytes(range(32))
PATH = "payments/db"


class Heard:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.events.extend(events)


async def unsealed(store: Store) -> SealedBarrier:
    """The barrier on a store, new or unlocked."""
    barrier = SealedBarrier(store.sealed_rows, store.changes, Heard())
    if await barrier.seal_row() is None:
        assert await barrier.create(ROOT_KEY, b"a seal")
    else:
        await barrier.unlock(ROOT_KEY)
    return barrier


@asynccontextmanager
async def server(file: Path) -> AsyncIterator[tuple[Versions, SealedBarrier]]:
    store = await open_store(file, SystemClock())
    try:
        barrier = await unsealed(store)
        yield Versions(barrier, SystemClock()), barrier
    finally:
        await store.close()


def data(reading: Reading | None) -> object:
    return None if reading is None else reading.data


async def test_secrets_survive_a_restart_and_a_new_data_key(tmp_path: Path) -> None:
    file = tmp_path / "vestibule.db"
    async with server(file) as (versions, barrier):
        for number in range(3):
            await versions.put(PATH, {"n": number}, ANN)
        await barrier.rotate()
        await versions.put(PATH, {"n": 3}, ANN)
        await versions.delete(PATH, ANN, [2])
        while (left := await barrier.reencrypt()) is not None:
            assert not left
    async with server(file) as (versions, barrier):
        assert barrier.key_ids == (2,)
        assert [data(await versions.read(PATH, number)) for number in range(5)] == [
            {"n": 3},
            {"n": 0},
            None,
            {"n": 2},
            {"n": 3},
        ]
        assert await versions.list() == ["payments/"]
        assert await barrier.verify(values=True) == ([], [])


async def test_nothing_of_a_secret_is_on_the_disk_but_its_path(tmp_path: Path) -> None:
    planted = {"planted-name": "planted-value"}
    async with server(tmp_path / "vestibule.db") as (versions, _):
        for _ in range(3):
            await versions.put(PATH, planted, ANN)
        await versions.patch(PATH, {"other": "planted-too"}, ANN)
        await versions.destroy(PATH, ANN, [1, 4])
        on_disk = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert PATH.encode() in on_disk
    assert b"planted" not in on_disk
    assert ANN.name.encode() not in on_disk


async def test_a_mebibyte_is_kept(tmp_path: Path) -> None:
    large = {"a": "é" * (512 * 1024 - 8)}
    async with server(tmp_path / "vestibule.db") as (versions, _):
        await versions.put("large", large, ANN)
        await versions.put("large", {"a": 1}, ANN)
        assert data(await versions.read("large", 1)) == large


async def test_nothing_is_read_once_it_is_sealed(tmp_path: Path) -> None:
    async with server(tmp_path / "vestibule.db") as (versions, barrier):
        await versions.put(PATH, {"n": 1}, ANN)
        barrier.lock()
        with pytest.raises(VestibuleError) as refused:
            await versions.read(PATH)
        assert refused.value.code is SEALED


async def test_a_new_version_reaches_who_waits_at_another_server(postgres: Postgres) -> None:
    name = postgres.new_database()
    address = PostgresAddress.parse(postgres.conninfo(name))
    prepare(address)
    clock = SystemClock()
    first, second = await open_postgres(address, clock), await open_postgres(address, clock)
    try:
        here, there = Versions(await unsealed(first), clock), Versions(await unsealed(second), clock)
        await there.put(PATH, {"n": 1}, ANN)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            # Each server runs one task that hears of what the others have done.
            tasks = [
                group.create_task(first.run()),
                group.create_task(here.follow(first.changes.subscribe("secrets"), pause=0.1)),
            ]
            wait = group.create_task(here.wait_newer(PATH, 1, "ann"))
            while not here.watching.waiting:
                await asyncio.sleep(0.01)
            await there.put(PATH, {"n": 2}, ANN)
            assert data(await wait) == {"n": 2}
            for each in tasks:
                each.cancel()
        # Both write at once: one does so on top of the other.
        await asyncio.gather(*(each.put(PATH, {"n": 3}, ANN) for each in (here, there) for _ in range(3)))
        secret = await here.metadata(PATH)
        assert secret is not None
        assert secret.current == 8
    finally:
        await first.close()
        await second.close()
