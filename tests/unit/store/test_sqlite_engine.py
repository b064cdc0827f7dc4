"""SQLite connections end, whatever interrupts what they do."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.store.sql.sqlite_engine import sqlite_database


async def test_a_transaction_that_is_cancelled_twice_leaves_nothing_waiting(tmp_path: Path) -> None:
    database = sqlite_database(tmp_path / "db")
    slow = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400000) SELECT max(i) FROM n"
    )

    async def ask(begun: asyncio.Event) -> None:
        async with database.read() as connection:
            begun.set()
            await connection.execute(slow)

    begun = asyncio.Event()
    asking = asyncio.create_task(ask(begun))
    await begun.wait()
    for _ in range(3):
        # Once to interrupt the question, and again while the connection is being closed for it.
        await asyncio.sleep(0.02)
        asking.cancel()
    await asyncio.wait([asking])
    async with asyncio.timeout(60):
        await database.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


def open_files(directory: Path) -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if (target := each.readlink()).is_relative_to(directory):
                found.append(target.name)
    return found


async def nothing_open(directory: Path) -> None:
    """Answers that were cut off are SQLite's as long as somebody holds them, be it the traceback of a cancellation."""
    async with asyncio.timeout(60):
        while open_files(directory):
            gc.collect()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("milliseconds", range(0, 60, 4))
async def test_a_transaction_that_is_cancelled_while_it_connects_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: int
) -> None:
    def slowly(*arguments: Any, **named: Any) -> sqlite3.Connection:
        time.sleep(0.02)
        made: sqlite3.Connection = connect(*arguments, **named)
        return made

    connect = sqlite3.connect
    monkeypatch.setattr("vestibule.store.sql.sqlite_engine.sqlite3.connect", slowly)
    database = sqlite_database(tmp_path / "db")

    async def ask(transaction: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        async with transaction() as connection:
            await connection.execute(text("SELECT 1"))

    asking = [asyncio.create_task(ask(each)) for each in (database.write, database.read, database.read)]
    await asyncio.sleep(milliseconds / 1000)
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    del each, asking
    await database.close()
    await nothing_open(tmp_path)
