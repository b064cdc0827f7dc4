"""One server with 10,000 entries and 1,000 agents: what it costs to bring them all up to date, and to keep them so.

The agents are connections of this process over mutual TLS on loopback, each with an attested identity of its own and
ten entries; each holds the stream on which our agents hear of changes, and synchronises when it is told to.  Measured:
the server's processor time and memory for joining, for the first synchronisation of all, for a quiet while (nobody
polls), and for single changes, which concern one agent and must reach it, and no other, at once.  SPIRE's agents ask
every five seconds instead: 1,000 of them make 200 requests a second of a server on which nothing happens.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import _processes
import uvloop
from _comparison import machine
from _server import ENTRY, Server, entry_for, free_port, vestibule

from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2

QUIET_SHARE = 0.05
"""Of one processor that a server may use while nothing changes."""
REACHES_WITHIN = 1.0
"""Seconds, for the 99th percentile of single changes."""
AT_ONCE = 32
BATCH = 500


@dataclass
class Agent:
    """One agent: its way to the server, and how often it was told of a change."""

    spiffe_id: SpiffeId
    api: IdentityApi
    told: int = 0
    entries: int = 0
    synchronised: asyncio.Event | None = None

    async def follow(self) -> None:
        """Synchronise whenever something of this agent changed."""
        known = -1
        async for revisions in self.api.watch():
            self.told += 1
            if revisions.entries != known:
                known = revisions.entries
                self.entries = len(await self.api.authorized_entries({}))
                if self.synchronised is not None:
                    self.synchronised.set()


@dataclass
class Usage:
    seconds: float
    processor: float


async def used(server: Server, what: str, work: Awaitable[object]) -> Usage:
    """What a phase took; told at once, so that whoever waits sees how far it is."""
    began, before = time.monotonic(), _processes.cpu_seconds([server.pid])
    await work
    usage = Usage(time.monotonic() - began, _processes.cpu_seconds([server.pid]) - before)
    print(
        f"{what}: {usage.seconds:.2f} s, of the server's processor time {usage.processor:.2f} s; "
        f"{_processes.resident(server.pid):.0f} MB resident",
        flush=True,
    )
    return usage


async def at_once(jobs: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """All jobs, a bounded number at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(job: Callable[[], Awaitable[object]]) -> None:
        async with slots:
            await job()

    await asyncio.gather(*(one(job) for job in jobs))


async def create(server: Server, parents: Sequence[SpiffeId], each: int) -> None:
    entries = [
        entry_for(parent, f"/ns/bench/a{number}/s{index}", f"uid:{100_000 + index}")
        for number, parent in enumerate(parents)
        for index in range(each)
    ]
    channel = unix_channel(server.socket)
    try:
        client = Client(channel, ENTRY)
        for start in range(0, len(entries), BATCH):
            request = entry_pb2.BatchCreateEntryRequest(entries=entries[start : start + BATCH])
            answer = await client.unary("BatchCreateEntry", request, timeout=120)
            assert all(result.status.code == 0 for result in answer.results)
    finally:
        channel.close()


async def change_one(server: Server, agent: Agent, number: int) -> float:
    """Seconds from asking for a new entry until its agent has it."""
    agent.synchronised = asyncio.Event()
    channel = unix_channel(server.socket)
    try:
        entry = entry_for(agent.spiffe_id, f"/ns/bench/new/{number}", "uid:4000000")
        began = time.monotonic()
        request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
        await Client(channel, ENTRY).unary("BatchCreateEntry", request, timeout=30)
        async with asyncio.timeout(30):
            await agent.synchronised.wait()
        return time.monotonic() - began
    finally:
        channel.close()


async def measure(server: Server, count: int, each: int, quiet: float, changes: int) -> int:
    empty = _processes.resident(server.pid)
    members = [replace(server) for _ in range(count)]
    await used(server, f"{count} agents join", at_once([member.join for member in members]))
    ids = [member.svid.spiffe_id for member in members if member.svid is not None]
    await used(server, f"{count * each} entries are made", create(server, ids, each))
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(member.agent()) for member in members]
        agents = [Agent(spiffe_id, api) for spiffe_id, api in zip(ids, apis, strict=True)]
        followers: list[asyncio.Task[None]] = []
        stack.callback(lambda: [task.cancel() for task in followers])

        async def all_current() -> None:
            # In groups: a server takes only so many unfinished handshakes from one address.
            for start in range(0, count, AT_ONCE):
                group = agents[start : start + AT_ONCE]
                followers.extend(asyncio.create_task(agent.follow()) for agent in group)
                while any(agent.entries < each for agent in group):
                    for follower in followers[start:]:
                        if follower.done():
                            follower.result()
                    await asyncio.sleep(0.005)

        await used(server, "all agents synchronise for the first time", all_current())
        resting = await used(server, f"nothing happens for {quiet:.0f} s", asyncio.sleep(quiet))
        told = sum(agent.told for agent in agents)
        took: list[float] = []

        async def all_changes() -> None:
            for number in range(changes):
                took.append(await change_one(server, agents[number * 7 % count], number))

        await used(server, f"{changes} single changes", all_changes())
        await asyncio.sleep(0.5)
        others = sum(agent.told for agent in agents) - told - changes
        megabytes = _processes.resident(server.pid)
    p99 = sorted(took)[min(len(took) - 1, round(0.99 * len(took)))]
    print(f"memory of the server: {megabytes:.0f} MB resident ({empty:.0f} MB empty)")
    print(f"a change reaches its agent: p50 {statistics.median(took) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    share = resting.processor / resting.seconds
    checks = (
        (f"quiet: {share:.3f} of one processor (at most {QUIET_SHARE})", share <= QUIET_SHARE),
        (f"single changes p99 below {REACHES_WITHIN:.0f} s", p99 < REACHES_WITHIN),
        (f"agents told of others' changes: {others} (none)", others == 0),
    )
    for text, holds in checks:
        print(f"{'ok  ' if holds else 'MISS'} {text}")
    return 0 if all(holds for _, holds in checks) else 1


async def within(seconds: float, work: Awaitable[int]) -> int:
    """The verdict of the work, or that it took too long: what it had to say until then is told."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        print(f"MISS not done within {seconds:.0f} s")
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=10, help="entries of each agent")
    parser.add_argument("--quiet", type=float, default=15.0)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that all of it may take")
    given = parser.parse_args()
    # So that the server is stopped and its directory removed also if somebody stops us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{machine()}; {given.agents} agents with {given.entries} entries each", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    try:
        with vestibule(directory / "server", free_port()) as server:
            work = measure(server, given.agents, given.entries, given.quiet, given.changes)
            return uvloop.run(within(given.limit, work))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
