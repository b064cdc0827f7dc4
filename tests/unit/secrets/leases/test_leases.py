"""Leases begin, are renewed, and end, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.codes import DATABASE_UNREACHABLE, STATEMENT_FAILED
from vestibule.secrets.leases import Lease, Leases, LeaseState, NewLease, NotMadeError
from vestibule.secrets.leases.ending import LAST_RETRY, PATIENCE, retry_after
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock
from vestibule.testing.barrier import MemoryBarrier

PAYMENTS = SpiffeId.parse("spiffe://example.org/shop/payments")
ORDERS = SpiffeId.parse("spiffe://example.org/shop/orders")
HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)


class Engine:
    """Remembers what exists; fails with ``problem``, at the targets of ``down`` only where that is given."""

    def __init__(self) -> None:
        self.existing: dict[str, datetime] = {}
        self.problem: VestibuleError | None = None
        self.down: frozenset[str] = frozenset()
        self.attempts: list[str] = []

    async def make(self, lease: Lease) -> None:
        self.existing[lease.id] = lease.expires

    async def renew(self, lease: Lease, expires: datetime) -> None:
        self._check(lease)
        self.existing[lease.id] = expires

    async def revoke(self, lease: Lease) -> None:
        self.attempts.append(lease.id)
        self._check(lease)
        self.existing.pop(lease.id, None)

    def _check(self, lease: Lease) -> None:
        if self.problem is not None and (not self.down or lease.target in self.down):
            raise self.problem


class Bench:
    """A barrier, and leases on it, which can be restarted."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.barrier = MemoryBarrier()
        self.engine = Engine()
        self.audit: list[AuditEvent] = []
        self.leads = True
        self.leases = self.server()

    def server(self, leads: Callable[[], bool] | None = None, most: int = 200) -> Leases:
        leases = Leases(
            self.barrier, self.clock, record=self.record, leads=leads or (lambda: self.leads), most_per_identity=most
        )  # fmt: skip
        leases.mount("database", self.engine)
        return leases

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.audit += events

    async def grant(
        self,
        owner: SpiffeId = PAYMENTS,
        path: str = "database/creds/payments",
        target: str = "pg",
        make: Callable[[Lease], Awaitable[None]] | None = None,
        leases: Leases | None = None,
    ) -> Lease:
        wanted = NewLease(path=path, owner=owner, ttl=HOUR, max_ttl=DAY, target=target, credential={})
        return await (leases or self.leases).grant(wanted, make or self.engine.make)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.leases.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def down(self, *targets: str) -> None:
        self.engine.problem = DATABASE_UNREACHABLE.error("the database cannot be reached: it is down")
        self.engine.down = frozenset(targets)

    def up(self) -> None:
        self.engine.problem = None


@pytest.fixture
def bench() -> Bench:
    return Bench()


def code(raised: pytest.ExceptionInfo[VestibuleError]) -> str:
    return raised.value.code.code


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0)


# ----------------------------------------------------------------------------------------------- begin


async def test_a_lease_tells_what_it_is(bench: Bench) -> None:
    lease = await bench.grant()
    assert lease.id.startswith("database/creds/payments/")
    assert (lease.path, lease.mount) == ("database/creds/payments", "database")
    assert (lease.state, lease.owner) == (LeaseState.ACTIVE, PAYMENTS)
    assert (lease.expires, lease.latest) == (bench.clock.now() + HOUR, bench.clock.now() + DAY)
    assert lease.renewable
    assert await bench.leases.lookup(lease.id) == lease


async def test_the_lease_is_kept_before_anything_is_made(bench: Bench) -> None:
    async def look(lease: Lease) -> None:
        kept = await bench.leases.lookup(lease.id)
        assert kept is not None
        assert kept.state is LeaseState.PENDING

    await bench.grant(make=look)


async def test_what_fails_half_way_is_revoked_although_nobody_was_told_of_it(bench: Bench) -> None:
    async def half(lease: Lease) -> None:
        await bench.engine.make(lease)
        raise STATEMENT_FAILED.error("the last of the statements failed")

    with pytest.raises(VestibuleError):
        await bench.grant(make=half)
    assert bench.engine.existing
    await bench.leases.round()
    assert not bench.engine.existing


