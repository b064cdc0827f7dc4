"""Rollouts at work: with a source, a history, proxies that answer, and servers that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.mesh.kept import KeptInstances, KeptRollouts
from tests.unit.mesh.test_discovery import FILES, at, instance

from vestibule.audit import AuditEvent
from vestibule.errors import VestibuleError
from vestibule.intent import load_files
from vestibule.mesh import DirectorySource, Discovery, Rolling
from vestibule.mesh.error_rates import Count, Report, Side
from vestibule.mesh.rollout import Phase
from vestibule.records import IntentOutcome
from vestibule.store.codes import STORE_UNUSABLE
from vestibule.testing import FakeClock
from vestibule.xds.ledger import Ledger, Session
from vestibule.xds.messages import Settled
from vestibule.xds.resources import AGGREGATED_TYPES, LISTENER, ProxyKey, Resource, Snapshot

PAYMENTS = FILES["services/payments.yaml"].decode()


class Records:
    """An audit log that may be full."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.events: list[AuditEvent] = []
        self.full: VestibuleError | None = None

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.full is not None:
            raise self.full
        self.events += events
        self.actions += [each.action for each in events]

    async def record_or_defer(self, events: Sequence[AuditEvent]) -> None:
        self.events += events
        self.actions += [each.action for each in events]


