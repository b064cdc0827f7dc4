"""The agent's clock against the server's: measured, bounded by the round trip, warned of in time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from vestibule.agent.codes import CANNOT_JOIN
from vestibule.agent.skew import BREAKS, EVERY, WARNED, Skew, SkewWatch
from vestibule.net.codes import SERVER_NOT_TRUSTED, UNREACHABLE
from vestibule.pki.profiles import BACKDATE
from vestibule.testing import FakeClock


@dataclass
class Answer:
    theirs: datetime
    ours: datetime
    rtt: timedelta


class Servers:
    """Two that tell the time: the verified one, and anybody."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ahead = timedelta()
        self.away = False
        self.asked = 0

    async def time(self) -> Answer:
        self.asked += 1
        if self.away:
            raise UNREACHABLE.error("away")
        now = self.clock.now()
        rtt = timedelta(milliseconds=200)
        return Answer(theirs=now + self.ahead - rtt / 2, ours=now, rtt=rtt)


def watch() -> tuple[SkewWatch, Servers, FakeClock]:
    clock = FakeClock()
    servers = Servers(clock)
    return SkewWatch(clock, servers.time, servers.time), servers, clock


def test_what_breaks_is_what_certificates_are_backdated_by() -> None:
    assert BREAKS == BACKDATE
    assert WARNED < BREAKS


def test_the_truth_lies_within_half_of_the_round_trip() -> None:
    now = FakeClock().now()
    slow = Skew.of(
        Answer(theirs=now, ours=now + timedelta(seconds=20), rtt=timedelta(seconds=20)), verified=True
    )
    assert slow.offset == timedelta(seconds=10)
    assert slow.uncertainty == timedelta(seconds=10)
    assert not slow.exceeds(timedelta(seconds=1)), "it may be nothing but the network"


async def test_too_much_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watching, servers, clock = watch()
    servers.ahead = timedelta(seconds=20)
    for _ in range(3):
        await watching.measure(verified=True)
        clock.advance(EVERY)
    assert caplog.text.count("20 s behind the server's; handshakes fail from 60 s on") == 1
    servers.ahead = timedelta()
    await watching.measure(verified=True)
    assert "agree again" in caplog.text


async def test_it_is_asked_from_time_to_time_and_again_when_the_clock_was_set_back() -> None:
    watching, servers, clock = watch()
    await watching.measure(verified=True)
    await watching.measure(verified=True)
    assert servers.asked == 1
    clock.advance(EVERY)
    await watching.measure(verified=True)
    assert servers.asked == 2
    clock.set(clock.now() - timedelta(hours=2))
    await watching.measure(verified=True)
    assert servers.asked == 3


async def test_a_failed_handshake_is_explained_by_the_clock_where_that_is_the_cause() -> None:
    watching, servers, _ = watch()
    servers.ahead = timedelta(hours=-2)
    plain = SERVER_NOT_TRUSTED.error("the certificate is not valid yet")
    assert watching.explain(plain) is plain
    await watching.measure(verified=False)
    named = watching.explain(plain)
    assert named.code is SERVER_NOT_TRUSTED
    assert "7200 s ahead of the server's, if the one who answers is the server" in named.message
    assert "clocks" in named.advice
    other = CANNOT_JOIN.error("no token")
    assert watching.explain(other) is other


async def test_a_server_that_does_not_answer_changes_nothing() -> None:
    watching, servers, _ = watch()
    servers.away = True
    await watching.measure(verified=True)
    assert watching.skew is None
