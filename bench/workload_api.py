"""The agent's public socket: what a fetch from the cache costs, and what many connected Envoys cost.

Fetch: the first message of FetchX509SVID, asked on an open connection, against a bare grpclib server in a process of
its own that answers the same call with the same bytes and asks nothing: no attestation, no cache, no quotas.
Memory: the agent's resident memory with 450 SDS connections, each with a stream that holds a certificate and a trust
bundle; a SPIRE agent was reported at 3.5 GB with about as many (spiffe/spire issue 5348).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _processes
from _comparison import interleaved, machine, ratios
from _deployment import Deployment, create_entries, deployment
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import HEADER, SERVICE
from vestibule.net.grpc import Client
from vestibule.wire.gen.spiffe import workload_pb2 as wire

SLOWER = 2.0
"""Times the bare call that a fetch may take, at the median."""
MEGABYTES = 150.0
SDS = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


async def first_message(client: Client) -> Any:
    async with client.stream("FetchX509SVID", metadata=HEADER) as stream:
        await stream.send_message(wire.X509SVIDRequest(), end=True)
        message = await stream.recv_message()
        await stream.cancel()
    return message


async def fetches(socket: Path, count: int) -> float:
    """Median seconds of a fetch on one connection."""
    channel = unix_channel(socket)
    client, took = Client(channel, SERVICE), []
    try:
        await first_message(client)
        for _ in range(count):
            began = time.perf_counter()
            await first_message(client)
            took.append(time.perf_counter() - began)
    finally:
        channel.close()
    return statistics.median(took)


def compare(mesh: Deployment, rounds: int, count: int, stack: ExitStack) -> tuple[str, bool]:
    theirs = mesh.directory / "bare.sock"
    ours = mesh.directory / "agent.sock"

    async def answer() -> bytes:
        channel = unix_channel(ours)
        try:
            return bytes((await first_message(Client(channel, SERVICE))).SerializeToString())
        finally:
            channel.close()

    (mesh.directory / "message").write_bytes(asyncio.run(answer()))
    command = [sys.executable, str(Path(__file__).with_name("_bare_grpc.py")), str(theirs)]
    bare = subprocess.Popen(
        [*command, str(mesh.directory / "message")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stack.callback(bare.wait, 10)
    stack.callback(bare.communicate)
    assert bare.stdout is not None
    bare.stdout.readline()
    pairs = interleaved(
        rounds, lambda: asyncio.run(fetches(ours, count)), lambda: asyncio.run(fetches(theirs, count))
    )
    ratio = ratios(pairs)
    mine, other = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
    text = (
        f"cached fetch p50 {mine:.0f} µs, bare gRPC call {other:.0f} µs; ratio {ratio} (at most {SLOWER:.0f})"
    )
    return text, ratio.median <= SLOWER


async def connected(mesh: Deployment, count: int) -> float:
    """The agent's resident megabytes with so many SDS connections."""
    channels, streams = [], []
    try:
        for _ in range(count):
            channel = unix_channel(mesh.directory / "agent.sock")
            channels.append(channel)
            stream = await Client(channel, SDS).stream("StreamSecrets").__aenter__()
            streams.append(stream)
            request = discovery_pb2.DiscoveryRequest(type_url=SECRET, resource_names=["default", "ROOTCA"])
            await stream.send_message(request)
            answer = await stream.recv_message()
            assert len(answer.resources) == len(request.resource_names)
        return _processes.resident(mesh.agent)
    finally:
        for channel in channels:
            channel.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fetches", type=int, default=500)
    parser.add_argument("--connections", type=int, default=450)
    given = parser.parse_args()
    print(f"{machine()}; {given.rounds} rounds of {given.fetches} fetches")
    with ExitStack() as stack:
        mesh = stack.enter_context(deployment())
        asyncio.run(create_entries(mesh, 1))
        text, quick = compare(mesh, given.rounds, given.fetches, stack)
        before = _processes.resident(mesh.agent)
        megabytes = asyncio.run(connected(mesh, given.connections))
    small = megabytes < MEGABYTES
    print(f"{'ok  ' if quick else 'MISS'} {text}")
    print(
        f"{'ok  ' if small else 'MISS'} the agent with {given.connections} SDS connections: {megabytes:.0f} MB "
        f"resident ({before:.0f} before; less than {MEGABYTES:.0f})"
    )
    return 0 if quick and small else 1


if __name__ == "__main__":
    sys.exit(main())
