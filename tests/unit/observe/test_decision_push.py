"""Decisions on their way to a collector: gathered, zipped, sent again, and bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from vestibule.net.codes import UNREACHABLE
from vestibule.observe import decision_push
from vestibule.observe.decision_push import DecisionPush


class Collector:
    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.requests = 0
        self.answer: int | None = 204

    async def __call__(self, body: bytes) -> int:
        self.requests += 1
        if self.answer is None:
            raise UNREACHABLE.error("away")
        if self.answer < 300:
            self.taken += json.loads(gzip.decompress(body))
        return self.answer


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_push, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(decision_push, "RETRY_SECONDS", 0.01)


@pytest.fixture
def collector() -> Collector:
    return Collector()


@asynccontextmanager
async def running(push: DecisionPush) -> AsyncIterator[None]:
    task = asyncio.create_task(push.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_comes_together_goes_together(collector: Collector) -> None:
    push = DecisionPush(collector)
    async with running(push):
        for number in range(50):
            push.take(json.dumps(number), allowed=True)
        await until(lambda: len(collector.taken) == 50)
    assert collector.requests == 1
    assert collector.taken == list(range(50))


async def test_an_outage_of_the_collector_loses_nothing_that_has_room(collector: Collector) -> None:
    push = DecisionPush(collector)
    collector.answer = None
    async with running(push):
        push.take("1", allowed=True)
        await until(lambda: collector.requests >= 2)
        collector.answer = 503
        push.take("2", allowed=False)
        seen = collector.requests
        await until(lambda: collector.requests > seen)
        collector.answer = 200
        await until(lambda: sorted(collector.taken) == [1, 2])
    assert (push.dropped, push.waiting) == (0, 0)


async def test_what_the_collector_will_never_have_is_counted_and_left(collector: Collector) -> None:
    push = DecisionPush(collector)
    collector.answer = 400
    async with running(push):
        push.take("1", allowed=True)
        await until(lambda: push.refused == 1)
    assert push.waiting == 0


async def test_when_there_is_no_room_permissions_go_before_denials(collector: Collector) -> None:
    push = DecisionPush(collector, most_bytes=100)
    for _ in range(20):
        push.take("1" * 10, allowed=True)
    assert (push.waiting, push.dropped) == (5, 15)
    for _ in range(10):
        push.take("2" * 10, allowed=False)
    assert (push.waiting, push.dropped) == (10, 20)
    push.take("3" * 10, allowed=False)
    assert (push.waiting, push.dropped) == (10, 21)
    async with running(push):
        await until(lambda: len(collector.taken) == 10)
    assert set(collector.taken) == {2222222222}


async def test_a_large_number_goes_in_several_requests(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_push, "BATCH_BYTES", 100)
    push = DecisionPush(collector)
    for number in range(100, 200):
        push.take(str(number), allowed=True)
    async with running(push):
        await until(lambda: len(collector.taken) == 100)
    assert collector.requests == 4


async def test_the_last_ones_are_sent_when_the_agent_stops(collector: Collector) -> None:
    push = DecisionPush(collector)
    async with running(push):
        push.take("1", allowed=True)
    assert collector.taken == [1]


async def test_a_collector_that_does_not_answer_does_not_keep_the_agent_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_push, "LAST_SECONDS", 0.05)

    async def never(_: bytes) -> int:
        await asyncio.Event().wait()
        return 200

    push = DecisionPush(never)
    async with asyncio.timeout(60), running(push):
        push.take("1", allowed=True)
        await asyncio.sleep(0.05)
    assert push.waiting == 1
