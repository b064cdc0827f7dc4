"""Uses of break-glass that a proxy printed: the agent gets each of them, through its restarts and the sidecar's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vestibule.calls.printed_uses import printed_from_wire, printed_to_wire
from vestibule.proxy import printed_uses
from vestibule.proxy.printed_uses import PrintedUses
from vestibule.records import OTHERS, PrintedUse
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

RULE = "break-glass/k7f2m9qa"
ORDERS = "spiffe://example.org/ns/prod/sa/orders"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed_uses, "EVERY", 0.01)
    monkeypatch.setattr(printed_uses, "PATIENCE", 0.05)


class Agent:
    def __init__(self) -> None:
        self.welcomes = 1
        self.silent = False
        self.got: list[PrintedUse] = []
        self.uses: PrintedUses

    def hand_over(self, number: int, uses: Sequence[PrintedUse]) -> None:
        self.got += uses
        if not self.silent:
            asyncio.get_running_loop().call_soon(self.uses.taken, number)

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.got]


class Room:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "uses"
        self.agent = Agent()
        self.uses = self.another("one")

    def another(self, owner: str, service: str = "payments") -> PrintedUses:
        """The sidecar after a restart."""
        self.agent.uses = PrintedUses(self.directory, service, owner, self.agent)
        return self.agent.uses

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.agent.uses.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def files(self) -> list[str]:
        return sorted(each.name for each in self.directory.glob("*"))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def line(path: str = "/x", **other: Any) -> str:
    said = {
        "address": "10.0.0.1:4711",
        "break_glass": RULE,
        "caller": ORDERS,
        "method": "GET",
        "path": path,
        "port": "http",
        "request_id": "r-1",
        "status": 200,
        "time": "1777636800.000042",
        **other,
    }
    return json.dumps(said)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_printed_is_handed_over_and_nothing_stays_behind(room: Room) -> None:
    async with room.running():
        room.uses.hear("[warning] something else")
        room.uses.hear(line())
        await until(lambda: room.agent.got and not len(room.uses))
    assert room.agent.got == [
        PrintedUse(
            rule=RULE,
            time=datetime(2026, 5, 1, 12, microsecond=42, tzinfo=UTC),
            caller=ORDERS,
            address="10.0.0.1:4711",
            port="http",
            method="GET",
            path="/x",
            request_id="r-1",
        )
    ]
    assert room.files == []


async def test_what_the_agent_does_not_take_is_told_again_when_it_is_back(room: Room) -> None:
    room.agent.silent = True
    async with room.running():
        room.uses.hear(line("/a"))
        await until(lambda: room.files)
        room.agent.welcomes = 0
        room.uses.hear(line("/b"))
        await asyncio.sleep(0.1)
        assert room.agent.paths == ["/a"]
        room.agent.silent, room.agent.welcomes = False, 2
        await until(lambda: not len(room.uses) and not room.files)
    assert room.agent.paths == ["/a", "/a", "/b"]


async def test_it_outlives_the_sidecar_and_is_for_nobody_else_to_read(room: Room) -> None:
    room.agent.welcomes = 0
    async with room.running():
        room.uses.hear(line("/a"))
        await until(lambda: room.files)
        room.uses.hear(line("/b"))
    room.uses.close()
    (file,) = room.directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    other = room.another("two", "ledger")
    other.adopt(set())
    assert not len(other)
    beside = room.another("three")
    beside.adopt({"one"})
    assert not len(beside)
    again = room.another("four")
    again.adopt({"four"})
    assert len(again) == 2
    room.agent.welcomes = 1
    async with room.running():
        await until(lambda: not len(again) and not room.files)
    assert room.agent.paths == ["/a", "/b"]


async def test_a_file_with_a_broken_line_gives_the_others(room: Room) -> None:
    room.agent.welcomes = 0
    room.uses.hear(line("/a"))
    room.uses.close()
    (file,) = room.directory.iterdir()
    file.write_text(file.read_text() + '{"rule": "break-gl')
    again = room.another("two")
    again.adopt(set())
    assert len(again) == 1


async def test_a_connection_that_is_printed_again_and_again_is_one_use(room: Room) -> None:
    for _ in range(3):
        room.uses.hear(line(stream="s-1"))
    room.uses.hear(line(stream="s-2"))
    assert len(room.uses) == 2


async def test_nobody_hides_behind_bytes_that_are_no_text(room: Room) -> None:
    async with room.running():
        for odd in (r"\377\200", r"\ud800", r"\\377"):
            room.uses.hear(line(request_id="ID").replace("ID", odd))
        await until(lambda: len(room.agent.got) == 3)
    assert [each.request_id for each in room.agent.got] == ["\ufffd\ufffd", "?", r"\377"]
    assert all(each.caller for each in room.agent.got)


async def test_a_line_that_cannot_be_read_is_still_a_use(room: Room) -> None:
    async with room.running():
        room.uses.hear(line()[:-30])
        room.uses.hear(line(time="never"))
        await until(lambda: len(room.agent.got) == 2)
    assert {(each.rule, each.path) for each in room.agent.got} == {(RULE, "(unreadable)")}


async def test_beyond_what_is_kept_one_by_one_they_are_counted(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed_uses, "MOST_HELD", 10)
    room.agent.welcomes = 0
    for number in range(110):
        room.uses.hear(line(f"/{number}", caller=f"{ORDERS}{number % 50}"))
    assert len(room.uses) == 110
    room.uses.close()
    again = room.another("two")
    again.adopt(set())
    room.agent.welcomes = 1
    async with room.running():
        await until(lambda: not len(again))
    assert sum(each.count for each in room.agent.got) == 110
    assert len(room.agent.got) < 10 + printed_uses.MOST_KINDS + 2
    assert room.agent.got[-1].path == OTHERS


def test_it_travels_whole() -> None:
    use = PrintedUse(
        rule=RULE,
        time=datetime(2026, 5, 1, 12, microsecond=42, tzinfo=UTC),
        caller=ORDERS,
        address="10.0.0.1:4711",
        port="http",
        method="GET",
        path="/x",
        request_id="r-1",
        count=3,
    )
    assert printed_from_wire([printed_to_wire(use)]) == (use,)


@pytest.mark.parametrize(
    "said", [{"rule": "payments/all"}, {"rule": "break-glass/../x"}, {"count": 0}, {"time": 2**62}]
)
def test_what_cannot_be_so_is_refused(said: dict[str, Any]) -> None:
    message = wire.PrintedUse(**{"rule": RULE, "count": 1, **said})
    with pytest.raises((ValueError, OverflowError)):
        printed_from_wire([message])


def test_no_more_than_agreed_is_taken_at_once() -> None:
    with pytest.raises(ValueError, match="more than 500"):
        printed_from_wire([wire.PrintedUse(rule=RULE, count=1)] * 501)
