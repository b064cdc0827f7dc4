"""SQLite connections end, whatever interrupts what they do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import text

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
