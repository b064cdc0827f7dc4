"""Two workloads with Workload APIs of their own, and what tests of servers with library mTLS need besides."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request, WebSocket
from tests.workload_lab import Endpoint, endpoints

from vestibule.sdk import Lifetimes, SpiffeId, X509Source, authorize_ids, client_context
from vestibule.sdk.asgi import caller, retiring

DEADLINE = 90.0
AT_ONCE = Lifetimes(share=1e-6, jitter=0)
"""Connections are retired as soon as they are made, and cut when their certificates end."""


@dataclass
class Pair:
    """``orders`` calls, ``payments`` serves."""

    calling: Endpoint
    serving: Endpoint
    orders: X509Source
    payments: X509Source

    @property
    def caller(self) -> SpiffeId:
        return self.calling.spiffe_id

    def context(self, *wanted: SpiffeId) -> ssl.SSLContext:
        return client_context(self.orders, authorize_ids(*(wanted or (self.serving.spiffe_id,))))

    def client(self, **options: object) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self.context(), timeout=DEADLINE, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two entered sources."""
    async with (
        endpoints("/orders", "/payments") as (calling, serving),
        X509Source(calling.address) as orders,
        X509Source(serving.address) as payments,
    ):
        yield Pair(calling, serving, orders, payments)


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = DEADLINE) -> None:
    """Poll a condition, patiently."""
    async with asyncio.timeout(within):
        while True:
            answer = condition()
            if (await answer) if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.01)


def press_all(source: X509Source) -> int:
    """As if half of what is left to all connections of the server were over."""
    watches = list(source.connections._open)
    for each in watches:
        held = each._retire.__self__  # type: ignore[attr-defined]
        held.retire()
        held._press()
    return len(watches)


class Till:
    """An app whose slow answers wait until they are let go."""

    def __init__(self) -> None:
        self.app = FastAPI(lifespan=self.lifespan)
        self.app.get("/")(self.who)
        self.app.get("/slow")(self.slow)
        self.app.websocket("/feed")(self.feed)
        self.busy = 0
        self.go = asyncio.Event()
        self.asked_to_end = asyncio.Event()
        self.steps: list[str] = []

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self.steps.append("up")
        yield
        self.steps.append("down")

    async def who(self, request: Request) -> dict[str, Any]:
        return {"caller": str(caller(request.scope)), "tls": request.scope["extensions"]["tls"]}

    async def slow(self) -> str:
        self.busy += 1
        await self.go.wait()
        return "done"

    async def feed(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(str(caller(websocket.scope)))
        await retiring(websocket.scope).wait()
        self.asked_to_end.set()
        # This app does nothing about it.
        await websocket.receive()
