"""What sidecars say that their proxies counted, on its way to the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

from vestibule.agent.sidecars import Sidecars
from vestibule.errors import VestibuleError
from vestibule.records import ProxyTraffic
from vestibule.spiffe import SpiffeId

EVERY: Final = 1.0
"""Seconds between two reports, at least; sidecars speak up every two."""
MOST: Final = 1000
"""Proxies in one report."""

_log = logging.getLogger(__name__)

Line = tuple[SpiffeId, str, ProxyTraffic]


class Upstream(Protocol):
    """The server (``calls.traffic_reports``)."""

    async def report(self, proxies: Iterable[Line]) -> None:
        """Raises: VST2300 while it is away."""
        ...


class TrafficReporting:
    """Tells the server what is new.  Nothing is kept for later: counters only grow, so the next report says it all."""

    def __init__(self, sidecars: Sidecars, upstream: Upstream) -> None:
        self._sidecars = sidecars
        self._upstream = upstream
        self._told: dict[str, ProxyTraffic] = {}
        self._silent = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._sidecars.counted.wait()
            self._sidecars.counted.clear()
            await self._report()
            await asyncio.sleep(EVERY)

    async def _report(self) -> None:
        now: dict[str, ProxyTraffic] = {}
        lines: list[Line] = []
        for session in self._sidecars.sessions:
            if session.spiffe_id is None or session.traffic is None or not session.registered:
                continue
            now[session.instance_id] = session.traffic
            if self._told.get(session.instance_id) != session.traffic:
                lines.append((session.spiffe_id, session.instance_id, session.traffic))
        try:
            for first in range(0, len(lines), MOST):
                await self._upstream.report(lines[first : first + MOST])
        except VestibuleError as error:
            log = _log.debug if self._silent else _log.info
            log("the server is not told of traffic: %s", error)
            self._silent = True
        else:
            self._told, self._silent = now, False
