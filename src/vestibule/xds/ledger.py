"""What each proxy was sent, what it accepted, and what it refused and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from vestibule.xds.messages import Accepted, Event, Refused, Sent, Settled
from vestibule.xds.resources import AGGREGATED_TYPES, ProxyKey

KEPT: Final = 10_000
"""Proxies that are remembered; beyond it those that left longest ago are forgotten."""


Heard: TypeAlias = Callable[[ProxyKey, Event], None]


class Status(Enum):
    """How a proxy stands with one type of resource."""

    ERROR = "ERROR"
    NOT_SENT = "NOT SENT"
    SYNCED = "SYNCED"
    STALE = "STALE"


class Row(NamedTuple):
    """One proxy and one type.

    ``sent``, ``accepted`` and ``settled`` are versions of snapshots: of the last response, of the last that was
    accepted, and of the last snapshot of which nothing is left to do.  ``error`` is the proxy's own text.
    """

    proxy: ProxyKey
    type_url: str
    updated_at: datetime
    sent: str = ""
    accepted: str = ""
    settled: str = ""
    nonce: str = ""
    error: str | None = None
    status: Status = Status.NOT_SENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyState:
    """One proxy: since when it is (or was last) connected, its rows, and the version it has altogether.

    ``version`` is None while types stand at different versions, or something is refused.
    """

    proxy: ProxyKey
    connected: bool
    since: datetime
    rows: tuple[Row, ...]

    @property
    def version(self) -> str | None:
        """None as well before the first."""
        versions = {row.settled for row in self.rows}
        agreed = len(versions) == 1 and "" not in versions and not any(row.error for row in self.rows)
        return versions.pop() if agreed else None

    def has(self, version: str) -> bool:
        """Whether it has answered for all of this version, be it that it refused a part."""
        return bool(self.rows) and all(row.settled == version for row in self.rows)


class _Entry:
    """A row as it is kept: written on at every event, and made into a ``Row`` when somebody looks."""

    __slots__ = ("accepted", "error", "nonce", "sent", "settled", "status", "updated_at")

    def __init__(self, now: datetime) -> None:
        self.sent = self.accepted = self.settled = self.nonce = ""
        self.error: str | None = None
        self.status = Status.NOT_SENT
        self.updated_at = now

    def row(self, proxy: ProxyKey, url: str) -> Row:
        return Row(
            proxy,
            url,
            self.updated_at,
            self.sent,
            self.accepted,
            self.settled,
            self.nonce,
            self.error,
            self.status,
        )


class Session:
    """One stream of a proxy, as the ledger knows it; a newer stream of the same proxy replaces it."""

    def __init__(
        self, proxy: ProxyKey, types: Iterable[str], now: datetime, heard: Heard | None = None
    ) -> None:
        self._heard = heard
        self.proxy = proxy
        self.connected = True
        self.since = now
        self._entries = {url: _Entry(now) for url in types}

    def note(self, event: Event, now: datetime) -> None:
        """Write down what happened on the stream."""
        entry = self._entries.get(event.type_url)
        if entry is not None:
            _write_down(entry, event)
            entry.updated_at = now
        if self._heard is not None:
            self._heard(self.proxy, event)

    def close(self, now: datetime) -> None:
        """The stream has ended."""
        self.connected = False
        self.since = now

    def state(self) -> ProxyState:
        """How the proxy stands."""
        rows = tuple(entry.row(self.proxy, url) for url, entry in self._entries.items())
        return ProxyState(proxy=self.proxy, connected=self.connected, since=self.since, rows=rows)


class Ledger:
    """The newest session of each proxy."""

    def __init__(self, types: Iterable[str] = AGGREGATED_TYPES, heard: Heard | None = None) -> None:
        """``heard`` is told of everything that happens on any stream, once it is written down."""
        self._heard = heard
        self._types = tuple(types)
        self._sessions: dict[ProxyKey, Session] = {}

    def open(self, proxy: ProxyKey, now: datetime) -> Session:
        """A proxy opened a stream."""
        self._sessions.pop(proxy, None)
        session = self._sessions[proxy] = Session(proxy, self._types, now, self._heard)
        self._make_room()
        return session

    def forget(self, proxy: ProxyKey) -> None:
        """The proxy is gone for good."""
        self._sessions.pop(proxy, None)

    def state(self, proxy: ProxyKey) -> ProxyState | None:
        """How one proxy stands; None for one that never connected."""
        session = self._sessions.get(proxy)
        return session.state() if session is not None else None

    def proxies(self) -> tuple[ProxyState, ...]:
        """Every proxy, the one that connected last at the end."""
        return tuple(session.state() for session in self._sessions.values())

    def rows(self) -> tuple[Row, ...]:
        """Every row of every proxy."""
        return tuple(row for state in self.proxies() for row in state.rows)

    def _make_room(self) -> None:
        if len(self._sessions) <= KEPT:
            return
        gone = [session for session in self._sessions.values() if not session.connected]
        for session in sorted(gone, key=lambda session: session.since)[: len(self._sessions) - KEPT]:
            del self._sessions[session.proxy]


def _write_down(entry: _Entry, event: Event) -> None:
    """ERROR while anything is refused; STALE from a response until all of the type is settled."""
    match event:
        case Settled():  # the most common of them
            _settle(entry, event)
        case Sent():
            entry.sent, entry.nonce = event.version, event.nonce
            entry.status = Status.ERROR if entry.error else Status.STALE
        case Accepted():
            entry.accepted = event.version
        case Refused():
            entry.error, entry.status = event.error, Status.ERROR


def _settle(entry: _Entry, event: Settled) -> None:
    entry.settled = event.snapshot.version
    if event.refused:
        entry.error = "; ".join(f"{name}: {text}" for name, text in sorted(event.refused.items()))
        entry.status = Status.ERROR
    else:
        entry.error = None
        entry.status = Status.SYNCED if event.asked else Status.NOT_SENT
