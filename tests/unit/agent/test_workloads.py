"""What a caller gets, and when it hears again, in time that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from vestibule.agent.cache import Bundles, Held, Holdings, SvidCache
from vestibule.agent.changed import Changed
from vestibule.agent.codes import NO_IDENTITY, NOT_READY
from vestibule.agent.workloads import PATIENCE, TELL_AGAIN, Identities, Workloads
from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.testing import FakeClock, TestAuthority

TD = TrustDomain.parse("example.org")
HOUR = timedelta(hours=1)


class Caller:
    """A process that lives until it is told otherwise."""

    pid = 1
    gone = False

    def check(self) -> Any:
        if self.gone:
            raise PEER_GONE.error("gone")
        return self

    def pinned(self) -> Any:
        return self


class Says:
    """An attestor that says what it is told to."""

    name = "test"

    def __init__(self, *texts: str) -> None:
        self.selectors = frozenset(map(Selector.parse, texts))
        self.asked = 0

    async def attest(self, process: object) -> frozenset[Selector]:
        self.asked += 1
        return self.selectors


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.authority = TestAuthority(TD, now=self.clock.now(), ttl=HOUR * 240)
        self.cache = SvidCache()
        self.cache.become(Holdings(bundle=self.authority.bundle))
        self.cache.get_ready()
        self.vouched = Changed()
        self.attestor = Says("test:a", "test:b")
        self.workloads = Workloads(self.cache, [self.attestor], self.vouched, self.clock)

    def entry(self, name: str, *selectors: str, **more: Any) -> None:
        entry = Entry(
            id=name,
            spiffe_id=SpiffeId.of(TD, f"/{name}"),
            parent_id=SpiffeId.of(TD, "/spire/agent/x"),
            selectors=frozenset(map(Selector.parse, selectors or ("test:a",))),
            **more,
        )
        self.cache.become(replace(self.cache.now, entries={**self.cache.now.entries, name: entry}))

    def svid(self, name: str, ttl: timedelta = HOUR) -> None:
        svid = self.authority.svid(f"/{name}", ttl=ttl, now=self.clock.now())
        held = Held(svid=svid, renew_at=svid.not_after)
        self.cache.become(replace(self.cache.now, svids={**self.cache.now.svids, name: held}))

    def remove(self, name: str) -> None:
        entries = {key: value for key, value in self.cache.now.entries.items() if key != name}
        self.cache.become(replace(self.cache.now, entries=entries))

    def watch(self, caller: Caller | None = None) -> AsyncGenerator[Identities, None]:
        return self.workloads.watch(caller or Caller())


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def following(answers: AsyncGenerator[Identities, None]) -> asyncio.Task[Identities]:
    """The next answer, being waited for."""

    async def ask() -> Identities:
        return await anext(answers)

    task = asyncio.create_task(ask())
    for _ in range(10):
        await asyncio.sleep(0)
    return task


def paths(identities: Identities) -> list[str]:
    return [svid.spiffe_id.path for svid in identities.svids]


async def code_of(task: asyncio.Task[Identities]) -> object:
    with pytest.raises(VestibuleError) as error:
        await asyncio.wait_for(task, 60)
    return error.value.code


async def test_identities_come_by_entry_id_with_the_entries_hints(bench: Bench) -> None:
    for name in ("b", "a"):
        bench.entry(name, hint=f"hint {name}")
        bench.svid(name)
    found = await bench.workloads.fetch(Caller())
    assert paths(found) == ["/a", "/b"]
    assert [svid.hint for svid in found.svids] == ["hint a", "hint b"]
    assert found.bundle == bench.authority.bundle


async def test_all_of_an_entrys_selectors_are_needed(bench: Bench) -> None:
    for name, selectors in (("both", ("test:a", "test:b")), ("more", ("test:a", "test:z"))):
        bench.entry(name, *selectors)
        bench.svid(name)
    assert paths(await bench.workloads.fetch(Caller())) == ["/both"]


async def test_entries_for_stores_and_expired_entries_are_for_nobody(bench: Bench) -> None:
    bench.entry("stored", store_svid=True)
    bench.entry("over", expires_at=bench.clock.now())
    for name in ("stored", "over"):
        bench.svid(name)
    assert await code_of(await following(bench.watch())) is NO_IDENTITY


async def test_what_attestors_found_is_told_to_whoever_counts(bench: Bench) -> None:
    told: list[str] = []
    bench.workloads.observe = lambda findings: told.extend(each.attestor for each in findings)
    await bench.workloads.attest(Caller())
    assert told == ["test"]


async def test_who_has_no_identity_is_told_what_was_attested_and_the_log_tells_it_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vestibule.agent.workloads")
    bench.attestor.selectors |= {Selector("test", "sha256:" + "0" * 64), Selector("test", "uid:7")}
    for _ in range(3):
        with pytest.raises(VestibuleError) as refused:
            await bench.workloads.fetch(Caller())
        assert "(test:a, test:b, test:uid:7)" in refused.value.message
        assert refused.value.message.endswith("vestibule why --pid 1")
    assert len([each for each in caplog.messages if "VST2105" in each]) == 1
    bench.clock.advance(TELL_AGAIN)
    with pytest.raises(VestibuleError):
        await bench.workloads.fetch(Caller())
    assert len([each for each in caplog.messages if "VST2105" in each]) == 2


async def test_a_first_answer_waits_a_moment_for_certificates_being_issued(bench: Bench) -> None:
    bench.entry("a")
    answer = await following(bench.watch())
    assert not answer.done()
    bench.svid("a")
    assert paths(await asyncio.wait_for(answer, 60)) == ["/a"]


async def test_a_first_answer_does_not_wait_for_ever(bench: Bench) -> None:
    bench.entry("a")
    bench.entry("b")
    bench.svid("b")
    partial, nothing = await following(bench.watch()), await following(Bench().watch())
    nothing.cancel()
    bench.clock.advance(PATIENCE)
    assert paths(await asyncio.wait_for(partial, 60)) == ["/b"]


async def test_what_will_never_come_is_unavailable_in_the_end(bench: Bench) -> None:
    bench.entry("a")
    answer = await following(bench.watch())
    bench.clock.advance(PATIENCE)
    assert await code_of(answer) is NOT_READY


async def test_before_the_first_synchronisation_absence_means_nothing() -> None:
    bench = Bench()
    bench.cache.told = False
    answer = await following(bench.watch())
    assert not answer.done()
    bench.clock.advance(PATIENCE)
    assert await code_of(answer) is NOT_READY


async def test_others_changes_are_no_news(bench: Bench) -> None:
    bench.entry("a")
    bench.svid("a")
    answers = bench.watch()
    await anext(answers)
    following_one = await following(answers)
    bench.entry("z", "test:z")
    bench.svid("z")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not following_one.done()
    bench.svid("a")
    assert paths(await asyncio.wait_for(following_one, 60)) == ["/a"]


async def test_losing_one_identity_is_news_and_losing_all_is_the_end(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.entry(name)
        bench.svid(name)
    answers = bench.watch()
    await anext(answers)
    bench.remove("a")
    assert paths(await anext(answers)) == ["/b"]
    bench.remove("b")
    assert await code_of(await following(answers)) is NO_IDENTITY


async def test_an_svid_is_withdrawn_at_the_instant_it_expires(bench: Bench) -> None:
    bench.entry("a")
    bench.svid("a", ttl=HOUR)
    bench.entry("b")
    bench.svid("b", ttl=HOUR * 2)
    answers = bench.watch()
    assert paths(await anext(answers)) == ["/a", "/b"]
    second = await following(answers)
    bench.clock.advance(HOUR)
    assert paths(await asyncio.wait_for(second, 60)) == ["/b"]
    third = await following(answers)
    bench.clock.advance(HOUR)
    assert await code_of(third) is NOT_READY


async def test_a_supervisors_word_is_heard_on_open_streams(bench: Bench) -> None:
    bench.entry("a")
    bench.svid("a")
    answers = bench.watch()
    await anext(answers)
    bench.attestor.selectors = frozenset()
    bench.vouched.notify()
    assert await code_of(await following(answers)) is NO_IDENTITY


async def test_without_such_a_word_nobody_is_attested_twice(bench: Bench) -> None:
    bench.entry("a")
    bench.svid("a")
    answers = bench.watch()
    await anext(answers)
    for _ in range(3):
        bench.svid("a")
        await anext(answers)
    assert bench.attestor.asked == 1


async def test_a_caller_that_ended_hears_nothing_more(bench: Bench) -> None:
    bench.entry("a")
    bench.svid("a")
    caller = Caller()
    answers = bench.watch(caller)
    await anext(answers)
    caller.gone = True
    bench.svid("a")
    assert await code_of(await following(answers)) is PEER_GONE


def test_ids_are_told_before_there_is_a_certificate(bench: Bench) -> None:
    bench.entry("a")
    bench.entry("b", "test:z")
    assert bench.workloads.ids(frozenset({Selector("test", "a")})) == [SpiffeId.of(TD, "/a")]


async def test_the_bundle_is_for_those_with_an_identity_and_outlives_their_certificates(bench: Bench) -> None:
    with pytest.raises(VestibuleError, match=NO_IDENTITY.code):
        await bench.workloads.bundles(Caller())
    bench.entry("a")
    bundles = bench.workloads.watch_bundles(Caller())
    assert await anext(bundles) == Bundles(own=bench.authority.bundle)
    waiting = asyncio.create_task(anext(bundles))
    bench.svid("a")
    changed = bench.authority.jwt_bundle
    bench.cache.become(replace(bench.cache.now, bundle=changed))
    assert await waiting == Bundles(own=changed), "a new certificate is no news of the bundle"
    waiting = asyncio.create_task(anext(bundles))
    bench.remove("a")
    with pytest.raises(VestibuleError, match=NO_IDENTITY.code):
        await waiting


async def test_the_entries_of_a_process_come_in_the_order_of_their_ids(bench: Bench) -> None:
    bench.entry("b")
    bench.entry("a", "test:a", "test:b")
    bench.entry("c", "test:elsewhere")
    assert [each.id for each in await bench.workloads.entries(Caller())] == ["a", "b"]
