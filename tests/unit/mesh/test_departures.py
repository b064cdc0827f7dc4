"""An instance that stops goes once all who call it have confirmed that they leave it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from vestibule.envoy import clusters
from vestibule.envoy.localities import places
from vestibule.mesh.departures import Departures
from vestibule.records import Address, Health, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.ledger import ProxyState
from vestibule.xds.messages import Settled
from vestibule.xds.resources import ENDPOINTS, ProxyKey, Snapshot

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
LEAVING = Instance(
    id="p-1",
    service="payments",
    spiffe_id=WEB,
    agent_id=WEB,
    ingress={"http": Address.parse("127.0.0.1:7001")},
)
OTHER = replace(LEAVING, id="p-2", ingress={"http": Address.parse("127.0.0.1:7002")})


def snapshot(*instances: Instance, of: str = "payments/http") -> Snapshot:
    return Snapshot.of("v1", [clusters.endpoints(of, places(instances, "http", None, "", versions=False))])


def caller(number: int) -> ProxyKey:
    return ProxyKey(WEB, f"web-{number}")


@dataclass
class Room:
    connected: set[ProxyKey] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.departures = Departures(self.state, lambda name: None if name in self.stopped else LEAVING)

    def state(self, proxy: ProxyKey) -> ProxyState | None:
        now = datetime.now(UTC)
        return ProxyState(proxy=proxy, connected=proxy in self.connected, since=now, rows=())

    def has(self, proxy: ProxyKey, what: Snapshot) -> None:
        self.connected.add(proxy)
        self.departures.heard(proxy, Settled(type_url=ENDPOINTS, snapshot=what, refused={}))


async def test_nobody_is_waited_for_who_does_not_call_it() -> None:
    room = Room()
    room.has(caller(1), snapshot(OTHER))
    room.has(caller(2), snapshot(LEAVING, of="payments-batch/http"))
    assert await room.departures.left(LEAVING, 5) == 0


async def test_it_has_left_when_the_last_caller_has_confirmed_it() -> None:
    room = Room()
    for number in (1, 2):
        room.has(caller(number), snapshot(LEAVING, OTHER))
    leaving = asyncio.create_task(room.departures.left(LEAVING, 30))
    room.has(caller(1), snapshot(replace(LEAVING, health=Health.DRAINING), OTHER))
    await asyncio.sleep(0.01)
    assert not leaving.done()
    room.has(caller(2), snapshot(OTHER))
    assert await leaving == 0


async def test_who_does_not_confirm_is_counted_and_not_waited_for_for_ever() -> None:
    room = Room()
    room.has(caller(1), snapshot(LEAVING))
    assert await room.departures.left(LEAVING, 0.01) == 1
    room.stopped.add("web-1")
    assert await room.departures.left(LEAVING, 0.01) == 0
