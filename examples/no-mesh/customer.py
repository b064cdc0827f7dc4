"""A customer, who orders something.  ``python customer.py ORDERS_URL``"""

import asyncio
import sys

import httpx
from identity import ORDERS, identity_of

from vestibule.sdk import authorize_ids
from vestibule.sdk.httpx import AsyncMtlsTransport


async def main(url: str) -> None:
    async with identity_of("customer") as source:
        transport = AsyncMtlsTransport(source, authorize_ids(ORDERS))
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.post(f"{url}/orders", json={"item": "teapot"})
            print(answer.status_code, answer.text)


asyncio.run(main(sys.argv[1]))
