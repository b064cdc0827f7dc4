"""How far this machine's clock is from the server's, measured before it breaks handshakes.

Certificates live for minutes, so both clocks have to agree within the minute by which the server backdates them.  The
server's time is asked for over the usual connection.  Where that cannot be made, which is what a wrong clock does
first, whoever answers at the server's address is asked: the answer is a hint for people, and sets nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError

WARNED: Final = timedelta(seconds=15)
"""Worth a word: a quarter of what breaks."""

BREAKS: Final = timedelta(seconds=60)
"""By so much certificates are backdated (``pki.profiles``): behind by more, fresh ones are from the future."""

EVERY: Final = timedelta(seconds=60)
SOON: Final = timedelta(seconds=3)
"""Between two questions while the clocks differ: whoever sets one right wants to see it."""
_log = logging.getLogger(__name__)


class ServerTime(Protocol):
    """What the server's clock said, between our question (``rtt`` before ``ours``) and ``ours``."""

    @property
    def theirs(self) -> datetime: ...

    @property
    def ours(self) -> datetime: ...

    @property
    def rtt(self) -> timedelta: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """Our clock minus the server's: positive, where ours is ahead.  The truth is within ``uncertainty`` of ``offset``.

    ``verified`` is false where nobody vouched for who answered.
    """

    offset: timedelta
    uncertainty: timedelta
    verified: bool

    @classmethod
    def of(cls, time: ServerTime, *, verified: bool) -> Skew:
        """The server read its clock at some instant of the round trip; in the middle, as far as we know."""
        half = time.rtt / 2
        return cls(offset=time.ours - half - time.theirs, uncertainty=half, verified=verified)

    def exceeds(self, bound: timedelta) -> bool:
        """Whether it is more than ``bound`` for certain."""
        return abs(self.offset) - self.uncertainty > bound

    def __str__(self) -> str:
        """For people."""
        seconds = self.offset.total_seconds()
        return f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the server's"


class SkewWatch:
    """Asks from time to time, and tells when it is too much, and when it is right again."""

    def __init__(
        self,
        clock: Clock,
        ask: Callable[[], Awaitable[ServerTime]],
        ask_anybody: Callable[[], Awaitable[ServerTime]],
    ) -> None:
        self._clock = clock
        self._ask = ask
        self._ask_anybody = ask_anybody
        self._asked_at: dict[bool, datetime] = {}
        self._told = False
        self.skew: Skew | None = None
        """The newest measurement."""

    async def measure(self, *, verified: bool) -> None:
        """Measure, unless that was done a moment ago.  A server that does not answer changes nothing."""
        now, last = self._clock.now(), self._asked_at.get(verified)
        every = SOON if self.skew is not None and self.skew.exceeds(WARNED) else EVERY
        if last is not None and timedelta() <= now - last < every:
            return
        self._asked_at[verified] = now
        with suppress(VestibuleError):
            self._judge(Skew.of(await (self._ask if verified else self._ask_anybody)(), verified=verified))

    def explain(self, error: VestibuleError) -> VestibuleError:
        """The error, with the clock named as its likely cause where it is one."""
        if self.skew is None or error.code.kind is not Kind.UNAVAILABLE or not self.skew.exceeds(BREAKS):
            return error
        said = "" if self.skew.verified else ", if the one who answers is the server"
        return error.code.error(
            f"{error.message} ({self.skew}{said})",
            advice="Set both clocks right, and run a time service such as chrony on both machines; the agent "
            "recovers by itself.",
        )

    def _judge(self, skew: Skew) -> None:
        self.skew = skew
        if skew.exceeds(WARNED):
            _log.log(
                logging.DEBUG if self._told else logging.WARNING,
                "%s; handshakes fail from %d s on",
                skew,
                BREAKS.total_seconds(),
            )
            self._told = True
        elif self._told:
            _log.info("the clocks of this machine and the server agree again")
            self._told = False
