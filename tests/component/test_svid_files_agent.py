"""Files beside a real agent and a real server: restarts, withdrawal, revocation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.component.test_agent import ME, Field, Running, a_world, anything
from tests.component.test_agent_revocation import WEB, lift, revoke

from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.sdk.files.directory import FileDirectory
from vestibule.sdk.files.keeping import Keeper

LAYOUT = Layout(
    certificate="cert", key="key", jwts=(JwtFile(name="token", audience=("db",)),), jwt_bundle="keys"
)


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@asynccontextmanager
async def kept(agent: Running, path: Path) -> AsyncIterator[Keeper]:
    with FileDirectory(path) as directory:
        keeper = Keeper(LAYOUT, directory, Endpoint(path=str(agent.settings.socket_path)))
        task = asyncio.create_task(keeper.follow())
        try:
            yield keeper
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.02)


async def test_files_live_through_restarts_withdrawal_and_revocation(world: Field, tmp_path: Path) -> None:
    agent = await world.agent()
    cert, key, token = (tmp_path / name for name in ("cert", "key", "token"))
    entry = await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with kept(agent, tmp_path) as keeper:
        await until(lambda: keeper.is_ready)

        # An agent that is away takes nothing away.
        await agent.stop()
        await until(lambda: not keeper.is_ready)
        assert key.exists()
        assert token.exists()
        agent = await world.agent(agent.settings)
        await until(lambda: keeper.is_ready)

        # An entry that is deleted does; a new one brings it back.
        await world.server.delete_entry(entry)
        await until(lambda: not key.exists() and not token.exists())
        assert cert.exists()
        await world.server.entry(agent.id, "/web", ME)
        await until(lambda: key.exists() and token.exists() and keeper.is_ready)

        # So does a revocation, until it is lifted.
        await revoke(world, identity=str(WEB))
        await until(lambda: not key.exists() and not token.exists())
        await lift(world, WEB)
        await until(lambda: key.exists() and token.exists() and keeper.is_ready)
