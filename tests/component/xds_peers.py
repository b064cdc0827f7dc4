"""Both ends of ADS for tests: a shelf of snapshots on the server, a small proxy at the other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grpclib.client import Channel
from tests.unit.xds.conversation import TYPES

from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.agent.relay import Relay
from vestibule.calls.ads import AdsCalls, AdsStream
from vestibule.calls.unix import unix_channel
from vestibule.clock import SystemClock
from vestibule.doors.ads import AgentAdsDoor, ServerAdsDoor
from vestibule.keys import Sealer
from vestibule.net.caller import Caller, CallerKind, set_caller
from vestibule.net.grpc import Servable, Stream
from vestibule.net.grpc_server import GrpcServer
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.client import Change, DeltaClient
from vestibule.xds.ledger import Ledger, Row
from vestibule.xds.ledger import Status as Sync
from vestibule.xds.messages import DeltaRequest
from vestibule.xds.resources import (
    AGGREGATED_TYPES,
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    ProxyKey,
    Snapshot,
)

AGENT: Final = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/one")
WEB: Final = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
PROXY: Final = ProxyKey(WEB, "web-1")
CLOCK: Final = SystemClock()


class Shelf:
    """A ``SnapshotSource`` that gives out what was put on it."""

    def __init__(self) -> None:
        self._snapshots: dict[ProxyKey, Snapshot] = {}
        self._changed: dict[ProxyKey, asyncio.Event] = {}

    def put(self, snapshot: Snapshot, proxy: ProxyKey = PROXY) -> None:
        self._snapshots[proxy] = snapshot
        self._changed.pop(proxy, asyncio.Event()).set()

    async def watch(self, proxy: ProxyKey) -> AsyncIterator[Snapshot]:
        last: Snapshot | None = None
        while True:
            changed = self._changed.setdefault(proxy, asyncio.Event())
            snapshot = self._snapshots.get(proxy)
            if snapshot is not None and snapshot is not last:
                last = snapshot
                yield snapshot
            else:
                await changed.wait()


class Register:
    """Who may have which identity, and whose an instance is."""

    def __init__(self) -> None:
        self.identities = {WEB}
        self.instances: dict[str, Instance] = {}
        self.revision = 0
        self._changed = asyncio.Event()

    def is_entitled(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> bool:
        return agent_id == AGENT and spiffe_id in self.identities

    def is_given(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self.identities

    async def changed(self, since: int) -> int:
        while self.revision == since:
            await self._changed.wait()
        return self.revision

    def revoke(self, spiffe_id: SpiffeId) -> None:
        self.identities.discard(spiffe_id)
        self.revision += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def as_agent(service: Servable, agent: SpiffeId = AGENT) -> Servable:
    """The service with every caller authenticated as this agent, as the server's access check would."""

    def known(function: Callable[[Stream], Awaitable[None]]) -> Callable[[Stream], Awaitable[None]]:
        async def answer(stream: Stream) -> None:
            set_caller(Caller(kind=CallerKind.AGENT, address="test", spiffe_id=agent))
            await function(stream)

        return answer

    mapping = service.__mapping__()
    return Servable({path: handler._replace(func=known(handler.func)) for path, handler in mapping.items()})


class SmallProxy:
    """A proxy that wants everything, and refuses resources whose body contains ``bad``, while it is that choosy."""

    def __init__(self, stream: AdsStream, node_id: str = "self-styled") -> None:
        self.is_choosy = True
        self._stream = stream
        self._client = DeltaClient(AGGREGATED_TYPES, node_id=node_id)
        self.has: dict[str, dict[str, str]] = {url: {} for url in AGGREGATED_TYPES}
        self.versions: dict[str, dict[str, str]] = {url: {} for url in AGGREGATED_TYPES}
        self.changes: list[Change] = []

    @property
    def is_complete(self) -> bool:
        """Whether it has resources of every type that a usual proxy has."""
        return all(self.has[url] for url in (CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION))

    async def run(self) -> None:
        for request in self._client.opening(self.versions):
            await self._stream.send(request)
        while (response := await self._stream.receive()) is not None:
            change = self._client.read(response)
            self.changes.append(change)
            await self._stream.send(self._judge(change))

    def _judge(self, change: Change) -> DeltaRequest:
        bad = [
            name for name, resource in change.resources.items() if self.is_choosy and b"bad" in resource.body
        ]
        if bad:
            return self._client.refuse(change.type_url, change.nonce, f"unknown field in {bad[0]}")
        for name, resource in change.resources.items():
            self.has[change.type_url][name] = resource.body.decode()
            self.versions[change.type_url][name] = resource.version
        for name in change.removed:
            self.has[change.type_url].pop(name, None)
            self.versions[change.type_url].pop(name, None)
        return self._client.accept(change.type_url, change.nonce)


