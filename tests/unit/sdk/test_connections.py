"""The book of connections: who is told what, and when."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.sdk.test_tls import Holder

from vestibule.errors import VestibuleError
from vestibule.pki.codes import REVOKED, UNTRUSTED_CHAIN
from vestibule.sdk import Connection, ConnectionBook, Lifetimes, SpiffeId, Watch, X509Context, connection_of
from vestibule.sdk.codes import CONNECTION_ENDED, NO_BUNDLE, NO_PEER_CERTIFICATE, NO_SVID
from vestibule.sdk.connections import end_of
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.testing import FakeClock, TestAuthority

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
PAYMENTS = SpiffeId.parse("spiffe://example.org/payments")
START = datetime.now(UTC).replace(microsecond=0)
AUTHORITY = TestAuthority("example.org", now=START)
EXACT = Lifetimes(jitter=0)


class Told:
    """What callbacks were told, in their order."""

    def __init__(self) -> None:
        self.retired: list[Connection] = []
        self.cut: list[tuple[Connection, VestibuleError]] = []
        self.threads: set[str] = set()

    def retire(self, connection: Connection) -> None:
        self.threads.add(threading.current_thread().name)
        self.retired.append(connection)

    def end(self, connection: Connection, reason: VestibuleError) -> None:
        self.threads.add(threading.current_thread().name)
        self.cut.append((connection, reason))

    @property
    def reasons(self) -> list[str]:
        return [reason.code.code for _, reason in self.cut]


def settled(ttl: timedelta = timedelta(hours=1), peer: SpiffeId = PAYMENTS) -> Connection:
    chain, own = AUTHORITY.svid(peer, ttl=ttl, now=START).chain, AUTHORITY.svid(ORDERS, now=START).chain
    return Connection(peer=peer, own=ORDERS, made=START, ends=START + ttl, chain=chain, own_chain=own)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def holder() -> Holder:
    return Holder.of(AUTHORITY.svid(ORDERS, now=START), AUTHORITY.bundle)


@asynccontextmanager
async def running(book: ConnectionBook) -> AsyncIterator[ConnectionBook]:
    task = asyncio.create_task(book.run())
    await asyncio.sleep(0)
    try:
        yield book
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


# -------------------------------------------------------------------------------------------- lifetimes


def test_half_of_what_is_left_at_the_handshake_is_used() -> None:
    connection = settled(timedelta(hours=1))
    assert EXACT.retire_at(connection) == START + timedelta(minutes=30)
    assert EXACT.cut_at(connection) == START + timedelta(hours=1) - timedelta(seconds=10)
    brief = settled(timedelta(seconds=20))
    assert EXACT.cut_at(brief) == START + timedelta(seconds=19)


def test_connections_that_are_made_together_are_not_retired_together() -> None:
    connection = settled(timedelta(hours=1))
    instants = {Lifetimes().retire_at(connection) for _ in range(100)}
    assert len(instants) > 50
    assert START + timedelta(minutes=27) <= min(instants) <= max(instants) <= START + timedelta(minutes=30)


@pytest.mark.parametrize("share", [0, -1, 0.95, 2])
def test_a_share_that_leaves_no_time_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="9/10"):
        Lifetimes(share=share)


def test_the_earliest_end_of_any_certificate_counts() -> None:
    short = AUTHORITY.svid(ORDERS, ttl=timedelta(minutes=5), now=START)
    below = TestAuthority("example.org", now=START, ttl=timedelta(minutes=3), intermediates=1)
    long = below.svid(PAYMENTS, now=START)
    assert end_of(short.chain) == short.not_after
    assert end_of(AUTHORITY.svid(ORDERS, now=START).chain, short.chain) == short.not_after
    assert end_of(short.chain, long.chain) <= START + timedelta(minutes=3)


def test_what_made_no_handshake_has_settled_nothing() -> None:
    with pytest.raises(VestibuleError) as raised:
        connection_of(object())  # type: ignore[arg-type]
    assert raised.value.code is NO_PEER_CERTIFICATE


def test_chains_are_not_in_what_is_printed() -> None:
    assert "\\x" not in repr(settled())


# -------------------------------------------------------------------------------------------- in time


async def test_a_connection_is_retired_and_then_cut(holder: Holder, clock: FakeClock) -> None:
    told, connection = Told(), settled()
    async with running(ConnectionBook(holder, lifetimes=EXACT, clock=clock)) as book:
        watch = book.watch(connection, retire=told.retire, cut=told.end)
        await clock.until_asleep()
        clock.advance(timedelta(minutes=29))
        assert not told.retired
        clock.advance(timedelta(minutes=1))
        await until(lambda: watch.retired)
        assert told.retired == [connection]
        assert not told.cut
        clock.set(connection.ends - timedelta(seconds=10))
        await until(lambda: told.cut)
        assert told.reasons == [CONNECTION_ENDED.code]
        assert watch.over
        assert len(book) == 0
    assert told.retired == [connection]


async def test_what_is_long_over_is_cut_without_being_retired(holder: Holder, clock: FakeClock) -> None:
    """A machine that slept."""
    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watch = book.watch(settled(), retire=told.retire, cut=told.end)
        await clock.until_asleep()
        clock.advance(timedelta(hours=2))
        await until(lambda: told.cut)
        assert watch.retired
    assert not told.retired


async def test_each_connection_has_its_own_time(holder: Holder, clock: FakeClock) -> None:
    told = Told()
    hour, brief = settled(timedelta(hours=1)), settled(timedelta(minutes=10))
    async with running(ConnectionBook(holder, lifetimes=EXACT, clock=clock)) as book:
        first = book.watch(hour, retire=told.retire, cut=told.end)
        await clock.until_asleep()
        second = book.watch(brief, retire=told.retire, cut=told.end)  # earlier than what is slept for
        await until(lambda: clock.next_wake == START + timedelta(minutes=5))
        clock.advance(timedelta(minutes=5))
        await until(lambda: told.retired)
        assert told.retired == [brief]
        assert (first.retired, second.retired) == (False, True)


async def test_nothing_is_told_of_what_was_forgotten_or_dropped(holder: Holder, clock: FakeClock) -> None:
    told, other = Told(), Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        forgotten = book.watch(settled(), retire=told.retire, cut=told.end)
        book.watch(settled(), retire=told.retire, cut=told.end)  # nobody keeps it
        kept = book.watch(settled(), retire=other.retire, cut=other.end)
        forgotten.forget()
        gc.collect()
        assert len(book) == 1
        await clock.until_asleep()
        clock.advance(timedelta(hours=2))
        await until(lambda: other.cut)
        assert kept.over
    assert not told.retired
    assert not told.cut


async def test_connections_that_come_and_go_leave_nothing_behind(holder: Holder, clock: FakeClock) -> None:
    connection = settled()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        for _ in range(2000):
            book.watch(connection, retire=Told().retire, cut=Told().end).forget()
        book.changed()
        await until(lambda: len(book._due) <= 64)


async def test_one_callback_that_fails_takes_nothing_from_the_others(
    holder: Holder, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Connection) -> None:
        raise RuntimeError("broken")

    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watches = [
            book.watch(settled(), retire=fail, cut=told.end),
            book.watch(settled(), retire=told.retire, cut=told.end),
        ]
        await clock.until_asleep()
        clock.advance(timedelta(minutes=31))
        await until(lambda: told.retired)
        assert all(each.retired for each in watches)
    assert "broken" in caplog.text


# -------------------------------------------------------------------------------------------- in change


def cut_of(holder: Holder, book: ConnectionBook, told: Told) -> Watch:
    return book.watch(settled(), retire=told.retire, cut=told.end)


async def test_a_peer_that_is_revoked_is_cut_at_once(holder: Holder, clock: FakeClock) -> None:
    told, other = Told(), Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watches = [
            book.watch(settled(), retire=told.retire, cut=told.end),
            book.watch(settled(peer=ORDERS), retire=other.retire, cut=other.end),
        ]
        holder.revocations = _revoked(PAYMENTS)
        book.changed()
        await until(lambda: told.cut)
        assert told.reasons == [REVOKED.code]
        assert [each.over for each in watches] == [True, False]
    assert not told.retired


async def test_our_own_revoked_certificate_ends_its_connections(holder: Holder, clock: FakeClock) -> None:
    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watch = cut_of(holder, book, told)
        holder.revocations = _revoked(ORDERS)
        book.changed()
        await until(lambda: told.cut)
        assert told.reasons == [REVOKED.code]
        assert watch.over


@pytest.mark.parametrize("after", ["nothing", "another"])
async def test_a_withdrawn_identity_ends_its_connections(
    holder: Holder, clock: FakeClock, after: str
) -> None:
    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watch = cut_of(holder, book, told)
        another = X509Context(svids=(AUTHORITY.svid("/another", now=START),), bundles=(AUTHORITY.bundle,))
        holder.become(another if after == "another" else None)
        book.changed()
        await until(lambda: told.cut)
        assert told.reasons == [NO_SVID.code]
        assert watch.over


async def test_a_rotation_ends_nothing(holder: Holder, clock: FakeClock) -> None:
    told, canary = Told(), Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watch = cut_of(holder, book, told)
        doomed = book.watch(
            settled(peer=SpiffeId.parse("spiffe://example.org/doomed")), retire=canary.retire, cut=canary.end
        )
        holder.become(replace(holder.context, svids=(AUTHORITY.svid(ORDERS, now=START),)))
        holder.revocations = _revoked(doomed.connection.peer)
        book.changed()
        await until(lambda: canary.cut)
        assert not watch.over
    assert not told.cut


@pytest.mark.parametrize(("left", "code"), [(0, NO_BUNDLE), (1, UNTRUSTED_CHAIN)])
async def test_a_peer_whose_authority_left_the_bundle_is_cut(
    holder: Holder, clock: FakeClock, left: int, code: object
) -> None:
    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        watch = cut_of(holder, book, told)
        newer = TestAuthority("example.org", now=START)
        holder.become(replace(holder.context, bundles=(newer.bundle,)[:left]))
        book.changed()
        await until(lambda: told.cut)
        assert [reason.code for _, reason in told.cut] == [code]
        assert watch.over


async def test_what_changed_before_a_connection_was_entered_counts_for_it_too(
    holder: Holder, clock: FakeClock
) -> None:
    """The handshake ended, the peer was revoked, and only then the connection came into the book."""
    told = Told()
    async with running(ConnectionBook(holder, clock=clock)) as book:
        connection = replace(settled(), made=datetime.now(UTC))
        holder.revocations = _revoked(PAYMENTS)
        book.changed()
        await until(lambda: not book._changed)
        watch = book.watch(connection, retire=told.retire, cut=told.end)
        await until(lambda: told.cut)
        assert watch.over


# -------------------------------------------------------------------------------------------- threads and loops


async def test_callbacks_come_on_the_loop_in_which_the_connection_was_entered(
    holder: Holder, clock: FakeClock
) -> None:
    """A source in the background of a program of several event loops, and of threads without any."""
    told, blocking = Told(), Told()
    entered, over = threading.Event(), threading.Event()
    kept: list[Watch] = []
    async with running(ConnectionBook(holder, lifetimes=EXACT, clock=clock)) as book:

        async def elsewhere() -> None:
            kept.append(book.watch(settled(), retire=told.retire, cut=told.end))
            entered.set()
            await until(lambda: told.cut)
            over.set()

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()), name="elsewhere")
        thread.start()
        await asyncio.to_thread(entered.wait, 60)

        def without_loop() -> None:
            kept.append(book.watch(settled(), retire=blocking.retire, cut=blocking.end))

        await asyncio.to_thread(without_loop)
        await clock.until_asleep()
        clock.advance(timedelta(minutes=31))
        await until(lambda: told.retired and blocking.retired)
        clock.advance(timedelta(hours=1))
        await until(lambda: blocking.cut)
        assert await asyncio.to_thread(over.wait, 60)
        thread.join()
    assert told.threads == {"elsewhere"}
    assert blocking.threads == {threading.current_thread().name}


async def test_a_loop_that_is_gone_is_not_told(holder: Holder, clock: FakeClock) -> None:
    told, kept = Told(), []
    async with running(ConnectionBook(holder, clock=clock)) as book:

        async def elsewhere() -> None:
            kept.append(book.watch(settled(), retire=told.retire, cut=told.end))

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        await clock.until_asleep()
        clock.advance(timedelta(hours=2))
        await until(lambda: kept[0].over)
    assert not told.cut


def _revoked(spiffe_id: SpiffeId) -> Revocations:
    one = Revocation(target=RevokedIdentity(spiffe_id=spiffe_id), at=START, version=1)
    return Revocations(version=1, entries=(one,))
