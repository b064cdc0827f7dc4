"""The least that can tell many streams of one change: the same bytes to everybody, and their answers counted.

python bench/_xds_bare.py serve PORT           reads ``SIZE`` lines, sends that much to all, answers with the seconds
python bench/_xds_bare.py follow PORT STREAMS  opens so many streams, 20 on each connection, and answers everything
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import uvloop
from envoy.service.discovery.v3 import ads_pb2
from envoy.service.discovery.v3 import discovery_pb2 as pb
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from vestibule.net.grpc import Client

SERVICE = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"]
PATH = f"/{SERVICE.full_name}/DeltaAggregatedResources"
PER_CONNECTION = 20


class Fan:
    def __init__(self) -> None:
        self.streams: set[Any] = set()
        self.answers = 0
        self.all = asyncio.Event()

    async def answer(self, stream: Any) -> None:
        await stream.recv_message()
        self.streams.add(stream)
        try:
            while await stream.recv_message() is not None:
                self.answers += 1
                if self.answers == len(self.streams):
                    self.all.set()
        finally:
            self.streams.discard(stream)

    async def send(self, size: int) -> float:
        message = pb.DeltaDiscoveryResponse(nonce="1")
        message.resources.add(name="all").resource.value = b"x" * size
        self.answers = 0
        self.all.clear()
        began = time.monotonic()
        for stream in list(self.streams):
            await stream.send_message(message)
        await self.all.wait()
        return time.monotonic() - began

    def __mapping__(self) -> dict[str, Handler]:
        return {
            PATH: Handler(
                self.answer, Cardinality.STREAM_STREAM, pb.DeltaDiscoveryRequest, pb.DeltaDiscoveryResponse
            )
        }


async def serve(port: int) -> None:
    fan = Fan()
    server = Server([fan])
    await server.start("127.0.0.1", port)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(len(fan.streams) if line.strip() == "count" else await fan.send(int(line)), flush=True)


async def follow(port: int, streams: int) -> None:
    channels = [Channel("127.0.0.1", port) for _ in range(-(-streams // PER_CONNECTION))]

    async def one(channel: Channel) -> None:
        async with Client(channel, SERVICE).stream("DeltaAggregatedResources") as stream:
            await stream.send_message(pb.DeltaDiscoveryRequest(type_url="all"))
            while (message := await stream.recv_message()) is not None:
                await stream.send_message(pb.DeltaDiscoveryRequest(response_nonce=message.nonce))

    await asyncio.gather(*(one(channels[number // PER_CONNECTION]) for number in range(streams)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve(int(sys.argv[2])))
    else:
        uvloop.run(follow(int(sys.argv[2]), int(sys.argv[3])))