@asynccontextmanager
async def small_proxy(
    channel: Channel, key: ProxyKey = PROXY, versions: dict[str, dict[str, str]] | None = None
) -> AsyncIterator[SmallProxy]:
    """A connected proxy; its failure, if any, is raised at the end of the block."""
    async with AdsCalls(channel).open(key) as stream:
        proxy = SmallProxy(stream)
        if versions is not None:
            proxy.versions = {url: dict(of_type) for url, of_type in versions.items()}
        running = asyncio.create_task(proxy.run())
        try:
            yield proxy
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@dataclass
class Server:
    """The server's side of ADS, which may be stopped and started on the same port."""

    shelf: Shelf = field(default_factory=Shelf)
    register: Register = field(default_factory=Register)
    ledger: Ledger = field(default_factory=Ledger)
    port: int = 0
    grpc: GrpcServer | None = None

    async def start(self) -> None:
        door = ServerAdsDoor(self.shelf, self.register, self.register.instances.get, self.ledger, CLOCK)
        self.grpc = GrpcServer([as_agent(each) for each in door.servables()])
        sock = socket.create_server(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        await self.grpc.listen(sock)

    async def stop(self) -> None:
        if self.grpc is not None:
            await self.grpc.close()
            self.grpc = None

    def row(self, short: str, proxy: ProxyKey = PROXY) -> Row:
        rows = [r for r in self.ledger.rows() if r.type_url == TYPES[short] and r.proxy == proxy]
        return rows[0] if rows else Row(proxy=proxy, type_url=TYPES[short], updated_at=CLOCK.now())

    def is_synced(self, proxy: ProxyKey, type_url: str) -> bool:
        state = self.ledger.state(proxy)
        rows = state.rows if state is not None else ()
        return any(row.type_url == type_url and row.status is Sync.SYNCED for row in rows)

    def version(self) -> str | None:
        states = self.ledger.proxies()
        return states[-1].version if states else None


@dataclass
class Agent:
    """The agent's side: a relay and its door on a Unix socket."""

    directory: Path
    upstream: Channel
    relay: Relay
    grpc: GrpcServer
    running: asyncio.Task[None]
    channels: list[Channel] = field(default_factory=list)

    def channel(self) -> Channel:
        self.channels.append(unix_channel(self.directory / "agent.sock"))
        return self.channels[-1]

    async def stop(self) -> None:
        for channel in self.channels:
            channel.close()
        await self.grpc.close()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.upstream.close()


async def start_agent(directory: Path, port: int) -> Agent:
    upstream = Channel("127.0.0.1", port)
    relay = Relay(AdsCalls(upstream), KeptSnapshots(directory / "kept", Sealer(b"k" * 32)), linger=0.2)
    running = asyncio.create_task(relay.run())
    door = AgentAdsDoor(lambda _stream: PROXY, relay, Ledger(), CLOCK)
    grpc = GrpcServer(door.servables())
    path = directory / "agent.sock"
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    await grpc.listen(sock)
    return Agent(directory, upstream, relay, grpc, running)


@asynccontextmanager
async def agent_of(directory: Path, server: Server) -> AsyncIterator[Agent]:
    agent = await start_agent(directory, server.port)
    try:
        yield agent
    finally:
        await agent.stop()


async def until(condition: Callable[[], object], seconds: float = 45.0) -> None:
    """Wait for a condition, looking often."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
