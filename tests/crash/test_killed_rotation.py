"""A server that is killed while it rotates the data key has lost nothing, and goes on where it was."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest
from tests.unit.secrets.conftest import Recording

from vestibule.clock import SystemClock
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.keyring import new_key
from vestibule.store.barrier import Put
from vestibule.store.sqlite import open_store

pytestmark = pytest.mark.e2e
KILLS = 4
CHANCE = random.Random(4)
FIRST = {f"{number}": f"first-{number}" for number in range(150)}


async def begin(database: Path, root_key: bytes) -> None:
    store = await open_store(database, SystemClock())
    barrier = SealedBarrier(store.sealed_rows, store.changes, Recording())
    assert await barrier.create(root_key, b"seal")
    await barrier.apply([Put(space="kv", key=key, value=value.encode()) for key, value in FIRST.items()])
    await store.close()


async def killed(database: Path, root_key: Path, start: int, lines: int) -> list[str]:
    """What a process said before it was killed, after about so many lines."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.rotating", str(database), str(root_key), str(start)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said = [await process.stdout.readline() for _ in range(lines)]
    await asyncio.sleep(CHANCE.random() * 0.01)  # somewhere within a change
    process.kill()
    said += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    return [line.decode() for line in said if line.endswith(b"\n")]


async def looked_at(database: Path, root_key: bytes, known: dict[str, str], said: list[str]) -> int:
    """Hold the database against what was said; the number of the newest data key."""
    for line in said:
        _, key, value = line.rstrip("\n").split(" ")
        known[key] = value
    store = await open_store(database, SystemClock())
    barrier = SealedBarrier(store.sealed_rows, store.changes, Recording())
    await barrier.unlock(root_key)
    assert await barrier.verify(values=True) == ([], [])
    unsaid = 0
    for key, value in known.items():
        item = await barrier.get("kv", key)
        if (item.value.decode() if item else "") != value:
            unsaid += 1  # the one change that was made, but not yet said
            known[key] = item.value.decode() if item else ""
    assert unsaid <= 1
    number = barrier.key_id
    await store.close()
    return number


@pytest.mark.timeout(180)
async def test_nothing_is_lost_when_it_is_killed_while_keys_rotate(tmp_path: Path) -> None:
    database, root_file, root_key = tmp_path / "vestibule.db", tmp_path / "root", new_key()
    root_file.write_bytes(root_key)
    await begin(database, root_key)
    known, start, numbers = dict(FIRST), 1, [1]
    for _ in range(KILLS):
        said = await killed(database, root_file, start, CHANCE.randrange(1, 40))
        start = int(said[-1].split(" ")[0]) + 2
        numbers.append(await looked_at(database, root_key, known, said))
    assert numbers[-1] > KILLS
    assert numbers == sorted(numbers)
    store = await open_store(database, SystemClock())
    barrier = SealedBarrier(store.sealed_rows, store.changes, Recording())
    await barrier.unlock(root_key)
    while await barrier.reencrypt() is not None:
        pass
    assert barrier.key_ids == (numbers[-1],)
    assert await barrier.verify(values=True) == ([], [])
    await store.close()
