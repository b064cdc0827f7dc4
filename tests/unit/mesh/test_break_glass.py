"""Break-glass on the server: who may open it for what, how it ends, and that all of it is on record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.mesh.test_rolling import Records

from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.errors import VestibuleError
from vestibule.intent import load_files
from vestibule.mesh.break_glass import BreakGlass
from vestibule.mesh.break_glass_orders import Order
from vestibule.policy import Effect, IdentityMatch, PathPattern, Rule
from vestibule.records import LONGEST_TOLD, OTHERS, EmergencyUse
from vestibule.spiffe import SpiffeId
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

FILES = {
    "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
    b"roles: {ops: ['spiffe://example.org/ns/ops/**', orders]}\n",
    "services/orders.yaml": b"service: orders\nports: {http: {protocol: http}}\n",
    "services/ledger.yaml": b"service: ledger\nports: {tcp: {protocol: tcp}}\n",
    "services/payments.yaml": b"service: payments\nports: {http: {protocol: http}, raw: {protocol: tcp}}\n"
    b"allow:\n  - {id: read, from: [orders], port: http, methods: [GET]}\n",
}
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/one")
OTHER = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/two")
ORDERS = "spiffe://example.org/ns/prod/sa/orders"
PAYMENTS = "spiffe://example.org/ns/prod/sa/payments"
NO_ADMIN = Rule(
    name="payments/no-admin",
    callers=(IdentityMatch(id=SpiffeId.parse(ORDERS)),),
    port="http",
    paths=(PathPattern.parse("/admin/**"),),
    effect=Effect.DENY,
)
ORDER = Order(
    opener="local:uid=1234,pid=77",
    caller="orders",
    service="payments",
    port="http",
    method="POST",
    path="/v1/refunds/**",
    reason="refunds hang since the deploy",
    ticket="INC-7",
    approver="ann",
    lasts=timedelta(hours=1),
)


class Room:
    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store, self.clock, self.records = store, clock, Records()
        intent = load_files(FILES).intent
        assert intent is not None
        payments = replace(intent.services["payments"], deny=(NO_ADMIN,))
        self.intent = replace(intent, services={**intent.services, "payments": payments})
        self.uses: list[tuple[str, int]] = []
        self.glass = self.another()
        self.glass.observe = lambda service, count: self.uses.append((service, count))

    def another(self) -> BreakGlass:
        """A server of the same database."""
        return BreakGlass(
            self.store,
            self.records,
            self.clock,
            intents=lambda: (self.intent,),
            entitled=lambda agent, _: agent == AGENT,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.glass.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def use(self, rule: str) -> EmergencyUse:
        now = self.clock.now()
        return EmergencyUse(
            rule=rule,
            service="payments",
            spiffe_id=PAYMENTS,
            instance_id="i-1",
            caller=ORDERS,
            port="http",
            method="POST",
            path="/v1/refunds/7",
            count=3,
            first=now,
            last=now,
            request_ids=("a", "b"),
        )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    clock = FakeClock()
    store = await open_store(tmp_path / "vestibule.db", clock)
    yield Room(store, clock)
    await store.close()


async def refusal(room: Room, **other: Any) -> str:
    with pytest.raises(VestibuleError) as raised:
        await room.glass.open(replace(ORDER, **other))
    assert not room.records.actions, "what is refused is not on record as open"
    assert not await room.glass.all()
    return raised.value.code.code


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_opened_holds_and_is_on_record_with_who_and_why(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    assert room.glass.holding() == (emergency,)
    assert emergency.callers == (ORDERS,)
    assert emergency.expires_at == room.clock.now() + timedelta(hours=1)
    event = room.records.events[0]
    assert (event.actor, event.action, event.subject) == (ORDER.opener, "break-glass.open", emergency.rule)
    assert event.details["ticket"] == "INC-7"
    assert event.details["approver"] == "ann"
    assert event.details["reason"] == ORDER.reason


async def test_without_a_record_nothing_is_opened(room: Room) -> None:
    room.records.full = AUDIT_UNAVAILABLE.error("full")
    with pytest.raises(VestibuleError, match="full"):
        await room.glass.open(ORDER)
    assert not room.glass.holding()
    assert not await room.glass.all()


@pytest.mark.parametrize("missing", ["reason", "ticket", "approver"])
async def test_reason_ticket_and_approver_are_asked_for(room: Room, missing: str) -> None:
    assert await refusal(room, **{missing: " "}) == "VST4090"
    assert await refusal(room, **{missing: "two\nlines"}) == "VST4090"


@pytest.mark.parametrize(
    ("opener", "approver"),
    [
        ("local:uid=0,pid=5", "root"),
        ("local:uid=0,pid=5", " ROOT "),
        ("local:uid=0,pid=5", "uid=0"),
        ("spiffe://example.org/admin/ann", "spiffe://example.org/admin/ann"),
        ("spiffe://example.org/admin/ann", "Ann"),
    ],
)
async def test_nobody_approves_what_they_open_themselves(room: Room, opener: str, approver: str) -> None:
    assert await refusal(room, opener=opener, approver=approver) == "VST4091"


@pytest.mark.parametrize("lasts", [timedelta(), timedelta(hours=4, seconds=1), timedelta(days=-1)])
async def test_it_lasts_four_hours_at_most(room: Room, lasts: timedelta) -> None:
    assert await refusal(room, lasts=lasts) == "VST4090"


async def test_names_are_those_of_the_intent(room: Room) -> None:
    assert await refusal(room, caller="order") == "VST4092"
    assert await refusal(room, caller="role:op") == "VST4092"
    assert await refusal(room, service="payment") == "VST4092"
    assert await refusal(room, port="grpc") == "VST4092"
    assert await refusal(room, caller="anyone") == "VST4090"
    assert await refusal(room, caller="spiffe://example.org/**") == "VST4090"
    assert await refusal(room, caller="spiffe://other.org/ns/prod/sa/orders") == "VST4090"
    assert await refusal(room, caller="spiffe://example.org/spire/agent/join_token/one") == "VST4090"


async def test_methods_and_paths_are_for_http(room: Room) -> None:
    assert await refusal(room, port="raw") == "VST4090"
    assert await refusal(room, service="ledger", port="") == "VST4090"
    assert await refusal(room, method="FETCH") == "VST4090"
    tcp = replace(ORDER, service="ledger", port="", method="", path="")
    assert (await room.glass.open(tcp)).emergency.port == "tcp"


async def test_a_role_stands_for_its_members(room: Room) -> None:
    emergency = (await room.glass.open(replace(ORDER, caller="role:ops"))).emergency
    assert emergency.callers == ("spiffe://example.org/ns/ops/**", ORDERS)


async def test_the_opener_hears_of_rules_that_make_it_useless(room: Room) -> None:
    denied = await room.glass.open(replace(ORDER, path="/admin/users"))
    assert any("payments/no-admin denies" in each for each in denied.warnings)
    needless = await room.glass.open(replace(ORDER, method="GET"))
    assert any("payments/read allows" in each for each in needless.warnings)
    assert not (await room.glass.open(ORDER)).warnings


async def test_it_is_closed_once_and_that_is_on_record(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    closed = await room.glass.close(emergency.id, "local:uid=0,pid=1")
    assert closed.closed_by == "local:uid=0,pid=1"
    assert not room.glass.holding()
    assert room.records.actions == ["break-glass.open", "break-glass.close"]
    with pytest.raises(VestibuleError, match="not open"):
        await room.glass.close(emergency.id, "local:uid=0,pid=1")


async def test_its_end_by_itself_is_on_record_and_whoever_follows_hears_of_it(room: Room) -> None:
    async with room.running():
        emergency = (await room.glass.open(ORDER)).emergency
        seen = room.glass.revision.value
        room.clock.advance(timedelta(minutes=59))
        assert room.glass.holding()
        room.clock.advance(timedelta(minutes=1))
        assert not room.glass.holding()
        await until(lambda: "break-glass.expire" in room.records.actions)
        await until(lambda: room.glass.revision.value > seen)
        assert [each.closed_at for each in await room.glass.all()] == [emergency.expires_at]


async def test_its_end_is_put_on_record_as_soon_as_there_is_room(room: Room) -> None:
    async with room.running():
        await room.glass.open(ORDER)
        room.records.full = AUDIT_UNAVAILABLE.error("full")
        room.clock.advance(timedelta(hours=1))
        await asyncio.sleep(0.05)
        assert room.records.actions == ["break-glass.open"]
        assert not room.glass.holding()
        room.records.full = None
        async with asyncio.timeout(60):
            while "break-glass.expire" not in room.records.actions:
                room.clock.advance(timedelta(seconds=3))
                await asyncio.sleep(0.005)


async def test_it_outlives_a_restart_of_the_server(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    again = room.another()
    await again.load()
    assert again.holding() == (emergency,)


async def test_other_servers_of_the_database_hear_of_it(room: Room) -> None:
    async with room.running():
        other = room.another()
        emergency = (await other.open(ORDER)).emergency
        await until(lambda: room.glass.holding() == (emergency,))
        await other.close(emergency.id, "somebody")
        await until(lambda: not room.glass.holding())


async def test_every_use_is_on_record_counted_and_told(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    await room.glass.used(AGENT, "batch-1", [room.use(emergency.rule)])
    event = room.records.events[-1]
    assert (event.action, event.actor, event.subject, event.outcome) == (
        "break-glass.use",
        ORDERS,
        emergency.rule,
        "ok",
    )
    assert (event.details["count"], event.details["request_ids"]) == (3, ("a", "b"))
    assert event.details["ticket"] == "INC-7"
    assert room.uses == [("payments", 3)]
    assert [each.uses for each in await room.glass.all()] == [3]
    assert f"{emergency.rule} was used 3 times" in caplog.text


async def test_a_report_that_comes_twice_counts_once(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    for _ in range(2):
        await room.glass.used(AGENT, "batch-1", [room.use(emergency.rule)])
    assert room.uses == [("payments", 3)]
    await room.glass.used(AGENT, "batch-2", [room.use(emergency.rule)])
    assert [each.uses for each in await room.glass.all()] == [6]


async def test_a_report_that_a_former_run_put_on_record_counts_once(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    await room.glass.used(AGENT, "batch-1", [room.use(emergency.rule)])
    again = BreakGlass(
        room.store,
        room.records,
        room.clock,
        intents=lambda: (room.intent,),
        entitled=lambda agent, _: agent == AGENT,
        recorded=lambda: [(str(AGENT), "batch-1")],
    )
    await again.load()
    await again.take_up()
    before = len(room.records.events)
    await again.used(AGENT, "batch-1", [room.use(emergency.rule)])
    assert len(room.records.events) == before
    await again.used(AGENT, "batch-2", [room.use(emergency.rule)])
    assert len(room.records.events) == before + 1


async def test_a_use_that_cannot_be_put_on_record_is_to_be_reported_again(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    room.records.full = AUDIT_UNAVAILABLE.error("full")
    with pytest.raises(VestibuleError, match="full"):
        await room.glass.used(AGENT, "batch-1", [room.use(emergency.rule)])
    room.records.full = None
    await room.glass.used(AGENT, "batch-1", [room.use(emergency.rule)])
    assert room.uses == [("payments", 3)]


@pytest.mark.parametrize(
    ("agent", "other", "outcome"),
    [
        (OTHER, {}, "not an identity of this agent"),
        (AGENT, {"rule": "break-glass/unknown"}, "unknown permission"),
        (AGENT, {"spiffe_id": ORDERS}, "not the callee of this permission"),
        (AGENT, {"spiffe_id": "nobody"}, "not an identity"),
        (AGENT, {"caller": PAYMENTS}, "not what this permission allows"),
        (AGENT, {"caller": ""}, "not what this permission allows"),
        (AGENT, {"port": "raw"}, "not what this permission allows"),
        (AGENT, {"method": "DELETE"}, "not what this permission allows"),
        (AGENT, {"path": "/v1/charges"}, "not what this permission allows"),
        (AGENT, {"method": OTHERS, "path": OTHERS}, "ok"),
        (AGENT, {"method": OTHERS, "path": OTHERS, "caller": OTHERS, "port": OTHERS}, "ok"),
        (AGENT, {"path": "/v1/refunds/".ljust(LONGEST_TOLD, "x")}, "ok"),
    ],
)
async def test_what_cannot_be_so_is_on_record_as_that(
    room: Room, agent: SpiffeId, other: dict[str, Any], outcome: str
) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    await room.glass.used(agent, "batch-1", [replace(room.use(emergency.rule), **other)])
    assert room.records.events[-1].outcome == outcome


async def test_a_use_that_is_reported_after_the_end_is_on_record(room: Room) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    use = room.use(emergency.rule)
    room.clock.advance(timedelta(hours=2))
    await room.glass.used(AGENT, "batch-1", [use])
    assert room.records.events[-1].outcome == "ok"


@pytest.mark.parametrize("other", [{"last": timedelta(hours=2)}, {"first": timedelta(minutes=-10)}])
async def test_a_use_before_the_beginning_or_after_the_end_is_on_record_as_that(
    room: Room, other: dict[str, timedelta]
) -> None:
    emergency = (await room.glass.open(ORDER)).emergency
    now = room.clock.now()
    times: dict[str, Any] = {name: now + by for name, by in other.items()}
    use = replace(room.use(emergency.rule), **times)
    await room.glass.used(AGENT, "batch-1", [use])
    assert room.records.events[-1].outcome == "not what this permission allows"