async def test_what_was_given_up_is_looked_for_until_it_cannot_come_any_more(bench: Bench) -> None:
    async def lost(lease: Lease) -> None:
        raise STATEMENT_FAILED.error("the connection broke")

    with pytest.raises(VestibuleError):
        await bench.grant(make=lost)
    await bench.leases.round()
    (left,) = await bench.leases.children("database/creds/payments")
    late = await bench.leases.lookup(f"database/creds/payments/{left}")
    assert late is not None
    await bench.engine.make(late)
    bench.clock.advance(PATIENCE)
    await bench.leases.round()
    assert not bench.engine.existing
    assert await bench.leases.children("database/creds/payments") == []


async def test_what_was_certainly_not_made_leaves_no_lease(bench: Bench) -> None:
    async def never(lease: Lease) -> None:
        raise NotMadeError.of(DATABASE_UNREACHABLE.error("down"))

    with pytest.raises(VestibuleError) as raised:
        await bench.grant(make=never)
    assert code(raised) == "VST5415"
    assert await bench.leases.children("database/creds/payments") == []
    assert bench.engine.attempts == []


async def test_a_request_that_is_cut_off_leaves_nothing_for_ever(bench: Bench) -> None:
    async def cut(lease: Lease) -> None:
        await bench.engine.make(lease)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await bench.grant(make=cut)
    await bench.leases.round()
    assert bench.engine.existing, "somebody may still be at it"
    bench.clock.advance(PATIENCE)
    await bench.leases.round()
    assert not bench.engine.existing


async def test_what_was_given_up_meanwhile_is_not_handed_out(bench: Bench) -> None:
    async def slow(lease: Lease) -> None:
        bench.clock.advance(PATIENCE)
        await bench.leases.round()
        await bench.engine.make(lease)

    with pytest.raises(VestibuleError) as raised:
        await bench.grant(make=slow)
    assert code(raised) == "VST5405"


async def test_an_identity_holds_a_bounded_number_of_leases(bench: Bench) -> None:
    leases = bench.server(most=3)
    held = [await bench.grant(leases=leases) for _ in range(3)]
    with pytest.raises(VestibuleError) as raised:
        await bench.grant(leases=leases)
    assert code(raised) == "VST5402"
    await bench.grant(owner=ORDERS, leases=leases)
    await leases.revoke(held[0].id, "not needed")
    await bench.grant(leases=leases)


async def test_the_bound_holds_for_many_requests_at_once(bench: Bench) -> None:
    leases = bench.server(most=5)
    outcomes = await asyncio.gather(*(bench.grant(leases=leases) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Lease) for each in outcomes) == 5


# ----------------------------------------------------------------------------------------------- renew


async def test_a_renewed_lease_lasts_its_ttl_from_now_or_as_long_as_was_asked(bench: Bench) -> None:
    lease = await bench.grant()
    bench.clock.advance(HOUR / 2)
    renewed = await bench.leases.renew(lease.id)
    assert renewed.expires == bench.clock.now() + HOUR
    assert renewed.renewed == bench.clock.now()
    assert bench.engine.existing[lease.id] == renewed.expires
    assert (await bench.leases.renew(lease.id, 3 * HOUR)).expires == bench.clock.now() + 3 * HOUR


async def test_no_lease_is_renewed_beyond_its_longest_life(bench: Bench) -> None:
    lease = await bench.grant()
    renewed = await bench.leases.renew(lease.id, 100 * HOUR)
    assert renewed.expires == lease.latest
    assert not renewed.renewable


async def test_what_is_over_or_never_was_is_not_renewed(bench: Bench) -> None:
    lease = await bench.grant()
    with pytest.raises(VestibuleError) as raised:
        await bench.leases.renew("database/creds/payments/never")
    assert code(raised) == "VST5400"
    bench.clock.advance(HOUR)
    with pytest.raises(VestibuleError) as raised:
        await bench.leases.renew(lease.id)
    assert code(raised) == "VST5401"


async def test_a_lease_that_is_being_revoked_is_not_renewed(bench: Bench) -> None:
    lease = await bench.grant()
    bench.down()
    await bench.leases.revoke(lease.id, "stolen")
    bench.up()
    with pytest.raises(VestibuleError) as raised:
        await bench.leases.renew(lease.id)
    assert code(raised) == "VST5401"


