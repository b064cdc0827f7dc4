"""What is particular to SQLite: one file, several processes, disks that fill up."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.records import Entry, JoinToken
from vestibule.spiffe import Selector, SpiffeId
from vestibule.store import EntryFilter
from vestibule.store.sqlite import SqliteStore, open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PARENT = SpiffeId.parse("spiffe://example.org/spire/agent/one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "vestibule.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_store(path, FakeClock(NOW))
    yield store
    await store.close()


def entry(number: int, hint: str = "") -> Entry:
    return Entry(
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/s/{number}"),
        parent_id=PARENT,
        selectors=frozenset({Selector("unix", "uid:1")}),
        hint=hint,
    )


async def test_commits_are_flushed_and_readers_can_not_write(store: SqliteStore) -> None:
    async with store.database.write() as connection:
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one() == value
    with pytest.raises(VestibuleError, match="VST8000"):
        async with store.database.read() as connection:
            await connection.exec_driver_sql("DELETE FROM entries")


async def test_the_files_are_private(store: SqliteStore, path: Path) -> None:
    await store.entries.create(entry(1))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("vestibule.db*")}
    assert modes[path.name] == modes[f"{path.name}-wal"] == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_no_join_token_lies_on_disk(store: SqliteStore, path: Path) -> None:
    await store.join_tokens.add(JoinToken(token="very-secret-token", expires_at=NOW + HOUR))
    await store.join_tokens.consume("very-secret-token", NOW)
    await store.close()
    assert all(b"very-secret-token" not in file.read_bytes() for file in path.parent.iterdir())


# --------------------------------------------------------------------------------- several at once

CONSUME = """
import asyncio, sys
from datetime import datetime
from pathlib import Path
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.store.sqlite import open_store

async def main(path, now, tokens):
    store = await open_store(Path(path), SystemClock())
    print("ready", flush=True)
    sys.stdin.readline()
    async def consume(token):
        try:
            await store.join_tokens.consume(token, datetime.fromisoformat(now))
        except VestibuleError as error:
            return f"{token} {error.code.code}"
        return f"{token} won"
    attempts = (consume(token) for token in tokens for _ in range(5))
    print("\\n".join(await asyncio.gather(*attempts)), flush=True)
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3].split(",")))
"""


async def test_a_join_token_works_once_across_processes(store: SqliteStore, path: Path) -> None:
    tokens = [f"t{number}" for number in range(10)]
    for token in tokens:
        await store.join_tokens.add(JoinToken(token=token, expires_at=NOW + HOUR))
    command = [sys.executable, "-c", CONSUME, str(path), NOW.isoformat(), ",".join(tokens)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        outputs = await asyncio.gather(
            *(asyncio.to_thread(racer.communicate, "go\n", 30) for racer in racers)
        )
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    outcomes = Counter(line for output, _ in outputs for line in output.splitlines())
    assert all(outcomes[f"{token} won"] == 1 for token in tokens), outcomes
    assert all(outcomes[f"{token} VST8021"] == 14 for token in tokens), outcomes


async def test_a_join_token_works_once_across_connections(store: SqliteStore, path: Path) -> None:
    others = [await open_store(path, FakeClock(NOW)) for _ in range(3)]
    await store.join_tokens.add(JoinToken(token="t", expires_at=NOW + HOUR))
    everyone = [store, *others] * 10
    results = await asyncio.gather(
        *(one.join_tokens.consume("t", NOW) for one in everyone), return_exceptions=True
    )
    for other in others:
        await other.close()
    assert sum(isinstance(result, JoinToken) for result in results) == 1
    refused = [result for result in results if isinstance(result, VestibuleError)]
    assert {refusal.code.code for refusal in refused} == {"VST8021"}
    assert len(refused) == len(everyone) - 1


async def test_a_caller_that_gives_up_leaves_the_store_usable(store: SqliteStore) -> None:
    writes = [asyncio.ensure_future(store.entries.create(entry(number))) for number in range(20)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    created, _ = await store.entries.create(entry(99))
    assert created in await store.entries.all()


# ------------------------------------------------------------------------------------- full disks


async def limit_pages(store: SqliteStore, extra: int | None) -> None:
    async with store.database.write() as connection:
        used = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        limit = 2**30 if extra is None else used + extra
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")


async def test_a_full_database_refuses_changes_keeps_what_it_has_and_recovers(store: SqliteStore) -> None:
    kept, _ = await store.entries.create(entry(0))
    await limit_pages(store, 4)
    subscription = store.changes.subscribe()
    with pytest.raises(VestibuleError, match="VST8001") as caught:
        await store.entries.create_many([entry(number, hint="x" * 1000) for number in range(1, 200)])
    assert "Free space" in caught.value.advice
    assert await store.entries.all() == [kept], "all of the batch or nothing"
    with pytest.raises(VestibuleError, match="VST8001"):
        await store.entries.update(replace(kept, hint="x" * 100_000))
    assert await store.entries.get(kept.id) == kept
    subscription.close()
    assert [change async for change in subscription] == []

    await limit_pages(store, None)
    assert (await store.entries.create(entry(1, hint="x" * 1000)))[1]
    assert await store.entries.count(EntryFilter()) == 2


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of ours grow beyond ``size`` bytes (EFBIG; Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_refuses_writes_is_an_error_and_no_loss(store: SqliteStore, path: Path) -> None:
    kept, _ = await store.entries.create(entry(0))
    with files_no_larger_than(path.with_name(f"{path.name}-wal").stat().st_size):
        with pytest.raises(VestibuleError, match=r"VST800[01]"):
            await store.entries.create_many([entry(number, hint="x" * 1000) for number in range(1, 100)])
        assert await store.entries.all() == [kept]
    assert (await store.entries.create(entry(1)))[1]


# --------------------------------------------------------------------------------- files of others


async def test_a_directory_that_can_not_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "vestibule.db", tmp_path):
        with pytest.raises(VestibuleError, match="VST8000"):
            await open_store(place, FakeClock(NOW))


async def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "vestibule.db"
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(VestibuleError, match="VST8003"):
        await open_store(path, FakeClock(NOW))
    assert path.read_bytes() == b"my thesis" * 1000


async def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "vestibule.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(VestibuleError, match="VST8003"):
        await open_store(path, FakeClock(NOW))
    assert path.read_bytes() == before


async def test_a_lock_held_too_long_is_reported_as_such(store: SqliteStore, path: Path) -> None:
    async with store.database.write() as connection:
        await connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(VestibuleError, match="VST8002"):
        await store.entries.create(entry(1))
    assert await store.entries.all() == [], "readers never wait"
    holder.execute("ROLLBACK")
    holder.close()
    assert (await store.entries.create(entry(1)))[1]
