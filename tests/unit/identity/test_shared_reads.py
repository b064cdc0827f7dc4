"""Questions that many ask at the same time."""

from __future__ import annotations

import asyncio

import pytest

from vestibule.identity.shared_reads import SharedReads


class Shelf:
    """Answers with its number of reads so far, when it is let."""

    def __init__(self) -> None:
        self.reads = 0
        self.gate = asyncio.Event()

    async def read(self, key: str) -> int:
        self.reads += 1
        number = self.reads
        await self.gate.wait()
        if key == "bad":
            raise LookupError(key)
        return number


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_while_a_read_is_under_way_gets_the_next_together_with_all_others() -> None:
    shelf = Shelf()
    reads = SharedReads(shelf.read)
    first = asyncio.ensure_future(reads.get("a"))
    await turns()
    others = [asyncio.ensure_future(reads.get("a")) for _ in range(20)]
    await turns()
    shelf.gate.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 20


async def test_a_failure_is_everybodys_and_kept_for_nobody() -> None:
    shelf = Shelf()
    shelf.gate.set()
    reads = SharedReads(shelf.read)
    answers = await asyncio.gather(reads.get("bad"), reads.get("bad"), return_exceptions=True)
    assert [type(each) for each in answers] == [LookupError, LookupError]
    with pytest.raises(LookupError):
        await reads.get("bad")
    assert shelf.reads == 2


async def test_who_leaves_does_not_take_the_answer_from_others() -> None:
    shelf = Shelf()
    reads = SharedReads(shelf.read)
    leaving, staying = asyncio.ensure_future(reads.get("a")), asyncio.ensure_future(reads.get("a"))
    await turns()
    leaving.cancel()
    shelf.gate.set()
    assert await staying == 1
