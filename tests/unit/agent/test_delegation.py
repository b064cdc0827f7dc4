"""Delegates get what workloads have, nobody else does, and what administers is not among it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.agent.test_workloads import TD, Bench, Caller, Says

from vestibule.agent.codes import NO_IDENTITY, NOT_A_DELEGATE, NOT_READY
from vestibule.agent.delegation import Delegated, Delegation, Described, Numbered, Subject
from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.spiffe import Selector, SpiffeId

WORKLOAD = Described(frozenset({Selector.parse("test:workload")}))


class Desk(Bench):
    """A delegate (what has ``test:a``) and workloads that it asks for."""

    def __init__(self, *delegates: str) -> None:
        super().__init__()
        self.entry("delegate")
        self.svid("delegate")
        self.caller = Caller()
        self.found = 0
        ids = [SpiffeId.of(TD, path) for path in delegates or ("/delegate",)]
        self.delegation = Delegation(self.workloads, self.cache, ids, self.clock)

    def find(self, subject: Subject = WORKLOAD) -> Any:
        def found() -> Subject:
            self.found += 1
            return subject

        return found

    def workload(self, name: str, **more: Any) -> None:
        self.entry(name, "test:workload", **more)
        self.svid(name)

    async def svids(self, subject: Subject = WORKLOAD) -> Delegated:
        answers = self.delegation.svids(self.caller, self.find(subject))
        try:
            return await asyncio.wait_for(anext(answers), 60)
        finally:
            await answers.aclose()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def names(delegated: Delegated) -> list[str]:
    return [svid.spiffe_id.path for svid in delegated.svids]


async def code_of(awaitable: Any) -> object:
    with pytest.raises(VestibuleError) as caught:
        await asyncio.wait_for(awaitable, 60)
    return caught.value.code


async def test_a_delegate_gets_the_svids_of_whoever_has_the_selectors(desk: Desk) -> None:
    desk.workload("w2")
    desk.workload("w1", hint="first", federates_with=("b.test", "a.test"))
    desk.entry("other", "test:other")
    desk.svid("other")
    found = await desk.svids()
    assert names(found) == ["/w1", "/w2"]
    assert found.svids[0].hint == "first"
    assert [str(each) for each in found.federates_with] == ["a.test", "b.test"]


async def test_a_workload_without_identities_is_an_empty_answer_until_it_has_one(desk: Desk) -> None:
    answers = desk.delegation.svids(desk.caller, desk.find())
    assert names(await anext(answers)) == []
    waiting = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    desk.workload("w1")
    found = await asyncio.wait_for(waiting, 60)
    while not found.svids:
        found = await asyncio.wait_for(anext(answers), 60)
    assert names(found) == ["/w1"]
    desk.remove("w1")
    assert names(await asyncio.wait_for(anext(answers), 60)) == []
    await answers.aclose()


@pytest.mark.parametrize("power", ["admin", "downstream"])
async def test_what_administers_is_given_to_no_delegate(desk: Desk, power: str) -> None:
    desk.workload("boss", federates_with=("far.test",), **{power: True})
    assert await desk.svids() == Delegated()
    assert await code_of(desk.delegation.entries(desk.caller, desk.find())) is NO_IDENTITY
    desk.workload("w1")
    assert names(await desk.svids()) == ["/w1"]
    assert [each.id for each in await desk.delegation.entries(desk.caller, desk.find())] == ["w1"]


@pytest.mark.parametrize("power", ["admin", "downstream"])
async def test_an_entry_that_gets_power_is_taken_from_delegates(desk: Desk, power: str) -> None:
    desk.workload("w1")
    answers = desk.delegation.svids(desk.caller, desk.find())
    assert names(await anext(answers)) == ["/w1"]
    now = desk.cache.now
    changed: dict[str, Any] = {power: True}
    desk.cache.become(replace(now, entries={**now.entries, "w1": replace(now.entries["w1"], **changed)}))
    assert names(await asyncio.wait_for(anext(answers), 60)) == []
    await answers.aclose()


async def test_who_is_no_delegate_is_refused_before_anything_is_looked_for() -> None:
    desk = Desk("/somebody/else")
    desk.workload("w1")
    assert await code_of(desk.svids()) is NOT_A_DELEGATE
    assert await code_of(desk.delegation.entries(desk.caller, desk.find())) is NOT_A_DELEGATE
    assert await code_of(anext(desk.delegation.bundles(desk.caller))) is NOT_A_DELEGATE
    assert desk.found == 0


async def test_who_has_no_identity_is_told_so_and_an_agent_that_knows_nothing_says_so(desk: Desk) -> None:
    desk.remove("delegate")
    assert await code_of(desk.svids()) is NO_IDENTITY
    desk.cache.told = False
    assert await code_of(desk.svids()) is NOT_READY


async def test_any_of_the_caller_s_identities_may_be_the_delegate_s(desk: Desk) -> None:
    desk.entry("a-smaller-id")
    desk.workload("w1")
    assert names(await desk.svids()) == ["/w1"]


async def test_a_delegate_that_is_none_any_more_loses_its_stream(desk: Desk) -> None:
    desk.workload("w1")
    answers = desk.delegation.svids(desk.caller, desk.find())
    await anext(answers)
    desk.remove("delegate")
    assert await code_of(anext(answers)) is NO_IDENTITY


async def test_a_delegate_that_has_ended_gets_nothing_more(desk: Desk) -> None:
    desk.workload("w1")
    answers = desk.delegation.svids(desk.caller, desk.find())
    await anext(answers)
    desk.caller.gone = True
    desk.workload("w2")
    assert await code_of(anext(answers)) is PEER_GONE


async def test_expired_svids_leave_the_answer_at_their_instant(desk: Desk) -> None:
    desk.entry("w1", "test:workload")
    desk.svid("w1", ttl=timedelta(minutes=1))
    answers = desk.delegation.svids(desk.caller, desk.find())
    assert names(await anext(answers)) == ["/w1"]
    waiting = asyncio.ensure_future(anext(answers))
    for _ in range(10):
        await asyncio.sleep(0)
    desk.clock.advance(timedelta(minutes=2))
    assert names(await asyncio.wait_for(waiting, 60)) == []
    await answers.aclose()


async def test_a_process_is_attested_by_us_and_answers_end_with_it(desk: Desk) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        desk.workload("w1")
        says = Says("test:a", "test:workload")
        desk.workloads._attestors = [says]
        answers = desk.delegation.svids(desk.caller, desk.find(Numbered(process.pid)))
        assert "/w1" in names(await anext(answers))
        assert says.asked == 2
        process.kill()
        process.wait()
        desk.workload("w2")
        assert await code_of(anext(answers)) is PEER_GONE
    finally:
        process.kill()
        process.communicate()


async def test_a_process_that_is_vouched_for_later_is_looked_at_again(desk: Desk) -> None:
    desk.workload("w1")
    says = Says("test:a")
    desk.workloads._attestors = [says]
    answers = desk.delegation.svids(desk.caller, desk.find(Numbered(os.getpid())))
    assert "/w1" not in names(await anext(answers))
    waiting = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    says.selectors |= {Selector.parse("test:workload")}
    desk.vouched.notify()
    assert "/w1" in names(await asyncio.wait_for(waiting, 60))
    await answers.aclose()


def test_a_pid_that_nobody_has_is_refused() -> None:
    for pid in (-1, 2**31 - 1):
        with pytest.raises(VestibuleError) as caught:
            Numbered(pid)
        assert caught.value.code is PEER_GONE


async def test_the_bundle_is_told_again_when_it_changes(desk: Desk) -> None:
    bundles = desk.delegation.bundles(desk.caller)
    first = await anext(bundles)
    desk.workload("w1")
    newer = replace(first.own, sequence=first.own.sequence + 1)
    desk.cache.become(replace(desk.cache.now, bundle=newer))
    assert await asyncio.wait_for(anext(bundles), 60) == replace(first, own=newer)
    await bundles.aclose()
    desk.cache.become(replace(desk.cache.now, bundle=None))
    assert await code_of(anext(desk.delegation.bundles(desk.caller))) is NOT_READY
