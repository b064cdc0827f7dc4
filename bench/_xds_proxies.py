"""Simulated proxies behind relaying agents: the other end of ``xds_fanout.py``, in a process of its own.

python bench/_xds_proxies.py JSON         obeys one command per line of its stdin, answers each with a line of JSON

An agent is what runs in a real one: attested, one connection over mutual TLS, one stream for each of its proxies,
which are told everything and answer for themselves.  A proxy parses what it gets as Envoy's own messages, holds every
resource against its version, and only then takes it.  Nothing is kept on disk.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import _intents
import uvloop
from _server import ENTRY, Server, entry_for
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.agent.relay import Feed, Relay
from vestibule.agent.sidecars.leases import state_of
from vestibule.calls.ads import AdsCalls, AdsStream
from vestibule.calls.channel import ServerChannel
from vestibule.calls.mesh_api import NODE, MeshApi
from vestibule.calls.unix import unix_channel
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.records import Address, Instance, Lease
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2
from vestibule.xds.messages import DeltaRequest, DeltaResponse, Settled
from vestibule.xds.resources import (
    AGGREGATED_TYPES,
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    ProxyKey,
    Resource,
    Snapshot,
    short_hash,
)

PARSED: dict[str, type[Message]] = {
    CLUSTER: Cluster,
    ENDPOINTS: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTES: RouteConfiguration,
    EXTENSION: TypedExtensionConfig,
}
NUMBER = re.compile(re.escape(_intents.BANNED).encode() + rb"(\d+)")
AT_ONCE = 8
RENEW = 10.0
WITHIN = 80.0


class NothingKept:
    """``KeptSnapshots`` without a disk, which fifty agents of this machine would share."""

    def load(self, proxy: ProxyKey) -> Snapshot | None:
        return None

    def save(self, proxy: ProxyKey, snapshot: Snapshot) -> None: ...

    def forget(self, proxy: ProxyKey) -> None: ...

    def prune(self) -> None: ...


class Watched:
    """The upstream of an agent, noting when an answer about what changes has left."""

    def __init__(self, calls: AdsCalls, fleet: Fleet) -> None:
        self._calls = calls
        self._fleet = fleet

    @asynccontextmanager
    async def open(self, proxy: ProxyKey) -> AsyncIterator[WatchedStream]:
        async with self._calls.open(proxy) as stream:
            yield WatchedStream(stream, self._fleet, proxy)


@dataclass
class WatchedStream:
    stream: AdsStream
    fleet: Fleet
    proxy: ProxyKey

    async def send(self, request: DeltaRequest) -> None:
        await self.stream.send(request)
        self._note(request)

    def send_at_once(self, request: DeltaRequest) -> bool:
        if sent := self.stream.send_at_once(request):
            self._note(request)
        return sent

    def _note(self, request: DeltaRequest) -> None:
        if request.type_url == self.fleet.watched and request.nonce and request.error is None:
            # What is sent leaves in a moment, together with what others send.
            asyncio.get_running_loop().call_soon(self.fleet.answered, self.proxy)

    async def each(self, take: Callable[[DeltaResponse], bool]) -> DeltaResponse | None:
        return await self.stream.each(take)


class Proxy:
    """One proxy: takes everything that it could parse and that is what its version says."""

    def __init__(self, key: ProxyKey) -> None:
        self.key = key
        self.number = 0
        """The one that a commit changes, as this proxy has it."""
        self.versions: dict[str, dict[str, str]] = {}

    async def follow(self, feed: Feed) -> None:
        async for snapshot in feed.snapshots():
            for url in AGGREGATED_TYPES:
                if snapshot.knows(url):
                    self._take(url, snapshot)
                    feed.note(Settled(type_url=url, snapshot=snapshot, refused={}))

    def _take(self, url: str, snapshot: Snapshot) -> None:
        had = self.versions.get(url, {})
        resources = snapshot.of_type(url)
        self.versions[url] = {name: each.version for name, each in resources.items()}
        for name, each in resources.items():
            if had.get(name) != each.version and url in PARSED:
                self._verify(each)

    def _verify(self, resource: Resource) -> None:
        message = cast(Any, PARSED[resource.type_url].FromString(resource.body))
        named = message.cluster_name if resource.type_url == ENDPOINTS else message.name
        if named != resource.name:
            raise SystemExit(f"{resource.name} contains {named}")
        if resource.type_url != ENDPOINTS and short_hash(resource.body) != resource.version:
            raise SystemExit(f"{resource.name} is not of its version")
        if resource.type_url == ROUTES and resource.name == "egress":
            (hub,) = [each for each in message.virtual_hosts if each.name == "hub"]
            self.number = hub.routes[-1].route.timeout.seconds
        if resource.name == "policy/http" and (found := NUMBER.search(resource.body)):
            self.number = int(found[1])


class Agent:
    """One agent with its proxies."""

    def __init__(self, server: Server, fleet: Fleet, instances: list[Instance]) -> None:
        self.server = server
        self.fleet = fleet
        self.instances = instances
        self.channel: ServerChannel | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        agent_id = await self.server.join()
        self.instances = [replace(each, agent_id=agent_id) for each in self.instances]
        self.channel = ServerChannel(
            Address(host="127.0.0.1", port=self.server.port),
            bundle=lambda: self.server.bundle,
            svid=lambda: self.server.svid,
            clock=SystemClock(),
        )
        await self._entries(agent_id)

    async def _entries(self, agent_id: SpiffeId) -> None:
        entries = [entry_for(agent_id, each.spiffe_id.path, "uid:4000000") for each in self.instances]
        unique = {each.spiffe_id.path: each for each in entries}
        channel = unix_channel(self.server.socket)
        try:
            request = entry_pb2.BatchCreateEntryRequest(entries=unique.values())
            await Client(channel, ENTRY).unary("BatchCreateEntry", request, timeout=60)
        finally:
            channel.close()

    async def register(self) -> None:
        assert self.channel is not None
        api = MeshApi(Client(self.channel, NODE))
        for each in self.instances:
            await api.register(each, state_of(each))
        self.fleet.renewals.append(asyncio.create_task(self.renew()))

    async def renew(self) -> None:
        """As agents do, one question for all of their instances, spread over the time."""
        assert self.channel is not None
        api = MeshApi(Client(self.channel, NODE))
        instances = {each.id: each for each in self.instances}
        leases = [
            Lease(instance_id=each.id, spiffe_id=each.spiffe_id, state=state_of(each))
            for each in self.instances
        ]
        await asyncio.sleep(random.uniform(0, RENEW))
        while True:
            with suppress(VestibuleError):  # the next one comes soon enough
                _, refused = await api.renew(leases)
                self.fleet.lost += len(refused)
                for each in refused:
                    await api.register(instances[each], state_of(instances[each]))
            await asyncio.sleep(RENEW)

    def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self._run()),
        ]

    async def _run(self) -> None:
        assert self.channel is not None
        relay = Relay(
            Watched(AdsCalls(self.channel), self.fleet), cast(KeptSnapshots, NothingKept()), linger=0
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(relay.run())
            for each in self.instances:
                group.create_task(self._follow(relay, each))

    async def _follow(self, relay: Relay, instance: Instance) -> None:
        proxy = self.fleet.proxies[instance.id]
        async with relay.attach(proxy.key) as feed:
            await proxy.follow(feed)

    def cut(self) -> None:
        """The connection breaks, without a word."""
        assert self.channel is not None
        protocol = self.channel._protocol
        if protocol is not None:
            protocol.connection._transport.abort()

    async def stop(self) -> None:
        """The agent ends, and forgets all it had."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Fleet:
    """All agents and proxies of this process."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.watched = {"routes": ROUTES, "policy": EXTENSION}[given["change"]]
        server = Server(0, given["port"], Path(given["socket"]))
        intent = _intents.read(_intents.files(given["services"], hub=True, change=given["change"]))
        instances = [
            _intents.instance(intent, _intents.service_name(number % given["services"]), number)
            for number in range(given["first"], given["first"] + given["proxies"])
        ]
        each = given["per_agent"]
        self.agents = [
            Agent(replace(server), self, instances[start : start + each])
            for start in range(0, len(instances), each)
        ]
        self.proxies = {each.id: Proxy(ProxyKey(each.spiffe_id, each.id)) for each in instances}
        self.expected = 0
        self.times: dict[str, float] = {}
        self.done = asyncio.Event()
        self.lost = 0
        self.renewals: list[asyncio.Task[None]] = []

    def answered(self, key: ProxyKey) -> None:
        if self.proxies[key.instance_id].number == self.expected:
            self.times.setdefault(key.instance_id, time.time())
            if len(self.times) == len(self.proxies):
                self.done.set()

    def expect(self, number: int) -> None:
        self.expected = number
        self.times.clear()
        self.done.clear()

    async def each(self, what: str) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(agent: Agent) -> None:
            async with slots:
                await getattr(agent, what)()

        await asyncio.gather(*(one(agent) for agent in self.agents))

    async def obey(self, command: str, argument: int) -> Any:
        match command:
            case "join":
                await self.each("join")
                await self.each("register")
            case "connect":
                for agent in self.agents:
                    agent.start()
            case "expect":
                self.expect(argument)
            case "wait":
                try:
                    async with asyncio.timeout(WITHIN):
                        await self.done.wait()
                except TimeoutError:
                    return {"late": len(self.proxies) - len(self.times), "lost": self.lost}
                return {"times": list(self.times.values())}
            case "cut":
                for agent in self.agents:
                    agent.cut()
            case "stop":
                await self.each("stop")
                for proxy in self.proxies.values():
                    proxy.versions, proxy.number = {}, 0
        return {}


async def main(given: dict[str, Any]) -> None:
    fleet = Fleet(given)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, _, argument = line.strip().partition(" ")
        print(json.dumps(await fleet.obey(command, int(argument or 0))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
