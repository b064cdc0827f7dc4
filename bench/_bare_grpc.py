"""The least that can answer FetchX509SVID over gRPC: grpclib, one constant message, no questions asked.

python bench/_bare_grpc.py SOCKET MESSAGE_FILE     until its stdin is closed
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from vestibule.wire.gen.spiffe import workload_pb2 as wire


class Constant:
    def __init__(self, response: wire.X509SVIDResponse) -> None:
        self._response = response

    async def fetch(self, stream: Stream[wire.X509SVIDRequest, wire.X509SVIDResponse]) -> None:
        await stream.recv_message()
        await stream.send_message(self._response)
        await asyncio.Event().wait()  # as the real one, which sends again when something changes

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(self.fetch, Cardinality.UNARY_STREAM, wire.X509SVIDRequest, wire.X509SVIDResponse)
        return {"/SpiffeWorkloadAPI/FetchX509SVID": handler}


async def main(socket: str, response: wire.X509SVIDResponse) -> None:
    server = Server([Constant(response)])
    await server.start(path=socket)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], wire.X509SVIDResponse.FromString(Path(sys.argv[2]).read_bytes())))
