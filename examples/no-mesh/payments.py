"""Payments: takes charges, from orders only.  ``python payments.py PORT``"""

import asyncio
import sys

from fastapi import FastAPI, Request
from identity import ORDERS, identity_of

from vestibule.sdk import authorize_ids
from vestibule.sdk.asgi import caller
from vestibule.sdk.uvicorn import serve

app = FastAPI()


@app.post("/charges")
async def charge(request: Request) -> dict[str, str]:
    return {"charged": "9.99", "for": str(caller(request.scope))}


def ready(address: tuple[str, int]) -> None:
    print("payments serves at", address[1], flush=True)


async def main(port: int) -> None:
    async with identity_of("payments") as source:
        await serve(app, source, authorize_ids(ORDERS), port=port, log_level="warning", on_ready=ready)


asyncio.run(main(int(sys.argv[1])))
