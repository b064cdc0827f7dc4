"""A server whose SQLite database is locked, moved away, replaced or deleted: named, survived, recovered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.component.server_lab import Lab, running, settings_in, short_directory

from vestibule.app.codes import DATABASE_LOST
from vestibule.app.server import run_server
from vestibule.errors import VestibuleError
from vestibule.store.sql import sqlite_engine


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    # How long a transaction waits for a lock that others hold: seconds too many for a test.
    monkeypatch.setattr(sqlite_engine, "_PRAGMAS", ("busy_timeout = 300", *sqlite_engine._PRAGMAS[1:]))
    with short_directory() as directory:
        async with running(directory) as made:
            yield made


def database_of(lab: Lab) -> Path:
    return lab.directory / "data" / "server.db"


async def refusal(lab: Lab, path: str) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await lab.entry(path, "/spire/server")
    return caught.value


async def test_a_locked_database_refuses_changes_and_goes_on_when_it_is_free(lab: Lab) -> None:
    member = await lab.agent()
    entry = await lab.entry("/web", member.id)
    other = sqlite3.connect(database_of(lab), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert (await refusal(lab, "/a")).code.code == "VST8002"
    assert (await member.new_svid(entry)).status.code == 0, "what needs no change of the database goes on"
    other.execute("ROLLBACK")
    other.close()
    await lab.entry("/a", "/spire/server")


async def test_a_database_that_was_moved_away_is_missed_at_once_and_taken_up_again(lab: Lab) -> None:
    path, aside = database_of(lab), database_of(lab).with_name("aside.db")
    await lab.entry("/before", "/spire/server")
    path.rename(aside)
    error = await refusal(lab, "/lost")
    assert error.code.code == "VST8000"
    assert "is gone" in error.message
    assert "Put the file back" in error.advice
    aside.rename(path)
    await lab.entry("/after", "/spire/server")


async def test_a_database_that_was_replaced_is_not_written_to(lab: Lab) -> None:
    path = database_of(lab)
    copy = path.read_bytes()
    path.rename(path.with_name("aside.db"))
    path.write_bytes(copy)
    error = await refusal(lab, "/lost")
    assert error.code.code == "VST8000"
    assert "another file" in error.message


async def test_a_server_does_not_quietly_begin_anew_where_its_database_is_missing() -> None:
    with short_directory() as directory:
        async with running(directory):
            pass
        for each in (directory / "data").glob("server.db*"):
            each.unlink()
        keys = sorted(each.name for each in (directory / "data" / "keys").iterdir())
        with pytest.raises(VestibuleError) as caught:
            await asyncio.wait_for(run_server(settings_in(directory)), 60)
        assert caught.value.code is DATABASE_LOST
        assert sorted(each.name for each in (directory / "data" / "keys").iterdir()) == keys
