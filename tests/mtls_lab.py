"""A mutual-TLS server in a thread of its own, and sources that rotate and are revoked when a test says so."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vestibule.sdk import ConnectionBook, X509Context, authorize_member_of, connection_of, server_context
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.sdk.threads import LoopThread
from vestibule.spiffe import Revocations, SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.spiffe.revocations import Revocation, RevokedIdentity
from vestibule.testing import FakeClock, TestAuthority

ORDERS = SpiffeId.parse("spiffe://example.org/ns/test/sa/orders")
PAYMENTS = SpiffeId.parse("spiffe://example.org/ns/test/sa/payments")
PATIENCE = 60.0


def eventually(holds: Callable[[], bool]) -> None:
    """Wait, for as long as it takes on a slow machine, until something holds; blocks."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


async def in_time(holds: Callable[[], bool]) -> None:
    """The same, for coroutines."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


async def quiet() -> None:
    """Let what was closed or cancelled end: asyncio closes sockets in the loop's next turns."""
    for _ in range(20):
        await asyncio.sleep(0)


class Held:
    """A source without a Workload API, whose book runs in a thread; its clock is moved by ``pass_time``."""

    def __init__(self, authority: TestAuthority, spiffe_id: SpiffeId, *bundles: TrustBundle) -> None:
        self.authority = authority
        self.spiffe_id = spiffe_id
        self.bundles = bundles or (authority.bundle,)
        self.context_now: X509Context | None = None
        self.revocations = Revocations()
        self.clock = FakeClock(datetime.now(UTC))
        self.connections = ConnectionBook(self, clock=self.clock)
        self.thread: LoopThread | None = None
        self.rotate()

    @property
    def context(self) -> X509Context:
        if self.context_now is None:
            raise NO_SVID.error("nothing is held")
        return self.context_now

    @property
    def svid(self) -> X509Svid:
        return self.context.svids[0]

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        for each in self.context.bundles:
            if each.trust_domain == TrustDomain.parse(str(trust_domain)):
                return each
        raise NO_BUNDLE.error(f"no bundle of {trust_domain}")

    def rotate(self) -> None:
        self.context_now = X509Context(svids=(self.authority.svid(self.spiffe_id),), bundles=self.bundles)
        self.connections.changed()

    def withdraw(self) -> None:
        self.context_now = None
        self.connections.changed()

    def revoke(self, spiffe_id: SpiffeId) -> None:
        entry = Revocation(target=RevokedIdentity(spiffe_id=spiffe_id), at=datetime.now(UTC), version=1)
        self.revocations = Revocations(version=1, entries=(entry,))
        self.connections.changed()

    def pass_time(self, by: timedelta = timedelta(minutes=31)) -> None:
        """By default so much that the connections there are now are to be retired, and none is cut.

        Then the time is set back, since handshakes go by the machine's.
        """

        async def advance() -> None:
            there = list(self.connections._open)
            self.clock.set(datetime.now(UTC) + by)
            async with asyncio.timeout(PATIENCE):
                while not all(each.retired or each.over for each in there):
                    await asyncio.sleep(0)
            self.clock.set(datetime.now(UTC))

        assert self.thread is not None, "only while it is held"
        self.thread.wait(advance())


@contextmanager
def held(source: Held) -> Iterator[Held]:
    """Run the book."""
    thread = source.thread = LoopThread("held")
    thread.start()
    running = thread.begin(source.connections.run())
    try:
        yield source
    finally:
        running.cancel()
        thread.wait(_over())
        thread.stop()


async def _over() -> None:
    """Let what was cancelled end."""
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass
class Asked:
    """A request that the server has read."""

    connection: int
    method: str
    path: str
    body: bytes


@dataclass
class MtlsServer:
    """HTTP/1.1 with mutual TLS.  The path says what becomes of a request; most are answered with what is known.

    ``/stall`` is never answered, ``/garbage`` with what is no HTTP, ``/drop`` by the end of the connection (once, as
    long as ``drops`` is not used up), ``/slow`` in two parts, the second when ``go_on`` is set.
    """

    context: ssl.SSLContext | None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    open: dict[int, asyncio.StreamWriter] = field(default_factory=dict)
    drops: int = 1
    made: int = 0
    idle_close: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    thread: LoopThread = field(default_factory=lambda: LoopThread("mtls-server"))
    refusals: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def close_connections(self) -> None:
        """As a server does that finds them idle for too long."""

        async def close() -> None:
            for writer in list(self.open.values()):
                writer.close()

        self.thread.wait(close())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        number = self.made
        self.open[number] = writer
        try:
            while await self._one(number, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError) as error:
            self.refusals.append(str(error))
        finally:
            del self.open[number]
            writer.close()

    async def _one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(number, method, path, body))
        match path.partition("?")[0]:
            case "/stall":
                await reader.read()
                return False
            case "/garbage":
                writer.write(b"\x16\x03\x01 nothing that anybody understands\r\n\r\n")
                await writer.drain()
                return False
            case "/drop" if self.drops:
                self.drops -= 1
                return False
        tls = writer.get_extra_info("ssl_object")
        known = {"connection": number, "caller": str(connection_of(tls).peer) if self.context else "anybody"}
        answer = json.dumps(known).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer))
        if path == "/slow":
            writer.write(answer[:3])
            await writer.drain()
            await asyncio.to_thread(self.go_on.wait, PATIENCE)
            answer = answer[3:]
        writer.write(answer)
        await writer.drain()
        return not self.idle_close


def _attached(listening: asyncio.Server) -> int:
    """How many connections a server has still; Python tells it by name from 3.13 on."""
    clients = getattr(listening, "_clients", None)
    return len(clients) if clients is not None else int(getattr(listening, "_active_count", 0))


async def stop_accepting(listening: asyncio.Server) -> None:
    """Before ``close``: a connection that was accepted and is not attached yet would be lost, open, by Python 3.11.

    (https://github.com/python/cpython/issues/109564)
    """
    for each in listening.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())
    await asyncio.sleep(0)


@contextmanager
def serving(server: MtlsServer, tls: ssl.SSLContext | None = None) -> Iterator[MtlsServer]:
    """Listen, with the server's own context or another one, until the block ends."""
    server.thread.start()

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls or server.context)

    async def end() -> None:
        await stop_accepting(listening)
        listening.close()
        server.go_on.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for writer in list(server.open.values()):
            writer.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*others, return_exceptions=True)
        # Connections that never came past their handshake close behind the scenes.
        await in_time(lambda: not _attached(listening))
        await asyncio.sleep(0)

    listening = server.thread.wait(begin())
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.thread.wait(end())
        server.thread.stop()


@contextmanager
def payments_server(source: Held, authorize: Authorizer | None = None) -> Iterator[MtlsServer]:
    """A server that shows what ``source`` holds, to whom it wants."""
    wanted = authorize or authorize_member_of("example.org")
    with serving(MtlsServer(server_context(source, wanted))) as server:
        yield server


@contextmanager
def a_web_server(directory: Path) -> Iterator[tuple[MtlsServer, ssl.SSLContext]]:
    """A server that knows nothing of SPIFFE, at localhost, and the context with which the world knows it.

    The certificate is in ``web.pem``.
    """
    own, context = _public_authority(directory)
    with serving(MtlsServer(None), own) as server:
        yield server, context


def _public_authority(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for the name localhost, and one of a client that believes it, both as on the web."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = directory / "web.pem"
    file.write_bytes(pem + private)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    return serving, ssl.create_default_context(cadata=pem.decode())
