"""Orders: takes orders from customers, and has payments charge them.  ``python orders.py PORT PAYMENTS_URL``"""

import asyncio
import sys

import httpx
from fastapi import FastAPI, Request
from identity import CUSTOMER, PAYMENTS, identity_of

from vestibule.sdk import authorize_ids
from vestibule.sdk.asgi import caller
from vestibule.sdk.httpx import AsyncMtlsTransport
from vestibule.sdk.uvicorn import serve

app = FastAPI()


@app.post("/orders")
async def order(request: Request) -> dict[str, object]:
    payments: httpx.AsyncClient = request.app.state.payments
    answer = await payments.post("/charges", json={"amount": "9.99"})
    answer.raise_for_status()
    return {"ordered by": str(caller(request.scope)), "payment": answer.json()}


def ready(address: tuple[str, int]) -> None:
    print("orders serves at", address[1], flush=True)


async def main(port: int, payments: str) -> None:
    async with identity_of("orders") as source:
        transport = AsyncMtlsTransport(source, authorize_ids(PAYMENTS))
        async with httpx.AsyncClient(transport=transport, base_url=payments) as app.state.payments:
            await serve(app, source, authorize_ids(CUSTOMER), port=port, log_level="warning", on_ready=ready)


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
