"""A full disk under the secret manager: nothing is half done, and all goes on when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.secrets.conftest import NOW, Recording
from tests.unit.secrets.test_backups import PASSPHRASE, backup_of, pieces_of
from tests.unit.secrets.test_barrier import barrier_on, put
from tests.unit.secrets.test_sealing import PLAN, WHO, Lab

from vestibule.errors import VestibuleError
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store.sqlite import SqliteStore, open_store
from vestibule.testing import FakeClock


async def limit_pages(store: SqliteStore, extra: int | None) -> None:
    async with store.database.write() as connection:
        used = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        limit = 2**30 if extra is None else used + extra
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")


async def test_changes_and_rotations_are_refused_whole(store: SqliteStore, audit: Recording) -> None:
    barrier = barrier_on(store, audit)
    await barrier.create(bytes(32), b"seal")
    await barrier.apply([put("a", b"kept")])
    await limit_pages(store, 0)
    with pytest.raises(VestibuleError) as error:
        await barrier.apply([put("a", b"x" * 100_000), put("b")])
    assert error.value.code.code == "VST8001"
    item = await barrier.get("kv", "a")
    assert item is not None
    assert item.value == b"kept"
    assert await barrier.verify(values=True) == ([], [])
    await limit_pages(store, None)
    await barrier.rotate()
    await barrier.apply([put("a", b"x" * 100_000), put("b")])
    while await barrier.reencrypt() is not None:
        pass
    assert await barrier.verify(values=True) == ([], [])


async def test_a_restore_that_finds_no_room_changes_nothing(
    store: SqliteStore, audit: Recording, tmp_path: Path
) -> None:
    lab = Lab(store, audit, ShamirSeal(), tmp_path / "anchor")
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put(f"{number}", b"x" * 50_000) for number in range(20)])
    data, _ = await backup_of(lab, PASSPHRASE)
    elsewhere = await open_store(tmp_path / "elsewhere.db", FakeClock(NOW))
    there = Lab(elsewhere, audit, ShamirSeal(), tmp_path / "another-anchor")
    await limit_pages(elsewhere, 50)
    with pytest.raises(VestibuleError) as error:
        await there.sealing.restore(pieces_of(data), PASSPHRASE, actor=WHO)
    assert error.value.code.code == "VST8001"
    assert not (await there.sealing.status()).initialised
    await limit_pages(elsewhere, None)
    await there.sealing.restore(pieces_of(data), PASSPHRASE, actor=WHO)
    await there.unsealed(shares[:3])
    assert len(await there.barrier.keys("kv")) == 20
    await elsewhere.close()
