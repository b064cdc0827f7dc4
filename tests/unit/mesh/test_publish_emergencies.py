"""Break-glass reaches every proxy at once, and is taken out of their configuration when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.unit.mesh.test_discovery import identity, instance
from tests.unit.mesh.test_publish import PAYMENTS, WEB, Room, payments

from vestibule.mesh import Discovery, Publisher
from vestibule.mesh.revision import Revision
from vestibule.records import Emergency
from vestibule.testing import FakeClock
from vestibule.xds.resources import CLUSTER, EXTENSION, LISTENER, Snapshot

LEDGER = b"service: ledger\nports: {http: {protocol: http}, raw: {protocol: tcp}}\nallow: []\n"


class Permissions:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.revision = Revision()
        self.known: list[Emergency] = []

    def open(self, service: str, caller: str, *, port: str = "", path: str = "") -> Emergency:
        now = self.clock.now()
        made = Emergency(
            id="k7f2m9qa",
            callers=(str(identity(caller)),),
            service=service,
            reason="a test",
            ticket="INC-1",
            approver="ann",
            opener="local:uid=0",
            opened_at=now,
            expires_at=now + timedelta(hours=1),
            port=port,
            path=path,
        )
        self.known.append(made)
        self.revision.bump()
        return made

    def holding(self) -> tuple[Emergency, ...]:
        return tuple(each for each in self.known if each.holds(self.clock.now()))

    def ended(self) -> tuple[Emergency, ...]:
        return tuple(each for each in self.known if not each.holds(self.clock.now()))

    def next_end(self, now: datetime) -> datetime | None:
        return min((each.expires_at for each in self.known if each.holds(now)), default=None)


class Glass(Room):
    def __init__(self) -> None:
        super().__init__()
        self.files["services/ledger.yaml"] = LEDGER
        self.permissions = Permissions(self.clock)
        self.discovery = Discovery(self.discovery._kept, self.intents, self.clock, self.permissions)
        self.publisher = Publisher(
            self.intents, self.discovery, self.lifetimes, self.revoked, self.clock, self.permissions
        )


@pytest.fixture
async def room() -> AsyncIterator[Glass]:
    room = Glass()
    await room.source.load()
    task = asyncio.create_task(room.publisher.run())
    await room.discovery.register(instance())
    await room.discovery.register(payments())
    yield room
    task.cancel()


def policy(snapshot: Snapshot) -> bytes:
    return snapshot.of_type(EXTENSION)["policy/http"].body


async def test_it_is_pushed_when_it_is_opened_and_taken_back_when_it_is_over(room: Glass) -> None:
    before = policy(await room.next(PAYMENTS))
    emergency = room.permissions.open("payments", "ledger", port="http")
    opened = policy(await room.next(PAYMENTS))
    assert emergency.rule.encode() in opened
    assert b"spiffe://example.org/ns/prod/sa/ledger" in opened
    room.clock.advance(timedelta(hours=1))
    assert policy(await room.next(PAYMENTS)) == before


@pytest.mark.parametrize("by_hand", [True, False])
async def test_its_end_exchanges_the_listener_so_that_what_is_under_way_ends(
    room: Glass, by_hand: bool
) -> None:
    def listener(snapshot: Snapshot) -> bytes:
        return snapshot.of_type(LISTENER)["ingress/http"].body

    before = listener(await room.next(PAYMENTS))
    emergency = room.permissions.open("payments", "ledger", port="http")
    assert listener(await room.next(PAYMENTS)) == before
    if by_hand:
        room.permissions.known = [replace(emergency, closed_at=room.clock.now())]
        room.permissions.revision.bump()
    else:
        room.clock.advance(timedelta(hours=1))
    cut = listener(await room.next(PAYMENTS))
    assert cut != before
    # Another one, of another port, changes nothing here.
    room.permissions.known.append(replace(emergency, id="other", port="raw", closed_at=room.clock.now()))
    room.permissions.revision.bump()
    assert await room.quiet(PAYMENTS)
    assert listener(await room.next(PAYMENTS)) == cut
    room.permissions.known.append(replace(emergency, id="whole", port="", closed_at=room.clock.now()))
    room.permissions.revision.bump()
    again = listener(await room.next(PAYMENTS))
    assert again not in (before, cut)
    # Ended by a server whose clock is behind.
    behind = room.clock.now() - timedelta(seconds=1)
    room.permissions.known.append(replace(emergency, id="behind", closed_at=behind))
    room.permissions.revision.bump()
    assert listener(await room.next(PAYMENTS)) not in (before, cut, again)


async def test_the_caller_learns_the_way(room: Glass) -> None:
    before = await room.next(WEB)
    assert "ledger/http" not in before.of_type(CLUSTER)
    room.permissions.open("ledger", "web", port="http")
    opened = await room.next(WEB)
    assert "ledger/http" in opened.of_type(CLUSTER)
    assert "ledger/raw" not in opened.of_type(CLUSTER)
    room.clock.advance(timedelta(hours=1))
    assert "ledger/http" not in (await room.next(WEB)).of_type(CLUSTER)


async def test_who_is_not_concerned_is_left_alone(room: Glass) -> None:
    await room.next(WEB)
    await room.next(PAYMENTS)
    room.permissions.open("ledger", "web", port="http")
    await room.next(WEB)
    assert await room.quiet(PAYMENTS)


async def test_what_asks_for_a_path_opens_no_tcp_port(room: Glass) -> None:
    await room.next(WEB)
    room.permissions.open("ledger", "web", path="/v1/**")
    opened = await room.next(WEB)
    assert {"ledger/http"} == {each for each in opened.of_type(CLUSTER) if each.startswith("ledger/")}


async def test_a_sidecar_of_the_caller_is_told_of_the_upstream(room: Glass) -> None:
    seen = room.discovery.revision
    room.permissions.open("ledger", "web")
    assert await room.discovery.changed(seen) != seen
    view = room.discovery.describe(identity("web"))
    assert view is not None
    assert {"ledger/http", "ledger/raw"} <= {each.name for each in view.upstreams}
