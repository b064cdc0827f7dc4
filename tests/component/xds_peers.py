"""Both ends of ADS for tests: a shelf of snapshots on the server, a small proxy at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from grpclib.client import Channel

from vestibule.calls.ads import AdsCalls, AdsStream
from vestibule.net.caller import Caller, CallerKind, set_caller
from vestibule.net.grpc import Servable, Stream
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.client import Change, DeltaClient
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

    async def changed(self, since: int) -> int:
        while self.revision == since:
            await self._changed.wait()
        return self.revision

    def revoke(self, spiffe_id: SpiffeId) -> None:
        self.identities.discard(spiffe_id)
        self.revision += 1
        self._changed.set()


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
    """A proxy that wants everything, and refuses resources whose body contains ``bad``."""

    def __init__(self, stream: AdsStream, node_id: str = "self-styled") -> None:
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
        bad = [name for name, resource in change.resources.items() if b"bad" in resource.body]
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


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition, looking often."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