class Mesh:
    """What outlives a server: files, the store, the proxies."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.files = dict(FILES)
        self.history = KeptRollouts()
        self.instances = KeptInstances()
        self.records = Records()


class Server:
    """One server on a mesh."""

    def __init__(self, mesh: Mesh, *, leads: bool = True) -> None:
        self.mesh, self.leads = mesh, leads
        self.source = DirectorySource(Path("intent"), mesh.clock, read=lambda _: load_files(mesh.files))
        self.ledger = Ledger(heard=lambda proxy, event: self.rolling.heard(proxy, event))
        self.rolling = Rolling(
            self.source,
            mesh.history,
            mesh.records,
            mesh.clock,
            instances=lambda: self.discovery.instances(),
            proxy=self.ledger.state,
            leads=lambda: self.leads,
        )
        self.discovery = Discovery(mesh.instances, self.rolling, mesh.clock)
        self.sessions: dict[str, Session] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.source.load()
        await self.discovery.load()
        await self.rolling.load()
        self._task = asyncio.create_task(self.rolling.run())
        await self.quiet()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def quiet(self) -> None:
        """Everybody had their turn many times."""
        for _ in range(200):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)

    async def proxy(self, service: str, name: str) -> ProxyKey:
        """A proxy that connects and takes what it is to have."""
        number = 1000 + 10 * len(self.mesh.instances.kept)
        made = instance(
            service,
            id=name,
            ingress={"http": at(number)},
            apps={"http": at(number + 1)},
            egress=at(number + 2),
        )
        await self.discovery.register(made)
        key = ProxyKey(made.spiffe_id, name)
        self.sessions[name] = self.ledger.open(key, self.mesh.clock.now())
        self.answer(key)
        return key

    def answer(self, proxy: ProxyKey, refused: str = "", version: str = "") -> None:
        """The proxy takes what it is to have, or refuses its listener."""
        wanted = version or self.rolling.version_for(proxy)
        assert wanted is not None
        snapshot = Snapshot.of(wanted, [Resource(LISTENER, "in", wanted.encode(), wanted)])
        for url in AGGREGATED_TYPES:
            said = {"in": refused} if refused and url == LISTENER else {}
            event = Settled(type_url=url, snapshot=snapshot, refused=said)
            self.sessions[proxy.instance_id].note(event, self.mesh.clock.now())

    async def edit(self, text: str, name: str = "services/payments.yaml") -> str:
        self.mesh.files[name] = text.encode()
        await self.source.load()
        await self.quiet()
        assert self.source.reading.intent is not None
        return self.source.reading.intent.version

    async def later(self, seconds: float) -> None:
        """Time passes; whoever waits for an instant looks again."""
        self.mesh.clock.advance(seconds)
        self.rolling._news.bump()
        await self.quiet()

    def version(self, proxy: ProxyKey) -> str | None:
        return self.rolling.version_for(proxy)

    @property
    def phase(self) -> Phase:
        return self.rolling.state.phase


@pytest.fixture
async def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
async def start(mesh: Mesh) -> AsyncIterator[Callable[..., asyncio.Future[Server]]]:
    started: list[Server] = []

    async def make(*, leads: bool = True) -> Server:
        server = Server(mesh, leads=leads)
        started.append(server)
        await server.start()
        return server

    yield make  # type: ignore[misc]
    for each in started:
        await each.stop()


Start = Callable[..., asyncio.Future[Server]]


async def test_the_first_intent_is_in_force_at_once_and_on_record(start: Start, mesh: Mesh) -> None:
    server = await start()
    [intent] = server.rolling.in_force()
    assert intent.version == server.rolling.state.good
    assert mesh.records.actions == ["intent.accept"]
    [row] = server.rolling.history
    assert (row.version, row.outcome) == (intent.version, IntentOutcome.GOOD)


async def test_a_new_intent_is_for_all_at_once_and_good_after_ten_seconds(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    assert (server.version(web), server.phase) == (new, Phase.REST)
    server.answer(web)
    await server.later(9)
    assert server.rolling.state.good != new
    await server.later(2)
    assert (server.rolling.state.good, server.phase) == (new, Phase.STEADY)
    assert [each.outcome for each in server.rolling.history] == [IntentOutcome.GOOD] * 2


async def test_a_nack_takes_it_back_from_all_and_the_reason_is_kept(start: Start, mesh: Mesh) -> None:
    server = await start()
    web, payments = await server.proxy("web", "web-1"), await server.proxy("payments", "payments-1")
    good = server.version(web)
    bad = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web)
    server.answer(payments, refused="unknown field")
    await server.quiet()
    assert {server.version(web), server.version(payments)} == {good}
    assert server.phase is Phase.REFUSED
    assert "payments-1 refused Listener in: unknown field" in server.rolling.state.reason
    assert server.rolling.history[0].outcome is IntentOutcome.REFUSED
    assert mesh.records.actions[-2:] == ["intent.try", "intent.refuse"]
    await server.later(120)
    assert server.version(web) == good
    mended = await server.edit(PAYMENTS.replace("[POST]", "[PUT]"))
    assert mended != bad
    assert server.version(web) == mended


async def test_a_refused_resource_that_the_good_intent_has_too_is_not_the_new_ones_fault(
    start: Start,
) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    same = Resource(LISTENER, "in", new.encode(), new)
    server.rolling.judging.refusals.would_have = lambda _: Snapshot.of("good", [same])
    server.answer(web, refused="Address already in use")
    await server.later(11)
    assert server.rolling.state.good == new


async def test_what_was_refused_before_is_not_the_new_ones_fault(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    server.answer(web, refused="Address already in use")
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web, refused="Address already in use")
    await server.later(11)
    assert server.rolling.state.good == new


async def test_one_refusal_is_looked_into_and_those_of_all_other_proxies_are_not(start: Start) -> None:
    server = await start()
    proxies = [await server.proxy("web", f"web-{number}") for number in range(9)]
    asked: list[ProxyKey] = []
    await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.rolling.judging.refusals.would_have = asked.append
    for each in proxies:
        server.answer(each, refused="no")
    assert len(asked) == 1
    await server.quiet()
    assert server.phase is Phase.REFUSED


async def test_a_first_wave_goes_first_and_the_rest_follows(start: Start, mesh: Mesh) -> None:
    server = await start()
    waved(server)
    proxies = [await server.proxy("web", f"web-{number}") for number in range(4)]
    good = server.version(proxies[0])
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    first = [each for each in proxies if server.version(each) == new]
    assert (len(first), server.phase) == (1, Phase.FIRST)
    assert [each.version for each in server.rolling.in_force()] == [good, new]
    server.answer(first[0])
    await server.later(11)
    assert {server.version(each) for each in proxies} == {new}
    for each in proxies:
        server.answer(each)
    await server.later(11)
    assert server.rolling.state.good == new
    assert mesh.records.actions[-3:] == ["intent.try", "intent.widen", "intent.accept"]


def waved(server: Server, first: int = 25) -> None:
    """Intents that are read from now on ask for a first wave."""

    def read(_: Path) -> object:
        loaded = load_files(server.mesh.files)
        if loaded.intent is None:
            return loaded
        mesh = loaded.intent.mesh
        mesh = replace(mesh, rollout=replace(mesh.rollout, first=first))
        return replace(loaded, intent=replace(loaded.intent, mesh=mesh))

    server.source._read = read  # type: ignore[assignment]


async def test_one_silent_proxy_does_not_block_for_ever(start: Start) -> None:
    server = await start()
    web, _silent = await server.proxy("web", "web-1"), await server.proxy("web", "web-2")
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web)
    await server.later(11)
    assert server.rolling.state.good != new
    await server.later(30)
    assert server.rolling.state.good == new


async def test_a_service_that_falls_silent_takes_it_back(start: Start) -> None:
    server = await start()
    web, payments = await server.proxy("web", "web-1"), await server.proxy("payments", "payments-1")
    await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web)
    await server.later(41)
    assert server.phase is Phase.REFUSED
    assert "no proxy of payments has answered" in server.rolling.state.reason
    assert server.version(payments) == server.rolling.state.good


async def test_a_disconnected_proxy_is_not_waited_for(start: Start) -> None:
    server = await start()
    await server.proxy("web", "web-1")
    server.sessions["web-1"].close(server.mesh.clock.now())
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    await server.later(11)
    assert server.rolling.state.good == new


def report(server: Server, proxy: ProxyKey, requests: int, failed: int) -> None:
    count = Count(requests, 0, failed)
    said = Report(instance_id=proxy.instance_id, service="web", counts=((Side.OUTBOUND, count),))
    server.rolling.take_report(proxy, said)


async def spike(server: Server, text: str, name: str = "services/payments.yaml") -> None:
    """A change, after which most requests fail."""
    web = await server.proxy("web", "web-1")
    report(server, web, 0, 0)
    report(server, web, 100, 0)
    await server.edit(text, name)
    server.answer(web)
    report(server, web, 100, 0)
    report(server, web, 200, 60)
    await server.later(3)


async def test_an_error_spike_takes_it_back(start: Start) -> None:
    server = await start()
    await spike(server, PAYMENTS.replace("db: {protocol: tcp}", "db: {protocol: http}"))
    assert server.phase is Phase.REFUSED
    assert "60 of 100 requests of web to others failed" in server.rolling.state.reason


async def test_those_whom_a_rule_stops_cannot_take_it_back_by_failing(start: Start) -> None:
    server = await start()
    await spike(server, PAYMENTS.replace("[web]", "[payments]"))
    assert server.phase is Phase.REST


async def test_a_restarted_server_goes_on_with_the_first_wave(start: Start) -> None:
    server = await start()
    waved(server)
    proxies = [await server.proxy("web", f"web-{number}") for number in range(4)]
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    before = {each: server.version(each) for each in proxies}
    await server.stop()
    again = await start()
    assert again.phase is Phase.FIRST
    assert {each: again.version(each) for each in proxies} == before
    assert new in before.values()


async def test_a_restarted_server_serves_the_last_good_when_the_source_is_broken(
    start: Start, mesh: Mesh
) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    good = server.version(web)
    await server.stop()
    mesh.files["mesh.yaml"] = b"mesh: [\n"
    again = await start()
    assert again.source.reading.intent is None
    assert again.version(web) == good
    assert [each.version for each in again.rolling.in_force()] == [good]


async def test_a_restarted_server_does_not_try_again_what_was_refused(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    good = server.version(web)
    await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web, refused="no")
    await server.quiet()
    await server.stop()
    again = await start()
    assert (again.version(web), again.phase) == (good, Phase.REFUSED)
    assert "web-1 refused" in again.rolling.state.reason


async def test_an_operator_rolls_back_until_the_source_changes(start: Start, mesh: Mesh) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    old = server.version(web)
    new = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web)
    await server.later(11)
    await server.rolling.roll_back("ada", "", "orders are slow")
    assert (server.version(web), server.phase) == (old, Phase.PINNED)
    assert mesh.records.events[-1].details["reason"] == "orders are slow"
    assert server.rolling.history[0].outcome is IntentOutcome.ROLLED_BACK
    await server.stop()
    again = await start()
    assert again.version(web) == old
    again.sessions["web-1"] = again.ledger.open(web, mesh.clock.now())
    await again.rolling.resume("ada", "mended elsewhere")
    assert again.version(web) == new
    with pytest.raises(VestibuleError, match="VST3241"):
        await again.rolling.roll_back("ada", "unheard-of", "")


async def test_nothing_new_is_taken_up_without_a_record(start: Start, mesh: Mesh) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    good = server.version(web)
    await server.stop()
    mesh.records.full = STORE_UNUSABLE.error("full")
    mesh.files["services/payments.yaml"] = PAYMENTS.replace("[POST]", "[GET]").encode()
    again = await start()
    assert again.version(web) == good


async def test_going_back_waits_for_no_disk(start: Start, mesh: Mesh) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    good = server.version(web)
    await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    mesh.history.broken = STORE_UNUSABLE.error("full")
    server.answer(web, refused="no")
    await server.quiet()
    assert server.version(web) == good
    mesh.history.broken = None
    await server.stop()
    server._task = asyncio.create_task(server.rolling.run())
    await server.quiet()
    assert server.rolling.history[0].outcome is IntentOutcome.REFUSED


async def test_a_server_that_does_not_lead_follows_and_may_only_go_back(start: Start, mesh: Mesh) -> None:
    leader = await start()
    web = await leader.proxy("web", "web-1")
    good = leader.version(web)
    other = await start(leads=False)
    new = await leader.edit(PAYMENTS.replace("[POST]", "[GET]"))
    await other.rolling.follow()
    assert other.version(web) == new
    other.sessions["web-1"] = other.ledger.open(web, mesh.clock.now())
    other.answer(web, refused="no")
    await other.quiet()
    await leader.rolling.follow()
    assert {leader.version(web), other.version(web)} == {good}
    assert leader.phase is Phase.REFUSED


async def test_a_refusal_outlives_the_race_with_another_server(start: Start, mesh: Mesh) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    good = server.version(web)
    bad = await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    assert mesh.history.now is not None
    # Another server was faster by a moment, without knowing of any refusal: its word about the trial counts.
    mesh.history.now = replace(mesh.history.now, revision=mesh.history.now.revision + 1)
    server.answer(web, refused="no")
    await server.quiet()
    assert (server.phase, server.version(web)) == (Phase.REFUSED, good)
    assert mesh.history.now is not None
    assert server.rolling.history[0].outcome is IntentOutcome.REFUSED
    # What is kept says so, too: whoever starts now does not try it again.
    other = await start(leads=False)
    assert (other.phase, other.rolling.state.failed) == (Phase.REFUSED, bad)


LOCKED = PAYMENTS.split("allow:")[0] + "allow: []\n"


async def test_who_only_loses_by_a_lockdown_cannot_take_it_back_by_refusing(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    locked = await server.edit(LOCKED)
    server.answer(web, refused="I want my rights back")
    await server.later(11)
    assert (server.rolling.state.good, server.version(web)) == (locked, locked)


async def test_who_is_to_enforce_a_lockdown_and_cannot_is_heard(start: Start) -> None:
    server = await start()
    payments = await server.proxy("payments", "payments-1")
    good = server.version(payments)
    await server.edit(LOCKED)
    server.answer(payments, refused="unknown field")
    await server.quiet()
    assert (server.phase, server.version(payments)) == (Phase.REFUSED, good)


async def test_a_change_that_takes_and_gives_is_judged_by_all(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    await server.edit(PAYMENTS.replace("[POST]", "[GET]"))
    server.answer(web, refused="no")
    await server.quiet()
    assert server.phase is Phase.REFUSED


async def test_a_change_that_takes_nothing_is_judged_by_all(start: Start) -> None:
    server = await start()
    web = await server.proxy("web", "web-1")
    await server.edit(f"{PAYMENTS}# a word\n")
    server.answer(web, refused="no")
    await server.quiet()
    assert server.phase is Phase.REFUSED
