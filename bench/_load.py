"""A closed-loop HTTP/1.1 load on loopback: N connections, each sends the next request when the last is answered.

Bounded in time, talks only to 127.0.0.1, and runs as a process of its own so that what it measures is not its
caller's event loop:  python bench/load.py PORT --connections 32 --seconds 3 [--host NAME] [--path /]
Prints one JSON object: requests, failures, seconds, rps, p50_ms, p99_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import uvloop


@dataclass(frozen=True)
class Result:
    """What one run of the load saw; latencies in milliseconds."""

    requests: int
    failures: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float


class _Connection(asyncio.Protocol):
    """One client.  Answers must carry content-length; anything but a 200 is a failure."""

    def __init__(self, request: bytes, latencies: list[float], until: float) -> None:
        self._request = request
        self._latencies = latencies
        self._until = until
        self._buffer = b""
        self._sent_at = 0.0
        self.failures = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        self.failures += not head.startswith(b"HTTP/1.1 200")
        self._buffer = b""
        if now >= self._until or b"connection: close" in head.lower():
            self._transport.close()
            return
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self.failures += bool(self._buffer) or error is not None
        if not self.done.done():
            self.done.set_result(None)


def _content_length(head: bytes) -> int:
    marker = head.lower().find(b"content-length:")
    if marker < 0:
        return 0
    return int(head[marker + 15 : head.find(b"\r", marker) if b"\r" in head[marker:] else None])


async def _client(port: int, request: bytes, latencies: list[float], until: float) -> int:
    failures = 0
    loop = asyncio.get_running_loop()
    while time.perf_counter() < until:
        _, connection = await loop.create_connection(
            lambda: _Connection(request, latencies, until), "127.0.0.1", port
        )
        await connection.done
        failures += connection.failures
    return failures


async def _load(
    port: int, host: str, path: str, connections: int, seconds: float, headers: list[str], form: str
) -> Result:
    method = "POST" if form else "GET"
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *headers]
    if form:
        lines += ["content-type: application/x-www-form-urlencoded", f"content-length: {len(form)}"]
    request = "\r\n".join([*lines, "", form]).encode()
    latencies: list[float] = []
    begin = time.perf_counter()
    clients = [_client(port, request, latencies, begin + seconds) for _ in range(connections)]
    failures = sum(await asyncio.gather(*clients))
    took = time.perf_counter() - begin
    latencies.sort()
    return Result(
        requests=len(latencies),
        failures=failures,
        seconds=round(took, 3),
        rps=round(len(latencies) / took, 1),
        p50_ms=round(latencies[len(latencies) // 2] * 1000, 3),
        p99_ms=round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
    )


def run(
    port: int,
    *,
    host: str,
    path: str = "/",
    connections: int = 32,
    seconds: float = 3.0,
    headers: Sequence[str] = (),
    form: str = "",
) -> Result:
    """One run, in a process of its own; with ``form`` in the body it is a POST."""
    command = [sys.executable, __file__, str(port), "--host", host, "--path", path]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--form", form]
    command += [part for each in headers for part in ("--header", each)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    return Result(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--form", default="")
    given = parser.parse_args()
    result = uvloop.run(
        _load(given.port, given.host, given.path, given.connections, given.seconds, given.header, given.form)
    )
    print(json.dumps(result.__dict__))


if __name__ == "__main__":
    main()
