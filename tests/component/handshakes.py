"""Mutual TLS between two workloads, over and over, with whatever each of them has at the moment."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.errors import VestibuleError
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import ServerTls, client_context
from vestibule.pki.chains import verify_x509_svid


def shake_hands(server: X509Context, client: X509Context) -> None:
    """One handshake, in memory; each side verifies the other as TLS does, and then as SPIFFE wants it.

    Raises: ssl.SSLError, VestibuleError.
    """
    ours, theirs = server.svids[0], client.svids[0]
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    listening = ServerTls(ours, server.bundle_of(ours)).context
    a = listening.wrap_bio(to_server, to_client, server_side=True)
    b = client_context(theirs, client.bundle_of(theirs)).wrap_bio(to_client, to_server)
    for _ in range(4):
        for side in (b, a):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert a.version() == b.version() == "TLSv1.3"
    now = datetime.now(UTC)
    assert verify_x509_svid(peer_chain(a), server.bundle_of(ours), now) == theirs.spiffe_id
    assert verify_x509_svid(peer_chain(b), client.bundle_of(theirs), now) == ours.spiffe_id


@dataclass
class Workload:
    """A program that follows the Workload API, as every SPIFFE library does."""

    context: X509Context
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def following(socket: Path) -> AsyncIterator[Workload]:
    """A workload at an agent's socket; it keeps what it has while the agent is away."""
    first: asyncio.Future[X509Context] = asyncio.get_running_loop().create_future()
    workload: list[Workload] = []

    async def follow() -> None:
        while True:
            channel = unix_channel(socket)
            try:
                async with aclosing(WorkloadApi(channel).watch()) as contexts:
                    async for context in contexts:
                        if workload:
                            workload[0].context = context
                        elif not first.done():
                            first.set_result(context)
            except VestibuleError:
                pass
            finally:
                channel.close()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(follow())
    try:
        workload.append(Workload(await asyncio.wait_for(first, 60)))
        yield workload[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class Traffic:
    """What became of the handshakes so far."""

    handshakes: int = 0
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def traffic(*workloads: Workload) -> AsyncIterator[Traffic]:
    """All of them shake hands with all others, in both roles, until the block ends."""
    found = Traffic()

    async def go_on() -> None:
        while True:
            for server in workloads:
                for client in workloads:
                    if server is client:
                        continue
                    try:
                        shake_hands(server.context, client.context)
                        found.handshakes += 1
                    except (ssl.SSLError, VestibuleError) as error:
                        found.failures.append(str(error))
                    await asyncio.sleep(0.005)

    task = asyncio.create_task(go_on())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
