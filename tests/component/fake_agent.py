"""An agent for sidecars: their stream, and a delta ADS that gives their Envoys plain listeners.

It speaks the real protocols on a real Unix socket; only what stands behind an agent is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - a type inside Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.service.discovery.v3 import ads_pb2, discovery_pb2
from google.protobuf import any_pb2, json_format

from vestibule.errors import VestibuleError
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.peer import peer_of
from vestibule.net.unix import PUBLIC, UnixListener, listen_unix
from vestibule.records import Address
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
SPIFFE_ID = "spiffe://example.org/ns/test/sa/{}"


def view(
    service: str, *, ports: tuple[str, ...] = ("http",), upstreams: tuple[str, ...] = ()
) -> wire.ServiceView:
    return wire.ServiceView(
        service=service,
        spiffe_id=SPIFFE_ID.format(service),
        ports=[wire.ServiceView.Port(name=name, protocol="http") for name in ports],
        upstreams=[
            wire.ServiceView.Upstream(name=name, service=name, port="http", protocol="http")
            for name in upstreams
        ],
        intent_version="v",
        mesh="shop",
        environment="test",
    )


@dataclass(eq=False)
class FakeAgent:
    """Records what sidecars say; ``refuse`` makes it refuse every Hello."""

    path: Path
    described: wire.ServiceView
    refuse: VestibuleError | None = None
    hellos: list[wire.AttachRequest.Hello] = field(default_factory=list)
    vouched: dict[int, str] = field(default_factory=dict)
    withdrawn: list[int] = field(default_factory=list)
    registrations: list[wire.Instance] = field(default_factory=list)
    deregistered: int = 0
    envoys: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    _streams: set[Stream] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _listener: UnixListener | None = None
    _server: GrpcServer | None = None

    async def start(self) -> None:
        self._listener = listen_unix(self.path, PUBLIC)
        sidecar = wire.DESCRIPTOR.services_by_name["Sidecar"]
        ads = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"]
        self._server = GrpcServer([serve(sidecar, self), serve(ads, self)])
        await self._server.listen(self._listener.sock)

    async def stop(self) -> None:
        if self._server is not None and self._listener is not None:
            await self._server.drain(0.1)
            await self._server.close()
            self._listener.close()
        self._server = None

    @property
    def instance(self) -> wire.Instance | None:
        return self.registrations[-1] if self.registrations else None

    @property
    def reachable(self) -> bool:
        return self.instance is not None and bool(self.instance.ingress)

    async def describe(self, described: wire.ServiceView) -> None:
        self.described = described
        for stream in self._streams:
            await stream.send_message(wire.AttachResponse(service=described))

    async def attach(self, stream: Stream) -> None:
        message = await stream.recv_message()
        self.hellos.append(message.hello)
        if self.refuse is not None:
            raise self.refuse
        welcome = wire.AttachResponse.Welcome(spiffe_id=self.described.spiffe_id, trust_domain="example.org")
        await stream.send_message(wire.AttachResponse(welcome=welcome))
        await stream.send_message(wire.AttachResponse(service=self.described))
        self._streams.add(stream)
        try:
            while (message := await stream.recv_message()) is not None:
                await self._step(stream, message)
        finally:
            self._streams.discard(stream)

    async def _step(self, stream: Stream, message: wire.AttachRequest) -> None:
        what = message.WhichOneof("step") or ""
        self.steps.append(what)
        match what:
            case "vouch":
                self.vouched[message.vouch.pid] = message.vouch.role
            case "withdraw":
                self.vouched.pop(message.withdraw.pid, None)
                self.withdrawn.append(message.withdraw.pid)
            case "register":
                self.registrations.append(message.register.instance)
            case "deregister":
                self.deregistered += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        await stream.send_message(wire.AttachResponse(done=wire.AttachResponse.Done(what=what)))

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        """Clusters and listeners of the last registered instance, sent anew whenever that changes."""
        peer = peer_of(stream)
        if self.vouched.get(peer.pid) != "envoy":
            raise PermissionError(f"process {peer.pid} was not vouched for as an Envoy")
        self.envoys.append(peer.pid)
        types: set[str] = set()
        receiving = asyncio.create_task(self._subscriptions(stream, types))
        sent: dict[str, set[str]] = {}
        number = 0
        try:
            while not receiving.done():
                changed = self._changed
                for type_url, resources in (self._resources() if self.instance is not None else {}).items():
                    if type_url not in types:
                        continue
                    number += 1
                    response = discovery_pb2.DeltaDiscoveryResponse(
                        type_url=type_url,
                        nonce=str(number),
                        resources=resources,
                        removed_resources=sent.get(type_url, set()) - {one.name for one in resources},
                    )
                    sent[type_url] = {one.name for one in resources}
                    await stream.send_message(response)
                await asyncio.wait(
                    {receiving, waiting := asyncio.ensure_future(changed.wait())},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting.cancel()
        finally:
            receiving.cancel()

    async def _subscriptions(self, stream: Stream, types: set[str]) -> None:
        while (request := await stream.recv_message()) is not None:
            if request.type_url not in types:
                types.add(request.type_url)
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()

    def _resources(self) -> dict[str, list[discovery_pb2.Resource]]:
        assert self.instance is not None
        clusters, listeners = [], []
        for name, text in self.instance.apps.items():
            endpoint = {"endpoint": {"address": _address(text)}}
            clusters.append(
                _resource(cluster_pb2.Cluster(), {
                    "name": f"app-{name}", "type": "STATIC", "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": f"app-{name}", "endpoints": [{"lb_endpoints": [endpoint]}]},
                })
            )  # fmt: skip
        for name, text in self.instance.ingress.items():
            listeners.append(_http(f"in-{name}", text, {"route": {"cluster": f"app-{name}"}}, "INBOUND"))
        ways_out = {"egress": self.instance.egress, **self.instance.upstreams}
        for name, text in ways_out.items():
            if text:
                answer = {"direct_response": {"status": 200, "body": {"inline_string": f"out {name}\n"}}}
                listeners.append(_http(f"out-{name}", text, answer, "OUTBOUND"))
        return {CLUSTER: clusters, LISTENER: listeners}


def _http(name: str, text: str, action: dict[str, Any], direction: str) -> discovery_pb2.Resource:
    router = {
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
            ]
        },
        "http_filters": [router],
    }
    document = {
        "name": name,
        "address": _address(text, mode=0o600),
        "traffic_direction": direction,
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return _resource(listener_pb2.Listener(), document)


def _address(text: str, mode: int = 0) -> dict[str, Any]:
    address = Address.parse(text)
    if address.path:
        return {"pipe": {"path": address.path, **({"mode": mode} if mode else {})}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _resource(message: Any, document: dict[str, Any]) -> discovery_pb2.Resource:
    json_format.ParseDict(document, message)
    body = any_pb2.Any()
    body.Pack(message, deterministic=True)
    return discovery_pb2.Resource(name=document["name"], version=str(hash(body.value)), resource=body)


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 90.0) -> None:
    """Poll a condition with a deadline."""
    async with asyncio.timeout(within):
        while True:
            answer = condition()
            if (await answer) if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.01)
