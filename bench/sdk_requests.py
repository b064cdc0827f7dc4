"""Requests with library mTLS against the same stack with plain TLS from files that never change.

Two uvicorn servers, each in a process of its own: one of ``vestibule.sdk.uvicorn``, one with ``ssl_certfile`` and its
kin; and one httpx client: by ``vestibule.sdk.httpx``, and with a static ``ssl`` context.  Same certificates, same app,
same number of requests at a time, over connections that are kept; in turns, in one run.  What is compared is requests
per second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from _comparison import Ratios, machine, ratios
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.pki.bundles import to_pem
from vestibule.pki.pem import pem_block
from vestibule.sdk import ConnectionBook, TrustBundle, X509Context, X509Svid, authorize_ids
from vestibule.sdk.httpx import LIMITS, AsyncMtlsTransport
from vestibule.sdk.uvicorn import serve
from vestibule.spiffe import Revocations, TrustDomain
from vestibule.testing import TestAuthority

WANTED = 0.95
CALLER, CALLEE = "spiffe://example.org/ns/bench/sa/orders", "spiffe://example.org/ns/bench/sa/payments"
AT_ONCE = 8


@dataclass
class Held:
    """A source that holds the same for ever, with the book that keeps account of connections."""

    context: X509Context
    revocations: Revocations = Revocations()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        self.connections = ConnectionBook(self)

    @property
    def svid(self) -> X509Svid:
        return self.context.svids[0]

    def bundle(self, _trust_domain: TrustDomain | str) -> TrustBundle:
        return self.context.bundles[0]


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Answers everything alike; reads nothing of it."""
    if _scope["type"] != "http":
        return
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"16")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"charged":true}'})


def files(directory: Path, name: str) -> tuple[str, str, str]:
    """Certificate, key and authorities, as static TLS has them."""
    return tuple(str(directory / f"{name}.{kind}") for kind in ("pem", "key", "ca"))  # type: ignore[return-value]


def write(directory: Path, name: str, context: X509Context) -> None:
    svid = context.svids[0]
    certificate, key, authorities = map(Path, files(directory, name))
    certificate.write_bytes(b"".join(pem_block("CERTIFICATE", der) for der in svid.chain))
    private = load_der_private_key(svid.key, None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    authorities.write_bytes(to_pem(context.bundles[0]))
    (directory / f"{name}.pickle").write_bytes(pickle.dumps(context))


def held(directory: Path, name: str) -> Held:
    return Held(pickle.loads((directory / f"{name}.pickle").read_bytes()))  # our own, of a moment ago


async def serving(kind: str, directory: Path, port: int) -> None:
    """One of the two servers, until it is killed."""
    options: dict[str, Any] = {
        "port": port,
        "log_level": "error",
        "lifespan": "off",
        "http": "h11",
        "loop": "asyncio",
    }
    if kind == "library":
        source: Any = held(directory, "callee")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(source.connections.run())
            await serve(app, source, authorize_ids(CALLER), **options)
        return
    certificate, key, authorities = files(directory, "callee")
    options |= {"ssl_certfile": certificate, "ssl_keyfile": key, "ssl_ca_certs": authorities}
    await uvicorn.Server(uvicorn.Config(app, ssl_cert_reqs=ssl.CERT_REQUIRED, **options)).serve()


def static_context(directory: Path) -> ssl.SSLContext:
    certificate, key, authorities = files(directory, "caller")
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context


async def rate(transport: httpx.AsyncBaseTransport, port: int, seconds: float) -> float:
    """Requests per second."""
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:
        url = f"https://localhost:{port}/v1/charges"

        async def ask(until: float) -> int:
            count = 0
            while time.perf_counter() < until:
                (await client.post(url, content=b'{"cents":100}')).raise_for_status()
                count += 1
            return count

        await asyncio.gather(*(ask(time.perf_counter() + 0.3) for _ in range(AT_ONCE)))
        began = time.perf_counter()
        counts = await asyncio.gather(*(ask(began + seconds) for _ in range(AT_ONCE)))
        return sum(counts) / (time.perf_counter() - began)


async def compared(directory: Path, ports: dict[str, int], rounds: int, seconds: float) -> Ratios:
    source: Any = held(directory, "caller")
    static = static_context(directory)
    book = asyncio.create_task(source.connections.run())
    pairs: list[tuple[float, float]] = []

    async def ours() -> float:
        return await rate(AsyncMtlsTransport(source, authorize_ids(CALLEE)), ports["library"], seconds)

    async def theirs() -> float:
        return await rate(httpx.AsyncHTTPTransport(verify=static, limits=LIMITS), ports["static"], seconds)

    for number in range(rounds):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        one, other = await first(), await second()
        pairs.append((one, other) if number % 2 == 0 else (other, one))
        print(f"  library {pairs[-1][0]:7.0f}/s   static {pairs[-1][1]:7.0f}/s")
    book.cancel()
    await asyncio.gather(book, return_exceptions=True)
    return ratios(pairs)


@contextmanager
def servers(directory: Path) -> Iterator[dict[str, int]]:
    ports, processes = {}, []
    try:
        for kind in ("library", "static"):
            ports[kind] = free_port()
            command = [sys.executable, __file__, "--serve", kind, str(directory), str(ports[kind])]
            processes.append(subprocess.Popen(command))
        for port in ports.values():
            until_open(port)
        yield ports
    finally:
        for each in processes:
            each.kill()
            each.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_open(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("a server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--serve", nargs=3, metavar=("KIND", "DIR", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, directory, port = options.serve
        asyncio.run(serving(kind, Path(directory), int(port)))
        return
    print(machine())
    authority = TestAuthority("example.org")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.umask(0o077)
        for who, spiffe_id in (("caller", CALLER), ("callee", CALLEE)):
            svid = authority.svid(spiffe_id, dns_names=["localhost"])
            write(directory, who, X509Context(svids=(svid,), bundles=(authority.bundle,)))
        with servers(directory) as ports:
            found = asyncio.run(compared(directory, ports, options.rounds, options.seconds))
    print(f"requests per second, library over static: {found}; wanted: {WANTED} or more")
    sys.exit(found.median < WANTED)


if __name__ == "__main__":
    main()
