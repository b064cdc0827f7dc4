"""Records are carried to other places: in their order, each at least once, whatever happens to the place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vestibule.audit import AuditEvent, AuditLog
from vestibule.audit import forwarding as forwarding_room
from vestibule.audit.chain import decode
from vestibule.audit.files import segments
from vestibule.audit.forwarding import Forwarder
from vestibule.testing import FakeClock

PATIENCE = 60.0


class Place:
    """Somewhere else, which can be away."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.away = False
        self.asked = 0

    async def send(self, lines: Sequence[bytes]) -> None:
        self.asked += 1
        if self.away:
            raise OSError("nobody is there")
        self.lines += lines

    @property
    def numbers(self) -> list[int]:
        return [record["seq"] for line in self.lines if (record := decode(line)) is not None]


class Lab:
    def __init__(self, directory: Path, **limits: int) -> None:
        self.path = directory / "audit.jsonl"
        self.log = AuditLog(self.path, FakeClock(), **limits)
        self.place = Place()
        self.position = directory / "sinks" / "one"

    async def record(self, count: int) -> None:
        for number in range(count):
            event = AuditEvent(actor="web", action="secret.read", subject=f"secret/{number}")
            await self.log.record([event])

    @asynccontextmanager
    async def carrying(self) -> AsyncIterator[Forwarder]:
        forwarder = Forwarder(self.path, self.place, self.position, "syslog:/dev/log")
        self.log.appended = forwarder.appended
        task = asyncio.create_task(forwarder.run())
        try:
            yield forwarder
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    await lab.log.open()
    yield lab
    await lab.log.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_was_there_and_what_comes_is_carried(lab: Lab) -> None:
    await lab.record(3)
    async with lab.carrying() as forwarder:
        await until(lambda: forwarder.sent == 3)
        await lab.record(4)
        await until(lambda: forwarder.sent == 7)
    assert lab.place.numbers == [1, 2, 3, 4, 5, 6, 7]


async def test_after_a_restart_it_goes_on_where_it_was(lab: Lab) -> None:
    await lab.record(3)
    async with lab.carrying() as forwarder:
        await until(lambda: forwarder.sent == 3)
        await until(lab.position.exists)
    await lab.record(2)
    async with lab.carrying() as forwarder:
        await until(lambda: forwarder.sent == 5)
    assert lab.place.numbers == [1, 2, 3, 4, 5]


async def test_a_place_that_was_away_gets_what_it_missed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding_room, "FIRST_RETRY", 0.01)
    lab.place.away = True
    async with lab.carrying() as forwarder:
        await lab.record(3)
        await until(lambda: bool(forwarder.failing))
        assert "nobody is there" in forwarder.failing
        lab.place.away = False
        await until(lambda: forwarder.sent == 3)
        await until(lambda: not forwarder.failing)
    assert lab.place.numbers == [1, 2, 3]


async def test_a_position_that_is_no_position_begins_anew(lab: Lab) -> None:
    lab.position.parent.mkdir()
    lab.position.write_text("[")
    await lab.record(2)
    async with lab.carrying() as forwarder:
        await until(lambda: forwarder.sent == 2)
    assert lab.place.numbers == [1, 2]


async def test_nothing_is_left_out_when_a_file_is_renamed_while_files_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the files are listed or one is opened, another one is just full."""
    lab = Lab(tmp_path, max_bytes=1000, max_files=0)
    await lab.log.open()
    await lab.record(2)
    tail = forwarding_room.Tail(lab.path)
    found = [number for number, _ in tail.next_batch()]
    loop = asyncio.get_running_loop()

    def after(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            result = function(*arguments)
            asyncio.run_coroutine_threadsafe(lab.record(3), loop).result(PATIENCE)
            return result

        return called

    with monkeypatch.context() as patch:
        patch.setattr(forwarding_room, "segments", after(segments))
        patch.setattr(forwarding_room.Tail, "_opened", staticmethod(after(forwarding_room.Tail._opened)))
        for _ in range(5):
            found += [number for number, _ in await asyncio.to_thread(tail.next_batch)]
    while batch := tail.next_batch():
        found += [number for number, _ in batch]
    assert found == list(range(1, found[-1] + 1))
    assert len(found) > 30
    await lab.log.close()


async def test_records_are_carried_through_files_that_were_renamed(tmp_path: Path) -> None:
    lab = Lab(tmp_path, max_bytes=1000, max_files=0)
    await lab.log.open()
    async with lab.carrying() as forwarder:
        await lab.record(20)
        await until(lambda: forwarder.sent == 20)
        await lab.record(20)
        await until(lambda: forwarder.sent == 40)
    assert lab.place.numbers == list(range(1, 41))
    await lab.log.close()


async def test_many_records_go_in_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding_room, "MOST_RECORDS", 4)
    await lab.log.record([AuditEvent(actor="a", action="b", subject=str(each)) for each in range(10)])
    async with lab.carrying() as forwarder:
        await until(lambda: forwarder.sent == 10)
    assert lab.place.asked == 3


async def test_a_line_that_is_no_record_is_passed_over(lab: Lab) -> None:
    await lab.record(1)
    with lab.path.open("ab") as file:
        file.write(b"half a rec")
    tail = forwarding_room.Tail(lab.path)
    assert [number for number, _ in tail.next_batch()] == [1]
    assert tail.next_batch() == []
