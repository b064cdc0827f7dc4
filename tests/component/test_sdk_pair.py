"""Two FastAPI services on library mTLS, each in a process of its own, while their certificates rotate under load."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.mtls_lab import DEADLINE, until
from tests.component.pair_services import named
from tests.component.test_agent import ME, Field, a_world
from tests.workload_lab import endpoints

from vestibule.sdk import Lifetimes, X509Source, authorize_ids
from vestibule.sdk.httpx import AsyncMtlsTransport
from vestibule.wire.gen.spire import entry_pb2, types_pb2

ROOT = Path(__file__).parents[2]
WORKERS = 8
SHARE = 0.0005
"""Of an hour: callers leave connections after two seconds."""


@asynccontextmanager
async def process(name: str, address: str, *arguments: str) -> AsyncIterator[str]:
    """A service; its URL."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.component.pair_services", name, str(SHARE), *arguments),
        cwd=ROOT,
        env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": address},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert started.stdout is not None
        line = await asyncio.wait_for(started.stdout.readline(), DEADLINE)
        yield line.decode().strip()
        assert started.returncode is None, "the service ended by itself"
    finally:
        if started.returncode is None:
            started.terminate()
        await asyncio.wait_for(started.communicate(), DEADLINE)


@dataclass
class Load:
    """Asks again and again, and counts."""

    client: httpx.AsyncClient
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    over: bool = False

    async def run(self) -> None:
        while not self.over:
            try:
                answer = await self.client.post("/orders", json={"item": 1})
                answer.raise_for_status()
                self.last = answer.json()
                self.answered += 1
            except httpx.HTTPError as error:
                self.failures.append(repr(error))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.run()) for _ in range(WORKERS)]
        try:
            await until(lambda: self.answered > 0 or bool(self.failures))
            yield
        finally:
            self.over = True
            await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)

    def serials(self) -> tuple[str, str]:
        return self.last["orders"]["serial"], self.last["payments"]["serial"]


@asynccontextmanager
async def calling(address: str, url: str) -> AsyncIterator[Load]:
    pick = partial(named, "/shop")
    async with X509Source(address, lifetimes=Lifetimes(share=SHARE), pick=pick) as source:
        transport = AsyncMtlsTransport(source, authorize_ids("spiffe://example.org/orders"))
        async with httpx.AsyncClient(transport=transport, base_url=url, timeout=DEADLINE) as client:
            load = Load(client)
            yield load


async def rotated(load: Load, again: Callable[[], Awaitable[None]]) -> None:
    """Have everybody get a new certificate, and see it in use while requests go on."""
    before, answered = load.serials(), load.answered
    await again()
    await until(lambda: all(map(str.__ne__, load.serials(), before)) or bool(load.failures))
    await until(lambda: load.answered >= answered + 10 or bool(load.failures))


def judge(load: Load, rotations: int, capsys: pytest.CaptureFixture[str]) -> None:
    told = load.last
    with capsys.disabled():
        sys.stdout.write(f"\n{rotations} rotations, {load.answered} requests, {len(load.failures)} failed\n")
    assert load.failures == []
    assert told["orders"]["caller"] == "spiffe://example.org/shop"
    assert told["payments"]["caller"] == "spiffe://example.org/orders"


async def test_no_request_fails_while_certificates_are_replaced_twenty_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with (
        endpoints("/shop", "/orders", "/payments") as workloads,
        process("payments", workloads[2].address) as below,
        process("orders", workloads[1].address, below) as url,
        calling(workloads[0].address, url) as load,
        load.running(),
    ):

        async def again() -> None:
            for each in workloads:
                each.issue()

        for _ in range(20):
            await rotated(load, again)
        # Connections are left for younger ones all the while.
        await until(lambda: load.last["orders"]["connections"] > 2 * WORKERS or bool(load.failures))
    judge(load, 20, capsys)


async def test_no_request_fails_beside_a_real_agent_that_renews_certificates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It signs anew what was changed at the server: here, for how long certificates are to last."""
    async with a_world() as world:
        agent = await world.agent()
        address = f"unix://{agent.settings.socket_path}"
        entries = [
            await world.server.entry(agent.id, f"/{each}", ME) for each in ("shop", "orders", "payments")
        ]
        await agent.until(lambda found: len(found.svids) == len(entries))
        async with (
            process("payments", address) as below,
            process("orders", address, below) as url,
            calling(address, url) as load,
            load.running(),
        ):
            for ttl in range(3000, 3002):
                await rotated(load, partial(lasting, world, entries, ttl))
    judge(load, 2, capsys)


async def lasting(world: Field, entries: list[str], ttl: int) -> None:
    """Have certificates last for ``ttl`` seconds."""
    changed = [types_pb2.Entry(id=each, x509_svid_ttl=ttl) for each in entries]
    request = entry_pb2.BatchUpdateEntryRequest(
        entries=changed, input_mask=types_pb2.EntryMask(x509_svid_ttl=True)
    )
    answer = await world.server.call(
        entry_pb2.DESCRIPTOR.services_by_name["Entry"], "BatchUpdateEntry", request
    )
    assert [each.status.code for each in answer.results] == [0] * len(entries)