async def test_renewals_at_the_same_moment_all_work(bench: Bench) -> None:
    lease = await bench.grant()
    renewed = await asyncio.gather(*(bench.leases.renew(lease.id, HOUR) for _ in range(4)))
    assert {each.expires for each in renewed} == {bench.clock.now() + HOUR}


# ----------------------------------------------------------------------------------------------- end


async def test_a_lease_ends_in_time(bench: Bench) -> None:
    async with bench.running():
        lease = await bench.grant()
        await bench.clock.until_asleep()
        assert lease.id in bench.engine.existing
        bench.clock.advance(HOUR)
        await until(lambda: not bench.engine.existing)
    assert [(each.action, each.subject, each.outcome) for each in bench.audit] == [
        ("lease.revoke", lease.id, "ok")
    ]
    assert bench.audit[0].details["owner"] == str(PAYMENTS)
    assert bench.audit[0].details["reason"] == "expired"


async def test_a_day_of_renewals_ends_after_a_day(bench: Bench) -> None:
    lease = await bench.grant()
    for _ in range(47):
        bench.clock.advance(HOUR / 2)
        await bench.leases.renew(lease.id)
        await bench.leases.round()
    assert lease.id in bench.engine.existing
    bench.clock.advance(HOUR / 2)
    await bench.leases.round()
    assert not bench.engine.existing


async def test_leases_end_after_a_restart(bench: Bench) -> None:
    await bench.grant()
    bench.clock.advance(DAY)
    await bench.server().round()
    assert not bench.engine.existing


async def test_only_the_server_that_leads_ends_leases_in_time(bench: Bench) -> None:
    await bench.grant()
    bench.clock.advance(DAY)
    leads = [False]
    other = bench.server(leads=lambda: leads[0])
    await other.round()
    assert bench.engine.existing
    leads[0] = True
    await other.round()
    assert not bench.engine.existing


async def test_two_servers_that_both_believe_to_lead_do_no_harm(bench: Bench) -> None:
    for _ in range(20):
        await bench.grant()
    bench.clock.advance(DAY)
    await asyncio.gather(bench.leases.round(), bench.server().round())
    await bench.leases.round()
    assert not bench.engine.existing
    assert await bench.leases.children("database/creds/payments") == []


async def test_a_revoked_lease_is_gone_at_once_on_any_server(bench: Bench) -> None:
    lease = await bench.grant()
    other = bench.server(leads=lambda: False)
    assert await other.revoke(lease.id, "by its owner") is None
    assert not bench.engine.existing
    assert await bench.leases.lookup(lease.id) is None
    assert await bench.leases.revoke(lease.id, "again") is None


async def test_a_prefix_is_whole_segments(bench: Bench) -> None:
    await bench.grant(path="database/creds/pay")
    kept = await bench.grant(path="database/creds/payments")
    assert await bench.leases.revoke_prefix("database/creds/pay", "by an operator", wait=True) == 1
    assert list(bench.engine.existing) == [kept.id]
    for wrong in ("", "/", "database/../creds", "database//creds", "data base", "database/creds/*"):
        with pytest.raises(VestibuleError) as raised:
            await bench.leases.revoke_prefix(wrong, "by an operator")
        assert code(raised) == "VST5404"


async def test_what_is_revoked_by_prefix_is_over_even_before_it_is_gone(bench: Bench) -> None:
    lease = await bench.grant()
    await bench.leases.revoke_prefix("database", "by an operator")
    with pytest.raises(VestibuleError):
        await bench.leases.renew(lease.id)
    await bench.leases.round()
    assert not bench.engine.existing


async def test_a_revoked_identity_loses_all_it_holds_and_nobody_else_anything(bench: Bench) -> None:
    for path in ("database/creds/a", "database/creds/b"):
        await bench.grant(path=path)
    kept = await bench.grant(owner=ORDERS)
    assert await bench.leases.revoke_owner(PAYMENTS, "identity revoked") == 2
    await bench.leases.round()
    assert list(bench.engine.existing) == [kept.id]


# ----------------------------------------------------------------------------------------------- when it fails


