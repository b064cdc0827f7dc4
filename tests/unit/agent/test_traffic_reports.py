"""What an agent hands on of its proxies' counters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from vestibule.agent import traffic_reports
from vestibule.agent.traffic_reports import Line, TrafficReporting
from vestibule.net.codes import UNREACHABLE
from vestibule.records import ProxyTraffic, Requests
from vestibule.spiffe import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


def counted(requests: int) -> ProxyTraffic:
    return ProxyTraffic(inbound=Requests(requests=requests))


@dataclass(eq=False)
class Session:
    instance_id: str
    traffic: ProxyTraffic | None
    spiffe_id: SpiffeId | None = WEB
    registered: bool = True


@dataclass
class Sidecars:
    sessions: list[Session] = field(default_factory=list)
    counted: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    def __init__(self) -> None:
        self.heard: list[list[Line]] = []
        self.away = False

    async def report(self, proxies: Iterable[Line]) -> None:
        if self.away:
            raise UNREACHABLE.error("away")
        self.heard.append(list(proxies))


async def test_only_what_is_new_is_told_and_again_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_reports, "EVERY", 0)
    server, sidecars = Server(), Sidecars()
    web = Session("web-1", counted(1))
    sidecars.sessions = [web, Session("web-2", None), Session("web-3", counted(9), registered=False)]
    running = asyncio.create_task(TrafficReporting(sidecars, server).run())  # type: ignore[arg-type]

    async def news() -> None:
        sidecars.counted.set()
        for _ in range(10):
            await asyncio.sleep(0)

    try:
        await news()
        assert server.heard == [[(WEB, "web-1", counted(1))]]
        await news()
        assert len(server.heard) == 1
        server.away = True
        web.traffic = counted(2)
        await news()
        server.away = False
        await news()
        assert server.heard[1:] == [[(WEB, "web-1", counted(2))]]
    finally:
        running.cancel()
