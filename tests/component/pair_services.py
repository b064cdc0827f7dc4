"""Two services with library mTLS, each for a process of its own: ``orders`` asks ``payments``.

``python -m tests.component.pair_services orders SHARE PAYMENTS_URL`` and ``… payments SHARE``, where SHARE is after
which share of the life of their certificates connections are retired.  Prints its address when it serves.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI, Request

from vestibule.sdk import Lifetimes, X509Source, X509Svid, authorize_ids
from vestibule.sdk.asgi import caller
from vestibule.sdk.httpx import AsyncMtlsTransport
from vestibule.sdk.uvicorn import Server

TD = "spiffe://example.org"
CALLERS = {"orders": f"{TD}/shop", "payments": f"{TD}/orders"}


class Service:
    """What both have: who called last, how many connections there were, which certificate is held."""

    def __init__(self, source: X509Source) -> None:
        self.source = source
        self.app = FastAPI()
        self.connections: set[object] = set()

    def seen(self, request: Request) -> dict[str, object]:
        self.connections.add(request.client)
        return {
            "caller": str(caller(request.scope)),
            "serial": str(self.source.svid.serial),
            "connections": len(self.connections),
        }


def payments(service: Service) -> None:
    @service.app.post("/charges")
    async def charge(request: Request) -> dict[str, object]:
        return service.seen(request)


def orders(service: Service, client: httpx.AsyncClient) -> None:
    @service.app.post("/orders")
    async def order(request: Request) -> dict[str, object]:
        answer = await client.post("/charges", json={"amount": 1})
        answer.raise_for_status()
        return {"orders": service.seen(request), "payments": answer.json()}


def named(path: str, svids: Sequence[X509Svid]) -> X509Svid:
    """A real agent knows processes of one user by their user alone, and gives each all the identities of the test."""
    return next(each for each in svids if each.spiffe_id.path == path)


PATIENCE = 20
"""How much longer than callers servers keep connections: time enough for a machine that stands still meanwhile."""


async def serve(name: str, share: float, url: str) -> None:
    lifetimes = Lifetimes(share=share)
    async with X509Source(lifetimes=lifetimes, pick=partial(named, f"/{name}")) as source:
        service = Service(source)
        transport = AsyncMtlsTransport(source, authorize_ids(f"{TD}/payments"))
        async with httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as client:
            if name == "orders":
                orders(service, client)
            else:
                payments(service)
            options: dict[str, Any] = {"port": 0, "log_level": "warning", "access_log": False}
            options |= {"lifetimes": Lifetimes(share=share * PATIENCE), "timeout_keep_alive": 120}
            server = Server(service.app, source, authorize_ids(CALLERS[name]), **options)
            running = asyncio.create_task(server.serve())
            while not server.started and not running.done():
                await asyncio.sleep(0.01)
            sys.stdout.write(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
            sys.stdout.flush()
            await running


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