async def test_a_revocation_is_tried_until_the_database_agrees_and_is_visible_until_then(
    bench: Bench,
) -> None:
    lease = await bench.grant()
    bench.down()
    problem = await bench.leases.revoke(lease.id, "stolen")
    assert problem is not None
    assert problem.code.code == "VST5415"
    waited = timedelta(0)
    for attempts in range(2, 12):
        bench.clock.advance(retry_after(attempts - 1))
        waited += retry_after(attempts - 1)
        await bench.leases.round()
        (failing,) = await bench.leases.failing()
        assert (failing.state, failing.attempts) == (LeaseState.REVOKING, attempts)
        assert "VST5415" in failing.problem
        assert failing.reason == "stolen"
    assert bench.leases.counts["failing"] == 1
    bench.up()
    bench.clock.advance(LAST_RETRY)
    await bench.leases.round()
    assert not bench.engine.existing
    assert await bench.leases.failing() == []
    assert bench.leases.counts["failing"] == 0
    assert [each.outcome for each in bench.audit] == ["VST5415", "ok"], (
        "a failure is on record once, not each time"
    )


async def test_to_revoke_again_does_not_wait_for_the_next_attempt(bench: Bench) -> None:
    lease = await bench.grant()
    bench.down()
    for _ in range(9):
        await bench.leases.revoke(lease.id, "stolen")
    bench.up()
    assert await bench.leases.revoke(lease.id, "stolen") is None
    assert not bench.engine.existing


async def test_a_database_that_is_down_keeps_no_other_from_losing_its_users(bench: Bench) -> None:
    for number in range(250):
        owner = SpiffeId.parse(f"spiffe://example.org/many/{number % 5}")
        await bench.grant(owner=owner, target="dead")
    alive = [(await bench.grant(owner=ORDERS, target="alive")).id for _ in range(20)]
    bench.down("dead")
    bench.clock.advance(DAY)
    for _ in range(3):
        await bench.leases.round()
    assert not any(each in bench.engine.existing for each in alive)
    assert len(await bench.leases.failing()) == 250


async def test_attempts_at_a_dead_database_are_few_however_many_leases_it_has(bench: Bench) -> None:
    for _ in range(100):
        await bench.grant()
    bench.down()
    bench.clock.advance(DAY)
    await bench.leases.round()
    assert len(bench.engine.attempts) <= 4
    assert len(await bench.leases.failing()) == 100
    bench.up()
    bench.clock.advance(LAST_RETRY)
    await bench.leases.round()
    assert not bench.engine.existing


async def test_force_forgets_what_cannot_be_revoked_and_says_so(bench: Bench) -> None:
    lease = await bench.grant()
    bench.down()
    assert await bench.leases.force("database/creds/payments", "the database is gone") == [lease.id]
    assert await bench.leases.lookup(lease.id) is None
    bench.up()
    other = await bench.grant()
    assert await bench.leases.force("database/creds/payments", "again") == []
    assert other.id not in bench.engine.existing


async def test_a_full_audit_log_lets_nobody_keep_a_credential(bench: Bench) -> None:
    async def full(events: Sequence[AuditEvent]) -> None:
        raise AUDIT_UNAVAILABLE.error("no space")

    leases = Leases(bench.barrier, bench.clock, record=full)
    leases.mount("database", bench.engine)
    lease = await bench.grant()
    assert await leases.revoke(lease.id, "stolen") is None
    assert not bench.engine.existing


async def test_nothing_happens_while_sealed_and_all_of_it_afterwards(bench: Bench) -> None:
    async with bench.running():
        await bench.grant()
        bench.barrier.is_sealed = True
        bench.clock.advance(DAY)
        await bench.clock.until_asleep()
        assert bench.engine.existing
        bench.barrier.is_sealed = False
        bench.clock.advance(5)
        await until(lambda: not bench.engine.existing)


async def test_counts_are_by_state(bench: Bench) -> None:
    for _ in range(3):
        await bench.grant()
    await bench.leases.round()
    assert bench.leases.counts == {"pending": 0, "active": 3, "revoking": 0, "failing": 0}


async def test_a_lease_of_an_engine_that_is_gone_stays_visible(bench: Bench) -> None:
    lease = await bench.grant()
    alone = Leases(bench.barrier, bench.clock)
    problem = await alone.revoke(lease.id, "stolen")
    assert problem is not None
    assert [each.id for each in await alone.failing()] == [lease.id]


def test_attempts_are_rarer_and_rarer_but_never_rare() -> None:
    waits = [retry_after(attempts) for attempts in range(1, 100)]
    assert waits == sorted(waits)
    assert waits[0] == timedelta(seconds=1)
    assert waits[-1] == LAST_RETRY
