"""What handshakes settled, and how long their connections are used.

A certificate is looked at once, in the handshake; a connection would outlive it, and everything that was decided
about it since.  So each connection carries what was settled, and a *book* tells who owns it when to act:

- *retire*: no new request is put on it, and it is closed once it is idle.  That is after half of the time that was
  left at the handshake, so that nothing in flight is broken;
- *cut*: whatever still runs on it is ended.  That is shortly before one of the certificates ends; at once, when one of
  them was revoked, the peer's authority left its trust bundle, or our own identity was withdrawn.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import count
from typing import Any, Final, TypeAlias
from weakref import WeakSet, ref

from vestibule.clock import Clock, SystemClock
from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import REVOKED
from vestibule.pki.revocation import revoked, verify_unrevoked
from vestibule.sdk.codes import CONNECTION_ENDED, NO_PEER_CERTIFICATE, NO_SVID
from vestibule.sdk.holder import Holder
from vestibule.spiffe import SpiffeId

SLICE: Final = 0.005
"""Seconds for which the event loop is held at most, before others have their turn."""

_DOUBT: Final = timedelta(seconds=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a handshake settled.

    ``made`` is when it ended; ``ends`` the earliest end of any certificate that either side showed.  The chains are
    DER, leaf first: the peer's, and our own.
    """

    peer: SpiffeId
    own: SpiffeId
    made: datetime
    ends: datetime
    chain: tuple[bytes, ...] = field(repr=False)
    own_chain: tuple[bytes, ...] = field(repr=False)


def connection_of(connection: ssl.SSLObject | ssl.SSLSocket) -> Connection:
    """What was settled for an ``SSLSocket``, or for what ``get_extra_info("ssl_object")`` gives.

    Raises: VST2405 before the end of the handshake, and for connections of other contexts than the SDK's.
    """
    found = getattr(connection, "settled", None)
    if not isinstance(found, Connection):
        raise NO_PEER_CERTIFICATE.error("the connection has no verified peer")
    return found


def end_of(*chains: tuple[bytes, ...]) -> datetime:
    """The earliest end of all these certificates (DER).  Raises: VST1005."""
    return min(map(_end, chains))


