"""Certificates are replaced, and connections retired, under load: no request over HTTP/2 and no call of gRPC fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.client import UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from hypercorn.config import Config
from tests.component.mtls_lab import DEADLINE, Till, until
from tests.workload_lab import Endpoint, endpoints

import vestibule.sdk.grpclib
from vestibule.sdk import Lifetimes, X509Source, authorize_ids
from vestibule.sdk.httpx import AsyncMtlsTransport
from vestibule.sdk.hypercorn import serve as serve_http
from vestibule.sdk.uvicorn import Server

SOON = Lifetimes(share=0.0005)
"""Connections are retired after two seconds."""
ROTATIONS = 5


@dataclass
class Two:
    workloads: list[Endpoint]
    orders: X509Source
    payments: X509Source


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    async with (
        endpoints("/orders", "/payments") as workloads,
        X509Source(workloads[0].address, lifetimes=SOON) as orders,
        X509Source(workloads[1].address, lifetimes=SOON) as payments,
    ):
        yield Two(workloads, orders, payments)


@dataclass
class Load:
    """Asks again and again, by several at a time, and counts."""

    ask: Callable[[], Awaitable[object]]
    answered: int = 0
    over: bool = False
    failures: list[str] = field(default_factory=list)

    async def run(self) -> None:
        while not self.over:
            try:
                await self.ask()
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(repr(error))
                return

    async def more(self, answers: int, seconds: float) -> None:
        """Until there were so many more, over so many seconds; or a failure."""
        clock = asyncio.get_running_loop().time
        enough, long_enough = self.answered + answers, clock() + seconds
        await until(lambda: bool(self.failures) or (self.answered >= enough and clock() > long_enough))

    async def through_rotations(self, two: Two) -> None:
        tasks = [asyncio.create_task(self.run()) for _ in range(4)]
        try:
            for _ in range(ROTATIONS):
                for each in two.workloads:
                    each.issue()
                await self.more(20, 0.7)
        finally:
            self.over = True
            await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)
        assert self.failures == []


async def through_http(two: Two, url: str, **options: Any) -> None:
    transport = AsyncMtlsTransport(two.orders, authorize_ids(two.workloads[1].spiffe_id), **options)
    async with httpx.AsyncClient(transport=transport, timeout=DEADLINE, base_url=url) as client:

        async def ask() -> None:
            (await client.get("/")).raise_for_status()

        await Load(ask).through_rotations(two)


async def test_http2_by_hypercorn() -> None:
    async with two() as both:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        config = Config()
        config.errorlog = None
        config.graceful_timeout = 0.2
        authorize = authorize_ids(both.workloads[0].spiffe_id)
        given: dict[str, Any] = {"port": 0, "config": config, "stop": stop.wait, "on_ready": ready.set_result}
        running = asyncio.create_task(serve_http(Till().app, both.payments, authorize, **given))
        try:
            await asyncio.wait_for(asyncio.shield(ready), DEADLINE)
            await through_http(both, f"https://127.0.0.1:{ready.result()[1]}", http2=True)
        finally:
            stop.set()
            await asyncio.wait_for(running, DEADLINE)


async def test_http1_by_uvicorn() -> None:
    async with two() as both:
        authorize = authorize_ids(both.workloads[0].spiffe_id)
        server = Server(Till().app, both.payments, authorize, port=0, log_config=None)
        running = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started or running.done())
            await through_http(both, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.should_exit = True
            await asyncio.wait_for(running, DEADLINE)


class Greeter:
    def __mapping__(self) -> dict[str, Handler]:
        return {"/t.Greeter/Hello": Handler(self.hello, Cardinality.UNARY_UNARY, StringValue, StringValue)}

    async def hello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(StringValue(value="hello"))


async def test_grpc_by_grpclib() -> None:
    async with two() as both:
        caller, callee = (authorize_ids(each.spiffe_id) for each in both.workloads)
        async with (
            vestibule.sdk.grpclib.serve([Greeter()], both.payments, caller, port=0) as server,
            vestibule.sdk.grpclib.channel("127.0.0.1", server.port, both.orders, callee) as channel,
        ):
            hello = UnaryUnaryMethod(channel, "/t.Greeter/Hello", StringValue, StringValue)
            await Load(lambda: hello(StringValue(), timeout=DEADLINE)).through_rotations(both)
