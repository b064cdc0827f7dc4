"""A mesh for tests of traffic: web, who calls; three instances of payments in two versions and regions; audit."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from tests.e2e.mesh_lab import (
    App,
    Echo,
    Lab,
    Proxy,
    Reply,
    free_address,
    intent_of,
    rule,
    service,
    until,
    wire,
)

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.envoy import access_log
from vestibule.envoy import compile as compiling
from vestibule.intent.model import Intent
from vestibule.intent.traffic import Route, RouteMatch, Share, Traffic, ValueMatch
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.observe.access_record import AccessRecord
from vestibule.policy import PathPattern
from vestibule.records import Address, Health, Instance
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

NODE: Final = node_pb2.DESCRIPTOR.services_by_name["Node"]
INSTANCES: Final = {
    "payments-1": ("v1", "eu/a"),
    "payments-2": ("v2", "eu/b"),
    "payments-3": ("v1", "us/a"),
}


def route(name: str = "payments/route", path: str | None = None, **more: Any) -> Route:
    """``route(path="/v1/**", split={"v1": 90, "v2": 10})``; parts of the match as keywords, too."""
    parts = {each: more.pop(each) for each in ("methods", "headers", "query") if each in more}
    match = RouteMatch(path=PathPattern.parse(path) if path else None, **parts)
    shares = tuple(Share(version=each, weight=weight) for each, weight in more.pop("split", {}).items())
    return Route(name=name, match=match, split=shares, **more)


def has(name: str, **more: Any) -> ValueMatch:
    return ValueMatch(name=name, **more)


class Ledger:
    """The app of ledger: answers gRPC as late as it is told to."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.asked = 0
        self.fails = 0
        self.address = free_address()
        self._server = GrpcServer([serve(NODE, self)])

    async def start(self) -> None:
        await self._server.listen(socket.create_server((self.address.host, self.address.port)))

    async def stop(self) -> None:
        await self._server.close()

    async def describe_service(self, stream: Stream) -> None:
        request = await stream.recv_message()
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise GRPCError(Status.UNAVAILABLE, "not yet")
        await asyncio.sleep(self.delay)
        view = node_pb2.ServiceView(service=request.spiffe_id)
        await stream.send_message(node_pb2.DescribeServiceResponse(service=view))


@dataclass
class Mesh:
    """The running mesh.  Each test says first what holds for payments, with ``use``."""

    lab: Lab
    apps: dict[str, App]
    ledger: Ledger
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    read: dict[str, int] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(2))

    @property
    def web(self) -> Proxy:
        return self.lab.proxies["web-1"]

    @property
    def egress(self) -> Address | None:
        return self.web.instance.egress

    def intent(self, of: str = "payments", **traffic: Any) -> Intent:
        """What payments says of traffic, or ledger, and nothing else about it."""
        if of == "payments":
            traffic = {"versions": ("v1", "v2"), **traffic}
        known = self.lab.world.intent.services
        said = replace(known[of], traffic=Traffic(**traffic))
        others = [each for each in known.values() if each.name != of]
        return intent_of(said, *others, version=f"v{next(self._numbers)}")

    async def use(self, *routes: Route, of: str = "payments", **traffic: Any) -> None:
        """Everybody has it, and the apps are as new."""
        for app in self.apps.values():
            app.delay, app.status = 0.0, lambda _: 200
        for proxy in self.lab.proxies.values():
            proxy.refused.clear()
        await self.be_so()
        await self.lab.change(self.intent(of, routes=routes, **traffic))
        await self.lab.settle()
        for app in self.apps.values():
            app.seen.clear()
        self.since = datetime.now(UTC)
        self.read = {name: len(proxy.requests) for name, proxy in self.lab.proxies.items()}

    async def be_so(self, **changes: dict[str, Any]) -> None:
        """The instances as they were at first, but for changes: ``payments_1={"health": …}``."""
        self.lab.world = replace(
            self.lab.world,
            instances=tuple(_as_it_was(each, changes) for each in self.lab.world.instances),
        )
        if changes:
            # The version is what proxies confirm.
            await self.lab.change(replace(self.lab.world.intent, version=f"v{next(self._numbers)}"))
            await self.lab.settle()

    async def ask(self, times: int = 1, target: str = "/", **headers: str) -> list[Reply]:
        """One request after the other, by web."""
        async with wire(self.egress) as web:
            return [await web.ask("GET", target, **headers) for _ in range(times)]

    async def ask_at_once(self, times: int, target: str = "/") -> list[Reply]:
        """As many requests side by side."""
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self.ask(1, target)) for _ in range(times)]
        return [reply for each in asked for reply in each.result()]

    async def logged(
        self, proxy: Proxy, wanted: Callable[[AccessRecord], bool] = lambda _: True, least: int = 1
    ) -> list[AccessRecord]:
        """What a proxy has logged since ``use``, as the product keeps it, as soon as there is so much."""

        def found() -> list[AccessRecord]:
            records = [_record(name, entry) for name, entry in proxy.requests[self.read[proxy.instance.id] :]]
            return [each for each in records if each.time >= self.since and wanted(each)]

        await until(lambda: len(found()) >= least, "the access log")
        return found()

    def served(self) -> Counter[str]:
        """How many requests each instance has seen."""
        return Counter({name: len(app.seen) for name, app in self.apps.items() if app.seen})


def _as_it_was(instance: Instance, changes: dict[str, dict[str, Any]]) -> Instance:
    return replace(instance, **{"health": Health.UNKNOWN, **changes.get(instance.id.replace("-", "_"), {})})


def _record(name: str, entry: Any) -> AccessRecord:
    reporter = Reporter("somebody", "spiffe://example.org/somebody", "somebody-1")
    return AccessRecord.from_json(EntryLines(LogName.parse(name), reporter).http(entry).text)


def statuses(replies: Sequence[Reply]) -> Counter[int]:
    return Counter(each.status for each in replies)


@asynccontextmanager
async def traffic_mesh() -> AsyncIterator[Mesh]:
    payments = service("payments", rule("payments/all", "web", "spiffe://example.org/clients/**"))
    audit = service("audit", rule("audit/all", "web"))
    ledger = service("ledger", rule("ledger/all", "web"), api="grpc", raw="tcp")
    apps: dict[str, App] = {}
    with pytest.MonkeyPatch.context() as patch:
        # Tests ask often, and want every answer logged.
        patch.setattr(access_log, "SERVED_BURST", 1_000_000)
        patch.setattr(access_log, "FAILED_BURST", 1_000_000)
        patch.setattr(compiling, "_LIMITS", tuple(access_log.limits()))
        async with Lab(intent_of(service("web"), payments, audit, ledger)) as lab:
            for name, (version, locality) in {**INSTANCES, "audit-1": ("v1", "")}.items():
                app = apps[name] = App(name)
                await app.start()
                lab.also(app.stop)
                await lab.add(
                    name.partition("-")[0],
                    instance_id=name,
                    apps={"http": app.address},
                    version=version,
                    locality=locality,
                )
            rpc, echo = Ledger(), Echo("ledger")
            for each in (rpc, echo):
                await each.start()
                lab.also(each.stop)
            await lab.add("ledger", apps={"api": rpc.address, "raw": echo.address})
            upstreams = {"ledger/api": free_address(), "ledger/raw": free_address()}
            await lab.add("web", locality="eu/a", upstreams=upstreams)
            await lab.ready()
            yield Mesh(lab, apps, rpc)
