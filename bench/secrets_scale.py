"""Does the secret manager stay as quick with 100,000 secrets as with 1,000?

Two stores on the same disk, SQLite and encrypted as in production, are asked in turn.  Secrets lie ten to a folder, and
a hundred folders to a team.  Measured is what lies behind the HTTP server, from the parsed request to its answer: a
read of a secret by random, the list of a folder, the list of a team (a hundred folders, whose thousand secrets are
skipped), a write; and what a server does at start-up before it can answer: opening the store and unsealing it.

Reads and lists are processor time, since they wait for nothing; writes and start-up are what a clock says, since they
wait for the disk.  Writes are printed and have no limit: how long a disk takes says nothing about us.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _comparison import machine

from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Caller, VaultRequest
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.versions import Actor, Settings, Versions
from vestibule.secrets.versions.edits import add
from vestibule.secrets.versions.rows import write_row
from vestibule.secrets.versions.service import SPACE
from vestibule.secrets.versions.values import text_of
from vestibule.spiffe import SpiffeId
from vestibule.store import Store
from vestibule.store.barrier import Put
from vestibule.store.sqlite import open_store
from vestibule.testing.barrier import MemoryBarrier

FLAT = 1.5
"""How many times as long anything may take with 100 times as many secrets.

More than 1, because pages of a large file are found less often in SQLite's own memory; less than what one level of any
structure that is searched through would add."""

GOAL_READ = 60.0
"""Microseconds of processor time for a read, without decryption and database."""

ROOT_KEY = bytes(32)
CALLER = Caller(spiffe_id=SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments"))


class Unheard:
    """An audit log that keeps nothing: only tampering would be told to it here."""

    async def record(self, events: Sequence[AuditEvent]) -> None:
        raise AssertionError(events)


def path_of(number: int) -> str:
    return f"team-{number // 1000:03}/app-{number // 10 % 100:02}/key-{number % 10}"


@dataclass(frozen=True)
class Kept:
    """So many secrets, and their API."""

    count: int
    backend: KvBackend

    async def ask(self, method: str, path: str, body: dict[str, object] | None = None) -> None:
        operation = self.backend.operation(
            VaultRequest(method=method, path=f"secret/{path}", caller=CALLER, body=body or {})
        )
        assert operation is not None
        answer = await operation.run()
        assert answer.data is not None

    async def read(self) -> None:
        await self.ask("GET", f"data/{self.any()}")

    async def list_folder(self) -> None:
        await self.ask("LIST", f"metadata/{self.any().rpartition('/')[0]}")

    async def list_team(self) -> None:
        await self.ask("LIST", f"metadata/{self.any().partition('/')[0]}")

    async def write(self) -> None:
        await self.ask("POST", f"data/{self.any()}", {"data": {"password": "another one, as long"}})

    def any(self) -> str:
        return path_of(random.randrange(self.count))


@dataclass(frozen=True)
class Filled(Kept):
    """In a store, which other servers could use, too."""

    file: Path
    store: Store

    async def start(self) -> None:
        store = await open_store(self.file, SystemClock())
        try:
            await SealedBarrier(store.sealed_rows, store.changes, Unheard()).unlock(ROOT_KEY)
        finally:
            await store.close()


@contextlib.asynccontextmanager
async def filled(file: Path, count: int) -> AsyncIterator[Filled]:
    clock = SystemClock()
    store = await open_store(file, clock)
    try:
        barrier = SealedBarrier(store.sealed_rows, store.changes, Unheard())
        assert await barrier.create(ROOT_KEY, b"a seal")
        began = time.perf_counter()
        for start in range(0, count, 500):
            await barrier.apply([secret(number) for number in range(start, min(start + 500, count))])
        took = time.perf_counter() - began
        print(f"{count:>7} secrets in {took:.1f} s, {file.stat().st_size / 2**20:.0f} MiB", flush=True)
        yield Filled(count, KvBackend(Versions(barrier, clock)), file, store)
    finally:
        await store.close()


def secret(number: int) -> Put:
    """As a first write leaves it."""
    text = text_of({"username": f"user-{number}", "password": f"{random.getrandbits(128):032x}"})
    actor = Actor(name=str(CALLER.spiffe_id), request_id="11111111-2222-3333-4444-555555555555")
    made = add(None, text, actor, SystemClock().now(), Settings())
    return Put(space=SPACE, key=path_of(number), value=write_row(made.row), expected=0)


@dataclass(frozen=True)
class Question:
    """Something asked of both stores in turn, so many times each turn, timed by ``clock``."""

    name: str
    ask: Callable[[Any], Awaitable[None]]
    times: int
    clock: Callable[[], float] = time.process_time
    is_bounded: bool = True

    async def microseconds(self, of: Kept) -> float:
        began = self.clock()
        for _ in range(self.times):
            await self.ask(of)
        return (self.clock() - began) / self.times * 1e6


QUESTIONS = (
    Question("read", Kept.read, 2000),
    Question("list of a folder of 10", Kept.list_folder, 500),
    Question("list of a team of 100 folders", Kept.list_team, 50),
    Question("write", Kept.write, 20, time.perf_counter, is_bounded=False),
    Question("start-up", Filled.start, 2, time.perf_counter),
)


async def measured(question: Question, few: Filled, many: Filled, rounds: int) -> tuple[float, float]:
    """Microseconds with few secrets, and the ratio of many to few: medians of as many turns."""
    small, ratios = [], []
    for _ in range(rounds):
        pair = await question.microseconds(few), await question.microseconds(many)
        small.append(pair[0])
        ratios.append(pair[1] / pair[0])
    return statistics.median(small), statistics.median(ratios)


async def alone(rounds: int) -> bool:
    """Whether a read is cheap where storage costs nothing."""
    barrier = MemoryBarrier()
    await barrier.apply([secret(0)])
    backend = KvBackend(Versions(barrier, SystemClock()))
    cost = statistics.median([await QUESTIONS[0].microseconds(Kept(1, backend)) for _ in range(rounds)])
    fits = cost <= GOAL_READ
    print(
        f"{'holds' if fits else 'MISSED'}: a read without decryption and database: {cost:.0f} µs", flush=True
    )
    return fits


async def run(directory: Path, few: int, many: int, rounds: int) -> bool:
    holds = await alone(rounds)
    async with filled(directory / "few.db", few) as small, filled(directory / "many.db", many) as large:
        for question in QUESTIONS:
            cost, ratio = await measured(question, small, large, rounds)
            fits = ratio <= FLAT
            holds = holds and (fits or not question.is_bounded)
            verdict = ("holds" if fits else "MISSED") if question.is_bounded else "  -  "
            print(
                f"{verdict}: {question.name}: {cost:.0f} µs with {small.count:,}, "
                f"{ratio:.2f} times that with {large.count:,}",
                flush=True,
            )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(f"{machine()}; {given.rounds} turns each, at most {FLAT} times as much")
    directory = Path(tempfile.mkdtemp(prefix="vestibule-bench-"))
    try:
        holds = asyncio.run(run(directory, given.few, given.many, given.rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
