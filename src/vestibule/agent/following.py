"""Following the server's push of revisions: what changed there is noted here within milliseconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from vestibule.agent.contact import Contact
from vestibule.agent.pause import Pause
from vestibule.agent.ports import Upstream
from vestibule.errors import ErrorCode, Kind, VestibuleError

_log = logging.getLogger(__name__)


class Mark(Protocol):
    """Notes what is out of date."""

    def __call__(self, *, entries: bool, bundle: bool, federation: bool) -> None: ...


def level_of(error: VestibuleError) -> int:
    """How loud a failure is: that the server is away is no error of ours."""
    return logging.WARNING if error.code.kind is Kind.UNAVAILABLE else logging.ERROR


class Following:
    """One watch after the other, for as long as the agent runs."""

    def __init__(
        self,
        upstream: Upstream,
        contact: Contact,
        mark: Mark,
        until_joined: Callable[[], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._contact = contact
        self._mark = mark
        self._until_joined = until_joined
        self._jitter = jitter
        self._listeners: list[Callable[[], None]] = []

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when entries, intent or the connection changed on the server's side."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Never ends by itself."""
        pause = Pause(self._jitter)
        told: ErrorCode | None = None
        while True:
            await self._until_joined()
            try:
                await self._listen(pause)
                _log.info("the server ended the watch; connecting again")
            except VestibuleError as error:
                repeated = told is error.code
                told = error.code
                _log.log(
                    logging.DEBUG if repeated else level_of(error), "not following the server: %s", error
                )
            if self._contact.connected:
                self._contact.connected, told = False, None
                self._tell()
            # Whatever happened meanwhile was not pushed: look at everything when the server answers again.
            self._mark(entries=True, bundle=True, federation=True)
            await asyncio.sleep(pause.next())

    async def _listen(self, pause: Pause) -> None:
        last: tuple[int, int, int] | None = None
        async for revisions in self._upstream.watch():
            pause.reset()
            self._contact.connected = True
            self._contact.seen()
            if last is None:
                _log.info("following the server's changes")
            now = (revisions.entries, revisions.bundle, revisions.federation)
            # The first message of a connection says where things stand; it is not known what we missed.
            entries, bundle, federation = (last is None or now[each] != last[each] for each in range(3))
            self._mark(entries=entries, bundle=bundle, federation=federation)
            last = now
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
