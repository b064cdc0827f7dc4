"""What one proxy's stream upstream may do to the others: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.agent.relay import Relay
from vestibule.keys.sealing import Sealer
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import DECISIONS, ProxyKey, Resource, Snapshot

PROXY = ProxyKey(SpiffeId.parse("spiffe://example.org/web"), "i-1")


class Surprising:
    """An upstream that fails as nobody foresaw."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    @asynccontextmanager
    async def open(self, proxy: ProxyKey) -> AsyncIterator[Any]:
        self.opened.set()
        if self.opened.is_set():
            raise ValueError("a surprise")
        yield


async def test_a_surprise_on_one_stream_does_not_end_the_relay(tmp_path: Path) -> None:
    upstream = Surprising()
    relay = Relay(upstream, KeptSnapshots(tmp_path, Sealer(b"k" * 32)))
    running = asyncio.create_task(relay.run())
    async with relay.attach(PROXY), asyncio.timeout(60):
        for _ in range(2):
            await upstream.opened.wait()
            upstream.opened.clear()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_kept_of_an_expected_proxy_is_taken_up_before_its_envoy_comes(tmp_path: Path) -> None:
    kept = KeptSnapshots(tmp_path, Sealer(b"k" * 32))
    kept.save(PROXY, Snapshot.of("v1", [Resource.of(DECISIONS, "http", b"{}")]))
    relay = Relay(Surprising(), kept, linger=0.5)
    prepared: list[list[Resource]] = []
    relay.prepare = prepared.append
    relay.expect(PROXY)
    assert relay.holdings(PROXY) is None
    running = asyncio.create_task(relay.run())
    async with asyncio.timeout(60):
        while relay.holdings(PROXY) is None:
            relay.expect(PROXY)
            await asyncio.sleep(0)
        assert [[each.name for each in policies] for policies in prepared] == [["http"]]
        # Nobody came for it, and it is let go of again.
        while relay.holdings(PROXY) is not None:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
