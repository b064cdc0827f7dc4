"""Uses of break-glass on their way to the server: none is forgotten, through outages and restarts."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys.sealing import Sealer
from vestibule.net.codes import UNREACHABLE
from vestibule.observe import emergency_budgets, emergency_uses
from vestibule.observe.access_log import AccessLine
from vestibule.observe.access_record import SCHEMA
from vestibule.observe.codes import LOG_NOT_WRITTEN
from vestibule.observe.emergency_budgets import MOST_KINDS as MOST_KINDS_AT_ONCE
from vestibule.observe.emergency_budgets import Budgets
from vestibule.observe.emergency_uses import MOST_KINDS, MOST_USES, EmergencyUses, UsesFile
from vestibule.records import OTHERS, EmergencyUse, PrintedUse
from vestibule.spiffe import SpiffeId, TrustDomain

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
RULE = "break-glass/k7f2m9qa"
PORTS = itertools.count(1000)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emergency_uses, "EVERY", 0.01)
    monkeypatch.setattr(emergency_uses, "RETRY_LONGEST", 0.02)


class Server:
    def __init__(self) -> None:
        self.reports: list[tuple[str, tuple[EmergencyUse, ...]]] = []
        self.away = False
        self.loses_answers = False

    async def report(self, batch: str, uses: Sequence[EmergencyUse]) -> None:
        if not self.away:
            self.reports.append((batch, tuple(uses)))
        if self.away or self.loses_answers:
            raise UNREACHABLE.error("away")

    @property
    def count(self) -> int:
        """Calls, those of repeated reports once."""
        return sum(each.count for uses in dict(self.reports).values() for each in uses)


def line(path: str = "/x", *, by_break_glass: bool = True, **other: Any) -> AccessLine:
    record = {
        "schema": SCHEMA,
        "time": NOW.isoformat(),
        "layer": "http",
        "direction": "inbound",
        "verdict": "allowed",
        "reporter_service": "payments",
        "reporter_spiffe_id": "spiffe://example.org/ns/prod/sa/payments",
        "reporter_instance": "i-1",
        "source_spiffe_id": "spiffe://example.org/ns/prod/sa/orders",
        "source_address": f"10.0.0.1:{next(PORTS)}",
        "destination_port": "http",
        "request_id": "r-1",
        "method": "GET",
        "path": path,
        "rule": RULE,
        **other,
    }
    return AccessLine(json.dumps(record), None, by_break_glass)


class Room:
    def __init__(self, directory: Path) -> None:
        self.file = UsesFile(directory / "uses.sealed", Sealer(b"k" * 32), TrustDomain.parse("example.org"))
        self.server = Server()
        self.uses = self.another()

    def another(self) -> EmergencyUses:
        """The agent after a restart."""
        uses = EmergencyUses(self.file, self.server)
        uses.load()
        return uses

    @asynccontextmanager
    async def running(self, uses: EmergencyUses | None = None) -> AsyncIterator[None]:
        task = asyncio.create_task((uses or self.uses).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_use_is_reported_with_who_did_what(room: Room) -> None:
    async with room.running():
        room.uses.append([line("/refunds/7"), line("/ordinary", by_break_glass=False)])
        await until(lambda: room.server.count == 1)
    (use,) = room.server.reports[0][1]
    assert asdict(use) == {
        "rule": RULE,
        "service": "payments",
        "spiffe_id": "spiffe://example.org/ns/prod/sa/payments",
        "instance_id": "i-1",
        "caller": "spiffe://example.org/ns/prod/sa/orders",
        "port": "http",
        "method": "GET",
        "path": "/refunds/7",
        "count": 1,
        "first": NOW,
        "last": NOW,
        "request_ids": ("r-1",),
    }
    assert room.uses.waiting == 0


async def test_uses_during_an_outage_are_reported_after_it(room: Room) -> None:
    room.server.away = True
    async with room.running():
        room.uses.append([line("/a"), line("/b")])
        await until(lambda: len(room.file.load()[1]) == 2)
        room.uses.append([line("/c")])
        assert room.uses.waiting == 3
        room.server.away = False
        await until(lambda: room.server.count == 3)


async def test_they_outlive_a_restart_of_the_agent(room: Room) -> None:
    room.server.away = True
    async with room.running():
        room.uses.append([line("/a")])
        # One is in a report that was not answered, the other in none.
        await until(lambda: len(room.file.load()[1]) == 1)
        room.uses.append([line("/b")])
        await until(lambda: len(room.file.load()[2]) == 1)
    again = room.another()
    assert again.waiting == 2
    room.server.away = False
    async with room.running(again):
        await until(lambda: room.server.count == 2)
        await until(lambda: room.file.load()[:3] == ("", [], []))


async def test_a_report_whose_answer_was_lost_comes_again_under_the_same_name(room: Room) -> None:
    room.server.loses_answers = True
    async with room.running():
        room.uses.append([line("/a")])
        await until(lambda: len(room.server.reports) >= 2)
    again = room.another()
    room.server.loses_answers = False
    async with room.running(again):
        await until(lambda: again.waiting == 0)
    assert len({batch for batch, _ in room.server.reports}) == 1


async def test_calls_of_one_kind_are_one_use_with_their_number(room: Room) -> None:
    room.uses.append([line("/a", request_id=str(number)) for number in range(1000)])
    async with room.running():
        await until(lambda: room.server.count == 1000)
    ((_, (use,)),) = room.server.reports
    assert len(use.request_ids) == emergency_uses.MOST_IDS


async def test_a_flood_of_different_paths_is_counted_and_bounded(room: Room) -> None:
    """Twenty kinds of one caller are told apart; the rest of the minute is one record, when it is over."""
    now = [0.0]
    room.uses = EmergencyUses(room.file, room.server, Budgets(lambda: now[0]))
    room.uses.append([line(f"/{number}") for number in range(500)])
    room.uses.append([line("/3"), line("/other", source_spiffe_id="spiffe://example.org/ns/prod/sa/web")])
    async with room.running():
        await until(lambda: room.server.count == MOST_KINDS_AT_ONCE + 2)
        # One kind that came before is told again only when the minute is over.
        room.uses.append([line("/3") for _ in range(5)])
        now[0] += emergency_budgets.WINDOW
        await until(lambda: room.server.count == 507)
    told = [each for _, uses in room.server.reports for each in uses]
    assert [(each.path, each.method, each.count) for each in told if each.count > 2] == [
        (OTHERS, OTHERS, 480),
        ("/3", "GET", 5),
    ]
    assert len(told) == MOST_KINDS_AT_ONCE + 1 + 2
    # A new minute, a new account.
    async with room.running():
        room.uses.append([line("/new")])
        await until(lambda: room.server.count == 508)


async def test_what_waits_for_the_end_of_its_minute_outlives_the_agent(room: Room) -> None:
    room.uses = EmergencyUses(room.file, room.server, Budgets(lambda: 0.0))
    async with room.running():
        room.uses.append([line(f"/{number}") for number in range(100)])
        await until(lambda: room.server.count == MOST_KINDS_AT_ONCE and room.another().waiting == 80)
    assert room.uses.waiting == 80


async def test_more_kinds_than_can_wait_are_counted_without_their_paths(room: Room) -> None:
    callers = [f"spiffe://example.org/ns/prod/sa/s{number}" for number in range(MOST_KINDS + 50)]
    room.uses.append([line("/x", source_spiffe_id=each) for each in callers])
    assert room.uses.waiting == len(callers)
    async with room.running():
        await until(lambda: room.server.count >= MOST_KINDS)
    assert all(len(uses) <= MOST_USES for _, uses in room.server.reports)


async def test_a_file_that_cannot_be_read_is_set_aside(room: Room, tmp_path: Path) -> None:
    (tmp_path / "uses.sealed").write_bytes(b"nonsense")
    assert room.another().waiting == 0
    assert (tmp_path / "uses.unreadable").read_bytes() == b"nonsense"


async def test_what_cannot_be_kept_is_still_reported_and_said_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LOG_NOT_WRITTEN.error("disk full")

    monkeypatch.setattr(room.file, "save", broken)
    async with room.running():
        room.uses.append([line()])
        await until(lambda: room.server.count == 1)
        assert isinstance(room.uses.not_saved, VestibuleError)


PAYMENTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")


def printed(**other: Any) -> PrintedUse:
    """As a sidecar read it; the call of ``line`` from port 99, unless said otherwise."""
    return PrintedUse(
        **{
            "rule": RULE,
            "time": NOW,
            "caller": "spiffe://example.org/ns/prod/sa/orders",
            "address": "10.0.0.1:99",
            "port": "http",
            "method": "GET",
            "path": "/x",
            "request_id": "r-1",
            **other,
        }
    )


async def test_a_call_that_is_told_and_printed_counts_once_whichever_is_first(room: Room) -> None:
    told = line(source_address="10.0.0.1:99")
    room.uses.append([told])
    await room.uses.take("payments", PAYMENTS, "i-1", [printed()])
    assert room.uses.waiting == 1
    later = NOW + timedelta(microseconds=1)
    await room.uses.take("payments", PAYMENTS, "i-1", [printed(time=later)])
    room.uses.append([line(source_address="10.0.0.1:99", time=later.isoformat())])
    assert room.uses.waiting == 2


async def test_a_restart_forgets_nothing_of_what_counted_already(room: Room) -> None:
    room.server.away = True
    room.uses.append([line(source_address="10.0.0.1:99")])
    await room.uses.take("payments", PAYMENTS, "i-1", [printed(path="/other", address="10.0.0.1:98")])
    again = room.another()
    await again.take("payments", PAYMENTS, "i-2", [printed(), printed(address="10.0.0.1:98")])
    assert again.waiting == 2


async def test_another_call_is_another_use_though_its_caller_chose_the_same_id(room: Room) -> None:
    await room.uses.take(
        "payments", PAYMENTS, "i-1", [printed(), printed(address="10.0.0.1:98"), printed(rule=RULE + "x")]
    )
    assert room.uses.waiting == 3


async def test_who_let_it_through_is_who_was_attested(room: Room) -> None:
    await room.uses.take("payments", PAYMENTS, "i-1", [printed(count=7)])
    async with room.running():
        await until(lambda: room.server.count == 7)
    (use,) = room.server.reports[0][1]
    assert (use.service, use.spiffe_id, use.instance_id) == ("payments", str(PAYMENTS), "i-1")


async def test_what_is_not_on_disk_is_not_taken(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LOG_NOT_WRITTEN.error("disk full")

    monkeypatch.setattr(room.file, "save", broken)
    with pytest.raises(VestibuleError, match="disk full"):
        await room.uses.take("payments", PAYMENTS, "i-1", [printed()])
