"""Wrapped answers open once, in time, and for one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from vestibule.errors import VestibuleError
from vestibule.secrets.codes import WRAPPING_INVALID, WRAPPING_UNFIT
from vestibule.secrets.wrapping import SPACE, Wrapping
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

MINUTE = timedelta(minutes=1)


class Lab:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.barrier = MemoryBarrier()
        self.wrapping = Wrapping(self.barrier, self.clock)

    async def wrapped(self, answer: bytes = b"{}") -> str:
        return (await self.wrapping.wrap(answer, MINUTE, path="secret/data/a", creator="web")).token

    async def refused(self, token: str) -> None:
        with pytest.raises(VestibuleError) as refused:
            await self.wrapping.unwrap(token)
        assert refused.value.code is WRAPPING_INVALID


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_wrapped_answer_opens_once(lab: Lab) -> None:
    token = await lab.wrapped(b"the answer")
    assert (await lab.wrapping.unwrap(token))[0] == b"the answer"
    await lab.refused(token)


async def test_looking_at_it_tells_where_it_is_from_and_opens_nothing(lab: Lab) -> None:
    token = await lab.wrapped()
    told = await lab.wrapping.lookup(token)
    assert (told.path, told.creator, told.ttl, told.token) == ("secret/data/a", "web", MINUTE, "")
    await lab.wrapping.unwrap(token)


async def test_it_is_gone_after_its_time(lab: Lab) -> None:
    token = await lab.wrapped()
    lab.clock.advance(MINUTE)
    await lab.refused(token)
    assert await lab.wrapping.sweep() == 1
    assert await lab.barrier.keys(SPACE) == []


async def test_what_still_waits_is_not_swept_away(lab: Lab) -> None:
    token = await lab.wrapped()
    assert await lab.wrapping.sweep() == 0
    await lab.wrapping.unwrap(token)


async def test_wrapped_anew_it_opens_with_the_new_token_only(lab: Lab) -> None:
    token = await lab.wrapped(b"the answer")
    old, again = await lab.wrapping.rewrap(token)
    assert old.accessor != again.accessor
    await lab.refused(token)
    assert (again.path, again.ttl) == ("secret/data/a", MINUTE)
    assert (await lab.wrapping.unwrap(again.token))[0] == b"the answer"


async def test_the_database_does_not_know_the_token(lab: Lab) -> None:
    token = await lab.wrapped()
    (key,) = await lab.barrier.keys(SPACE)
    assert token not in key
    item = await lab.barrier.get(SPACE, key)
    assert item is not None
    assert token.encode() not in item.value


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(milliseconds=10), timedelta(days=2), -MINUTE])
async def test_how_long_it_lasts_is_bounded(lab: Lab, ttl: timedelta) -> None:
    with pytest.raises(VestibuleError) as refused:
        await lab.wrapping.wrap(b"{}", ttl, path="a", creator="web")
    assert refused.value.code is WRAPPING_UNFIT


@pytest.mark.parametrize("token", ["", "hvw.", "hvw.unknown", "hvb.abc", "hvw." + "a" * 500, "hvw.ä"])
async def test_what_is_no_wrapping_token_opens_nothing(lab: Lab, token: str) -> None:
    await lab.refused(token)


async def test_of_two_that_open_it_at_once_one_gets_it(lab: Lab) -> None:
    token = await lab.wrapped()
    item, _ = await lab.wrapping._found(token)
    other = Wrapping(lab.barrier, lab.clock)

    async def found(_token: str) -> object:
        return item, None

    other._found = found  # type: ignore[method-assign,assignment]
    await lab.wrapping.unwrap(token)
    with pytest.raises(VestibuleError):
        await other.unwrap(token)


async def test_what_cannot_be_wrapped_anew_is_not_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await lab.wrapped(b"the answer")

    async def full(_changes: object) -> tuple[int, ...]:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(lab.barrier, "apply", full)
        with pytest.raises(RuntimeError):
            await lab.wrapping.rewrap(token)
    assert (await lab.wrapping.unwrap(token))[0] == b"the answer"
