"""Clients and servers of the SDK together: HTTP/2 that is left by both sides, and sources in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import requests
from tests.component.mtls_lab import AT_ONCE, DEADLINE, Pair, Till, pair
from tests.component.test_sdk_hypercorn import served
from tests.mtls_lab import PAYMENTS, Held, eventually, payments_server
from tests.workload_api import in_background

from vestibule.sdk import Lifetimes, X509Source, authorize_ids
from vestibule.sdk.httpx import AsyncMtlsTransport, MtlsTransport
from vestibule.sdk.requests import MtlsAdapter
from vestibule.testing import TestAuthority

SOON = Lifetimes(share=0.00005, jitter=0)
"""Of an hour: connections are retired within a fifth of a second."""


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


def client(two: Pair, lifetimes: Lifetimes | None, *, http2: bool) -> httpx.AsyncClient:
    wanted = authorize_ids(two.serving.spiffe_id)
    transport = AsyncMtlsTransport(two.orders, wanted, http2=http2, lifetimes=lifetimes)
    return httpx.AsyncClient(transport=transport, timeout=DEADLINE)


@pytest.mark.parametrize("http2", [True, False], ids=["http2", "http1"])
@pytest.mark.parametrize(
    ("server", "caller"), [(AT_ONCE, None), (None, SOON), (SOON, SOON)], ids=["server", "client", "both"]
)
async def test_no_request_fails_whoever_leaves_connections_first(
    two: Pair, http2: bool, server: Lifetimes | None, caller: Lifetimes | None
) -> None:
    async with (
        served(two, Till().app, lifetimes=server) as serving,
        client(two, caller, http2=http2) as asking,
    ):

        async def some(count: int) -> None:
            for _ in range(count):
                answer = (await asking.get(serving.address)).raise_for_status()
                assert answer.json()["caller"] == str(two.caller)
                await asyncio.sleep(0.005)

        await asyncio.gather(*(some(25) for _ in range(4)))


async def test_a_request_under_way_outlives_the_retirement_of_its_http2_connection(two: Pair) -> None:
    till = Till()
    async with served(two, till.app) as serving, client(two, SOON, http2=True) as asking:
        running = asyncio.create_task(asking.get(f"{serving.address}/slow"))
        async with asyncio.timeout(DEADLINE):
            while not till.busy:
                await asyncio.sleep(0.01)
        for _ in range(30):
            assert (await asking.get(serving.address)).status_code == 200
            await asyncio.sleep(0.01)
        till.go.set()
        assert (await running).status_code == 200


def test_programs_of_threads_call_by_httpx_and_requests_while_the_agent_rotates(tmp_path: Path) -> None:
    authority = TestAuthority("example.org")
    serving = payments_server(Held(authority, PAYMENTS))
    with in_background(Path("/tmp") / f"v{tmp_path.name[-20:]}.sock", authority) as agent, serving as server:
        agent.do(lambda api: api.issue("/orders"))
        wanted = authorize_ids(PAYMENTS)
        with (
            X509Source(agent.address) as source,
            httpx.Client(transport=MtlsTransport(source, wanted, lifetimes=SOON), timeout=DEADLINE) as one,
            requests.Session() as other,
        ):
            other.mount("https://", MtlsAdapter(source, wanted, lifetimes=SOON))
            for _ in range(5):
                before = source.version
                agent.do(lambda api: api.issue("/orders"))
                eventually(lambda seen=before: source.version > seen)  # type: ignore[misc]
                for _ in range(5):
                    assert (
                        one.post(server.url, content=b"x").json()["caller"] == "spiffe://example.org/orders"
                    )
                    assert other.post(server.url, data=b"x").json()["caller"] == "spiffe://example.org/orders"
            eventually(lambda: not server.open)  # all are retired soon, and closed
