"""One rotation of a process that has 1,000 open connections: how long its event loop is held at most.

    python -m bench.sdk_rotation [--connections 1000]

A server of the SDK, and in another process its Workload API and its callers, each with one connection.  The Workload
API gives another SVID and another trust bundle (with one authority more), so that every connection is held against it;
then all of them are retired within some seconds, closed, and made anew.  Printed is the longest time for which the
event loop did nothing else, while nothing happened and then during all that; the limit is 50 ms.  About a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench._comparison import machine

from vestibule.agent.workloads import Identities
from vestibule.calls.workload_api import SERVICE
from vestibule.doors.workload_api import svid_response
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.sdk import (
    Connection,
    Lifetimes,
    Watch,
    X509Source,
    authorize_member_of,
    client_context,
    server_context,
)
from vestibule.testing import TestAuthority

LIMIT = 0.05
TTL = timedelta(seconds=600)
SPREAD = 20.0
"""Seconds over which the connections are retired; with certificates of an hour it would be three minutes."""

TICK = 0.001


# -------------------------------------------------------------------------------------------- the other process


class Api:
    """A Workload API for everybody."""

    def __init__(self) -> None:
        self.authority, self.more = TestAuthority(), TestAuthority()
        self.rotated = asyncio.Event()

    async def fetch_x509_svid(self, stream: Stream) -> None:
        await stream.recv_message()
        bundle = self.authority.bundle
        svid = self.authority.svid("/bench", ttl=TTL, now=datetime.now(UTC))
        await stream.send_message(svid_response(Identities(svids=(svid,), bundle=bundle)))
        await self.rotated.wait()
        both = replace(bundle, x509_authorities=(*bundle.x509_authorities, self.more.certificate))
        svid = self.authority.svid("/bench", ttl=TTL, now=datetime.now(UTC))
        await stream.send_message(svid_response(Identities(svids=(svid,), bundle=both)))
        await asyncio.Event().wait()


async def call_for_ever(port: int, source: X509Source, turn: asyncio.Semaphore) -> None:
    """Have one connection; another one whenever it is closed."""
    context = client_context(source, authorize_member_of("example.org"))
    while True:
        async with turn:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
        with suppress(OSError):
            await reader.read()
        writer.close()


async def peers(path: Path, connections: int) -> None:
    """The Workload API, and callers of the port that comes on standard input; the next line is for the rotation."""
    api, listener = Api(), listen_unix(path, PUBLIC)
    server = GrpcServer([serve(SERVICE, api)])
    await server.listen(listener.sock)
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    port = int(await lines.readline())
    async with X509Source(f"unix://{path}") as source:
        turn = asyncio.Semaphore(50)
        calling = [asyncio.create_task(call_for_ever(port, source, turn)) for _ in range(connections)]
        while await lines.readline():
            api.rotated.set()
        for each in calling:
            each.cancel()
        await asyncio.wait(calling)
    await server.close()
    listener.close()


# -------------------------------------------------------------------------------------------- what is measured


class Loop:
    """Notices for how long nobody but one had the event loop."""

    def __init__(self) -> None:
        self.longest = self.busiest = 0.0
        self._task = asyncio.create_task(self._tick())

    def reset(self) -> None:
        self.longest = self.busiest = 0.0

    def __str__(self) -> str:
        return f"{self.longest * 1000:.1f} ms (of processor time {self.busiest * 1000:.1f} ms)"

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _tick(self) -> None:
        while True:
            before, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK)
            self.longest = max(self.longest, time.perf_counter() - before - TICK)
            self.busiest = max(self.busiest, time.thread_time() - used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soon(Lifetimes):
    """Not in some minutes, which nobody would wait for."""

    def retire_at(self, connection: Connection) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=random.uniform(0, SPREAD))


class Kept(asyncio.Protocol):
    """One connection of the server, as uvicorn and its like have them."""

    def __init__(self, server: Server, source: X509Source) -> None:
        self._server = server
        self._source = source
        self._transport: asyncio.Transport | None = None
        self._watch: Watch | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.open.add(self)
        self._enter(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open.discard(self)
        if self._watch is not None:
            self._watch.forget()
        # So that what is closed goes at once, and is not left to the garbage collector in its thousands.
        self._transport = self._watch = None

    def enter_again(self) -> None:
        assert self._watch is not None
        self._watch.forget()
        self._enter(Soon())

    def _enter(self, lifetimes: Lifetimes | None) -> None:
        assert self._transport is not None
        self._watch = self._source.connections.watch(
            self._transport.get_extra_info("ssl_object"),
            retire=self._retire,
            cut=self._cut,
            lifetimes=lifetimes,
        )

    def _retire(self, _: Connection) -> None:
        assert self._transport is not None
        self._server.retired += 1
        self._transport.close()

    def _cut(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.abort()


class Server:
    """Keeps connections until they are retired."""

    def __init__(self, source: X509Source) -> None:
        self._source = source
        self.retired = 0
        self.open: set[Kept] = set()

    def __len__(self) -> int:
        return len(self.open)

    def answer(self) -> Kept:
        return Kept(self, self._source)

    async def retire_soon(self) -> None:
        for number, each in enumerate(list(self.open)):
            if each in self.open:
                each.enter_again()
            if number % 20 == 0:
                await asyncio.sleep(0)


async def until(what: str, limit: float, condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.05)
    print(what, flush=True)


async def measure(connections: int) -> float:
    """The longest stall of the rotation, in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "w.sock"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.sdk_rotation", "--peers", str(path), "--connections", str(connections),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        await child.stdout.readline()
        try:
            async with X509Source(f"unix://{path}") as source:
                # What was imported stays for good: without this, each full collection looks through all of it, and
                # holds the loop for longer than everything that is measured here (docs/sdk-servers.md).
                gc.collect()
                gc.freeze()
                return await _measured(source, child.stdin, connections)
        finally:
            child.stdin.close()
            await child.wait()


async def _measured(source: X509Source, tell: asyncio.StreamWriter, connections: int) -> float:
    loop, ours = Loop(), Server(source)
    context = server_context(source, authorize_member_of("example.org"))
    server = await asyncio.get_running_loop().create_server(ours.answer, "127.0.0.1", 0, ssl=context)
    tell.write(f"{server.sockets[0].getsockname()[1]}\n".encode())
    await until(f"{connections} connections are open", 80, lambda: len(ours) >= connections * 0.98)
    loop.reset()
    await asyncio.sleep(2)
    print(f"longest stall while they are idle: {loop}", flush=True)
    version = source.version
    loop.reset()
    tell.write(b"rotate\n")
    await until("the rotation is seen", 30, lambda: source.version > version)
    await asyncio.sleep(1)
    print(f"longest stall while all are held against it: {loop}", flush=True)
    await ours.retire_soon()
    await until(
        "each was retired and made anew",
        60,
        lambda: ours.retired >= connections and len(ours) >= connections * 0.98,
    )
    print(f"longest stall of the whole rotation: {loop}", flush=True)
    longest = loop.longest
    await loop.stop()
    server.close()
    return longest


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--connections", type=int, default=1000)
    options.add_argument("--peers", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.peers:
        asyncio.run(peers(given.peers, given.connections))
        return
    longest = asyncio.run(measure(given.connections))
    print(machine())
    print(f"longest stall: {longest * 1000:.1f} ms; limit {LIMIT * 1000:.0f} ms")
    if longest > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
