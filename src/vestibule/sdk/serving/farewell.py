"""Saying goodbye in HTTP/2 (RFC 9113, section 6.8).

A GOAWAY in two steps loses nothing: the first names the highest stream there can be, so that the other side begins no
more and everything that is on its way is still answered; the second names the last one.  But clients upon the library
h2 (httpx, grpclib) take the first GOAWAY for the end of everything that runs.  So an idle connection is left with the
second step alone, in which they lose nothing: it names what was answered, and whoever sent more sends it again
elsewhere.  Only one that never is idle is told in two steps, when it is pressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

EVERY_STREAM: Final = 2**31 - 1

PING: Final = b"leaving?"

QUIET: Final = 0.25
"""Seconds without a request after which a retired connection is left."""

LINGER: Final = 1.0
"""Seconds between the last GOAWAY and the end of a connection."""


def question(connection: H2Connection) -> bytes:
    """A PING; empty where h2 has closed already."""
    try:
        connection.ping(PING)
    except ProtocolError:
        return b""
    return connection.data_to_send()


def announcement() -> bytes:
    """The first step: no new streams, please.  Not told to h2, which would take the connection for closed."""
    frame = GoAwayFrame(stream_id=0, last_stream_id=EVERY_STREAM, error_code=ErrorCodes.NO_ERROR)
    return frame.serialize()


def farewell(connection: H2Connection) -> bytes:
    """The second step: this was all; empty where h2 has closed already.  Nothing can be sent afterwards."""
    try:
        connection.close_connection(ErrorCodes.NO_ERROR)
    except ProtocolError:
        return b""
    return connection.data_to_send()


class Leaving:
    """When to leave a connection that is to be left.

    Before the last GOAWAY goes a PING, whose answer says that the client has taken the last answers out of what it
    received: grpclib forgets those that a GOAWAY comes with.  A client that reads only while it waits for something,
    such as httpx, does not answer; it took them out already.
    """

    def __init__(
        self, is_idle: Callable[[], bool], ping: Callable[[], None], leave: Callable[[], None]
    ) -> None:
        self._is_idle = is_idle
        self._ping = ping
        self._leave = leave
        self._idle_since = 0.0
        self._wanted = False
        self._at_once = False
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        self.over = False
        """Whether it was left, or is gone."""

    def when_quiet(self) -> None:
        """As soon as nothing has run for ``QUIET`` seconds: the client is hardly about to begin something."""
        self._wanted = True
        self._idle_since = asyncio.get_running_loop().time()
        self._look()

    def when_idle(self) -> None:
        """As soon as nothing runs."""
        self._wanted = self._at_once = True
        self._look()

    def ended(self) -> None:
        """Something that ran has ended."""
        self._idle_since = asyncio.get_running_loop().time()
        self._look()

    def answered(self) -> None:
        """The PING was, or is not going to be."""
        if not self._asked:
            return
        self._asked = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wanted and not self.over and self._is_idle():
            self.over = True
            self._leave()

    def stop(self) -> None:
        """The connection is gone."""
        self.over = True
        self._asked = False
        self._look()

    def _look(self) -> None:
        if self._asked:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.over or not self._wanted or not self._is_idle():
            return  # ``ended`` comes back here
        loop = asyncio.get_running_loop()
        left = 0.0 if self._at_once else self._idle_since + QUIET - loop.time()
        if left <= 0:
            self._asked = True
            self._timer = loop.call_later(LINGER, self.answered)
            self._ping()
        else:
            self._timer = loop.call_later(left, self._look)