@lru_cache(maxsize=4096)
def _end(chain: tuple[bytes, ...]) -> datetime:
    return min(load_certificate(der).not_valid_after_utc for der in chain)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lifetimes:
    """How long connections are used, as shares of the time that their certificates had left at the handshake.

    ``share`` of it, less at most ``jitter`` of that, so that connections that were made together do not end together.
    """

    share: float = 0.5
    jitter: float = 0.1
    margin: timedelta = timedelta(seconds=10)
    """How long before the end a connection is cut, though at most a twentieth of the time that was left."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.9 or not 0 <= self.jitter <= 0.5:
            raise ValueError("a connection is retired after more than 0 and at most 9/10 of what was left")

    def retire_at(self, connection: Connection) -> datetime:
        """From when on no new request is put on it.  Drawn anew at every call."""
        early = 1 - self.jitter * random.random()  # noqa: S311 - spreads load, hides nothing
        return connection.made + (connection.ends - connection.made) * self.share * early

    def cut_at(self, connection: Connection) -> datetime:
        """When whatever still runs on it is ended."""
        return connection.ends - min(self.margin, (connection.ends - connection.made) / 20)


Retire: TypeAlias = Callable[[Connection], None]
Cut: TypeAlias = Callable[[Connection, VestibuleError], None]


class Watch:
    """A connection that is in the book for as long as somebody keeps this object and has not forgotten it."""

    __slots__ = (
        "__weakref__",
        "_book",
        "_cut",
        "_cut_at",
        "_loop",
        "_retire",
        "connection",
        "over",
        "retired",
    )

    def __init__(
        self, book: ConnectionBook, connection: Connection, retire: Retire, cut: Cut, cut_at: datetime
    ) -> None:
        self.connection = connection
        self.retired = False
        """Whether it is to be used no more; set before ``retire`` or ``cut`` is called, from whichever thread."""
        self.over = False
        """Whether it was cut or forgotten."""
        self._book = book
        self._retire = retire
        self._cut = cut
        self._cut_at = cut_at
        self._loop = _running_loop()

    def forget(self) -> None:
        """The connection is closed: nothing is called any more."""
        self._book._forget(self)


class ConnectionBook:
    """The open connections of one source.

    One task runs it (``run``), with one timer for all connections.  ``watch`` and ``Watch.forget`` may be called from
    any thread.  Callbacks are called on the event loop in which ``watch`` was called, or where there was none, on that
    of the source, in its thread; so they neither block nor wait.
    """

    def __init__(
        self, source: Holder, *, lifetimes: Lifetimes | None = None, clock: Clock | None = None
    ) -> None:
        self._source = source
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._open: WeakSet[Watch] = WeakSet()
        self._due: list[tuple[datetime, int, ref[Watch]]] = []
        self._numbers = count()
        self._planned: datetime | None = None
        self._changed = False
        self._changed_at = datetime.min.replace(tzinfo=UTC)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def watch(
        self,
        connection: Connection | ssl.SSLObject | ssl.SSLSocket,
        *,
        retire: Retire,
        cut: Cut,
        lifetimes: Lifetimes | None = None,
    ) -> Watch:
        """Enter a connection, right after its handshake; it stays as long as the caller keeps what is returned.

        ``retire(connection)`` is called once, when it is due; ``cut(connection, reason)`` once, at the end: VST2411
        when a certificate is about to end, VST1020 (revoked), VST2402 (our identity was withdrawn), VST2403 or
        VST1007 (the peer is not trusted any more).  Raises: VST2405 as ``connection_of`` does.
        """
        settled = connection if isinstance(connection, Connection) else connection_of(connection)
        policy = lifetimes or self._lifetimes
        watch = Watch(self, settled, retire, cut, policy.cut_at(settled))
        with self._lock:
            self._open.add(watch)
            self._plan(policy.retire_at(settled), watch)
            if settled.made < self._changed_at + _DOUBT:
                # What came between the handshake and now was held against other connections, not this one.
                self._examine_soon()
        return watch

    @property
    def lifetimes(self) -> Lifetimes:
        """How long connections are used where nothing else is said."""
        return self._lifetimes

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def changed(self) -> None:
        """The source holds something else: have every connection held against it.  From any thread."""
        self._changed_at = datetime.now(UTC)
        self._examine_soon()

    def _examine_soon(self) -> None:
        self._changed = True
        self._nudge()

    async def run(self) -> None:
        """Look after the connections until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        try:
            while True:
                self._wake.clear()
                if self._changed:
                    self._changed = False
                    await self._examine()
                await self._act()
                await self._rest()
        finally:
            self._loop = None

    # ----------------------------------------------------------------------------------- time

    def _plan(self, when: datetime, watch: Watch) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), ref(watch)))
        if self._planned is None or when < self._planned:
            self._nudge()

    def _nudge(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake.set)

    async def _rest(self) -> None:
        """Until something is due, or the book was changed."""
        with self._lock:
            self._tidy()
            until = self._planned = self._due[0][0] if self._due else None
        waiting: set[asyncio.Task[Any]] = {asyncio.create_task(self._wake.wait())}
        if until is not None:
            waiting.add(asyncio.create_task(self._clock.sleep_until(until)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def _tidy(self) -> None:
        """Connections that closed long before they were due must not pile up."""
        if len(self._due) > 64 + 2 * len(self._open):
            self._due = [each for each in self._due if (watch := each[2]()) is not None and not watch.over]
            heapq.heapify(self._due)

    async def _act(self) -> None:
        turn = _Turn()
        while (watch := self._next(self._clock.now())) is not None:
            self._take_step(watch)
            await turn.over()

    def _next(self, now: datetime) -> Watch | None:
        with self._lock:
            while self._due and self._due[0][0] <= now:
                watch = heapq.heappop(self._due)[2]()
                if watch is not None and not watch.over:
                    return watch
        return None

    def _take_step(self, watch: Watch) -> None:
        settled = watch.connection
        if watch.retired or watch._cut_at <= self._clock.now():
            ends = settled.ends.isoformat()
            self._end(
                watch, CONNECTION_ENDED.error(f"the connection with {settled.peer} may last until {ends}")
            )
            return
        watch.retired = True
        with self._lock:
            self._plan(watch._cut_at, watch)
        self._call(watch, partial(watch._retire, settled))

    # ----------------------------------------------------------------------------------- change

    async def _examine(self) -> None:
        """Hold every connection against what the source holds now."""
        with self._lock:
            watches = list(self._open)
        turn = _Turn()
        found: dict[tuple[object, ...], VestibuleError | None] = {}
        for watch in watches:
            settled = watch.connection
            key = (settled.own, settled.chain, settled.own_chain)
            if key not in found:
                found[key] = self._refusal(settled)
            if (refusal := found[key]) is not None:
                self._end(watch, refusal)
            await turn.over()

    def _refusal(self, settled: Connection) -> VestibuleError | None:
        """Why this connection would not be made now.

        1. Our own identity is still ours.
        2. Nothing that we showed is revoked.
        3. The peer's chain holds against the bundle of its trust domain, and nothing of it is revoked.
        """
        try:
            if all(each.spiffe_id != settled.own for each in self._source.context.svids):  # 1
                return NO_SVID.error(f"the identity {settled.own} was withdrawn")
            now, revocations = self._clock.now(), self._source.revocations
            if (why := revoked(revocations, settled.own_chain, now)) is not None:  # 2
                return REVOKED.error(f"our own certificate of {settled.own} does not count: {why}")
            bundle = self._source.bundle(settled.peer.trust_domain)
            verify_unrevoked(settled.chain, bundle, now, revocations)  # 3
        except VestibuleError as error:
            return error
        return None

    # ----------------------------------------------------------------------------------- telling

    def _forget(self, watch: Watch) -> None:
        with self._lock:
            watch.over = True
            self._open.discard(watch)
            # Its owner keeps it and is kept by these: a thousand such circles at once would hold the event loop for as
            # long as Python's garbage collector needs to find them.
            watch._retire = watch._cut = _nothing

    def _end(self, watch: Watch, reason: VestibuleError) -> None:
        with self._lock:
            if watch.over:
                return
            watch.retired = True
            cut = watch._cut
            self._forget(watch)
        self._call(watch, partial(cut, watch.connection, reason), always=True)

    def _call(self, watch: Watch, what: Callable[[], None], *, always: bool = False) -> None:
        def tell() -> None:
            # The connection may have closed on the way to its own loop.
            if always or not watch.over:
                _careful(what)

        if watch._loop is None or watch._loop is self._loop:
            tell()
        elif not watch._loop.is_closed():
            try:
                watch._loop.call_soon_threadsafe(tell)
            except RuntimeError:
                _log.debug("a connection's event loop was closed meanwhile")


def _nothing(*_: object) -> None:
    """For whom nothing is to be told any more."""


class _Turn:
    """Lets the event loop do other things whenever a slice of time is used up."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def over(self) -> None:
        if time.perf_counter() - self._began > SLICE:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


def _careful(what: Callable[[], None]) -> None:
    try:
        what()
    except Exception:  # noqa: BLE001 - one connection's trouble is not that of the others
        _log.exception("what was to be told of a connection failed")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
