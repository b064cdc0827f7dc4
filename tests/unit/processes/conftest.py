"""Short private directories and ledgers that leave nothing behind."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from vestibule.processes import Ledger


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def ledger(run: Path) -> Iterator[Ledger]:
    ledger = Ledger(run / "own")
    ledger.open()
    yield ledger
    ledger.close(remove=True)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], within: float = 90.0) -> None:
    """Poll a condition with a deadline."""
    async with asyncio.timeout(within):
        while True:
            answer = condition()
            if answer is True or (isinstance(answer, Awaitable) and await answer):
                return
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until
