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
from vestibule.xds.resources import ProxyKey

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
    async with relay.attach(PROXY), asyncio.timeout(5):
        for _ in range(2):
            await upstream.opened.wait()
            upstream.opened.clear()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
