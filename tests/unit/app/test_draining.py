"""An instance that stops is waited for as long as callers may need that nobody here hears of."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vestibule.app.server_mesh import Draining
from vestibule.mesh.departures import Departures
from vestibule.mesh.discovery import Discovery
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/one")
LEAVING = Instance(id="p-1", service="web", spiffe_id=WEB, agent_id=AGENT, ingress={})
ELSEWHERE = 0.05
LONG = 60.0
"""Seconds that nobody waits here by accident, however busy the machine is."""


class Leaving:
    """``Departures`` of which the test says when they end, and how many proxies then still call the instance."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.behind = 0

    async def left(self, instance: Instance, within: float) -> int:
        assert instance is LEAVING
        await self.ends.wait()
        return self.behind


class Room:
    def __init__(self, *, shared: bool, known: bool = True, elsewhere: float = ELSEWHERE) -> None:
        self.departures = Leaving()
        nothing: Any = None
        discovery = SimpleNamespace(
            changed=nothing, describe=nothing, register=nothing, renew=nothing, deregister=nothing
        )
        discovery.drain = self.found if known else self.unknown
        self.draining = Draining(
            cast(Discovery, discovery),
            cast(Departures, self.departures),
            shared=shared,
            elsewhere=elsewhere,
        )

    async def found(self, *_: object) -> Instance | None:
        return LEAVING

    async def unknown(self, *_: object) -> Instance | None:
        return None

    async def drain(self, within: float = 30) -> tuple[int, float]:
        """How many are behind, and after how many seconds that was said."""
        began = time.monotonic()
        behind = await self.draining.drain("p-1", WEB, AGENT, within)
        return behind, time.monotonic() - began


async def test_alone_it_is_over_once_the_callers_here_have_left() -> None:
    room = Room(shared=False, elsewhere=LONG)
    room.departures.ends.set()
    behind, took = await room.drain()
    assert behind == 0
    assert took < LONG


async def test_with_other_servers_their_callers_are_given_time_though_nobody_here_calls_it() -> None:
    room = Room(shared=True)
    room.departures.ends.set()
    behind, took = await room.drain()
    assert behind == 0
    assert took >= ELSEWHERE


async def test_with_other_servers_the_callers_here_are_waited_for_all_the_same() -> None:
    room = Room(shared=True)
    draining = asyncio.create_task(room.drain())
    await asyncio.sleep(2 * ELSEWHERE)
    assert not draining.done()
    room.departures.behind = 2
    room.departures.ends.set()
    assert (await draining)[0] == 2


async def test_nobody_is_given_longer_than_the_instance_has() -> None:
    room = Room(shared=True, elsewhere=LONG)
    room.departures.ends.set()
    _, took = await room.drain(within=0)
    assert took < LONG


@pytest.mark.parametrize("shared", [False, True])
async def test_what_is_not_registered_is_not_waited_for(shared: bool) -> None:
    behind, took = await Room(shared=shared, known=False, elsewhere=LONG).drain()
    assert behind == 0
    assert took < LONG
