"""From an entry to an SVID: how long a waiting workload waits.

A workload keeps a FetchX509SVID stream of the Workload API open, on an agent that already serves it other identities.
The clock runs from the moment the operator's BatchCreateEntry is sent until the message that brings the new identity
has arrived: stored and audited, pushed to the agent, asked for, signed, audited again, and pushed to the workload.
SPIRE's agents ask every five seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import aclosing

from _comparison import machine
from _deployment import Deployment, create_entries, deployment
from _server import TRUST_DOMAIN, entry_for

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2

LIMIT = 1.0
"""Seconds, for the 99th percentile."""
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
WITHIN = 30.0


async def measure(mesh: Deployment, rounds: int) -> list[float]:
    """Seconds from asking for an entry to holding its SVID, each round with a new entry."""
    parent = SpiffeId.parse((await mesh.agent_status()).spiffe_id)
    channel = unix_channel(mesh.directory / "agent.sock")
    took = []
    try:
        async with aclosing(WorkloadApi(channel).watch()) as contexts:
            await anext(contexts)
            for number in range(rounds):
                entry = entry_for(parent, f"/ns/bench/sa/new{number}", mesh.selector)
                began = time.monotonic()
                answer = await mesh.call(
                    "server.sock",
                    ENTRY,
                    "BatchCreateEntry",
                    entry_pb2.BatchCreateEntryRequest(entries=[entry]),
                )
                identity = SpiffeId.of(TRUST_DOMAIN, entry.spiffe_id.path)
                async with asyncio.timeout(WITHIN):
                    async for context in contexts:
                        if any(svid.spiffe_id == identity for svid in context.svids):
                            break
                took.append(time.monotonic() - began)
                request = entry_pb2.BatchDeleteEntryRequest(ids=[answer.results[0].entry.id])
                await mesh.call("server.sock", ENTRY, "BatchDeleteEntry", request)
                async with asyncio.timeout(WITHIN):
                    async for context in contexts:
                        if all(svid.spiffe_id != identity for svid in context.svids):
                            break
    finally:
        channel.close()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--others", type=int, default=20, help="identities that the workload has already")
    given = parser.parse_args()
    print(f"{machine()}; {given.rounds} new entries, {given.others} there already")
    with deployment() as mesh:
        asyncio.run(create_entries(mesh, given.others))
        took = sorted(asyncio.run(measure(mesh, given.rounds)))
    p99 = took[min(len(took) - 1, round(0.99 * len(took)))]
    print(
        f"entry created → SVID at the waiting workload: p50 {statistics.median(took) * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms, max {took[-1] * 1000:.0f} ms"
    )
    print(f"{'holds' if p99 < LIMIT else 'MISSED'}: p99 below {LIMIT:.0f} s")
    return 0 if p99 < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
