"""Decisions on their way to a collector: gathered, zipped, sent again until they are taken, and bounded."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

from vestibule.errors import VestibuleError

GATHER_SECONDS: Final = 1.0
"""How long decisions wait for others to go with them."""
RETRY_SECONDS: Final = 1.0
RETRY_LONGEST: Final = 60.0
LAST_SECONDS: Final = 3.0
"""How long the last ones may take when the agent stops."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""Of all that wait; half of it is for denials alone."""
BATCH_BYTES: Final = 512 * 1024
"""Before zipping, of one request."""
_NEVER: Final = frozenset({400, 413, 415, 422})
"""Answers that sending again does not change."""

_log = logging.getLogger(__name__)

Send: TypeAlias = Callable[[bytes], Awaitable[int]]
"""POSTs a gzipped JSON array; the status of the answer.  Raises: VST2340, VST2341."""


class DecisionPush:
    """A ``DecisionSink`` for a collector that takes what OPA sends to one."""

    def __init__(self, send: Send, *, most_bytes: int = MOST_BYTES) -> None:
        self._send = send
        self._most = most_bytes
        self._denied: deque[str] = deque()
        self._allowed: deque[str] = deque()
        self._bytes = {True: 0, False: 0}
        self._arrived = asyncio.Event()
        self._failing = False
        self.dropped = 0
        self.refused = 0
        """Decisions that the collector will not have, however often they are sent."""

    @property
    def waiting(self) -> int:
        """Decisions that the collector does not yet have."""
        return len(self._denied) + len(self._allowed)

    def take(self, text: str, *, allowed: bool) -> None:
        """Queue a line; what finds no room is dropped and counted, permissions before denials."""
        size = len(text)
        if allowed:
            if self._bytes[True] + size > self._most // 2:
                self.dropped += 1
                return
        else:
            while self._bytes[True] + self._bytes[False] + size > self._most and self._allowed:
                self._bytes[True] -= len(self._allowed.popleft())
                self.dropped += 1
            if self._bytes[False] + size > self._most:
                self.dropped += 1
                return
        (self._allowed if allowed else self._denied).append(text)
        self._bytes[allowed] += size
        self._arrived.set()

    async def run(self) -> None:
        """Until cancelled; what waits then is sent once more, if that is quick."""
        pause = RETRY_SECONDS
        try:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(GATHER_SECONDS)
                self._arrived.clear()
                if await self._send_all():
                    pause = RETRY_SECONDS
                else:
                    self._arrived.set()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, RETRY_LONGEST)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._send_all()
            if self.waiting:
                _log.warning("%d decisions did not reach the collector", self.waiting)

    async def _send_all(self) -> bool:
        while self.waiting:
            denied, allowed = self._batch()
            if not await self._send_one([*denied, *allowed]):
                self._give_back(denied, allowed)
                return False
        return True

    def _batch(self) -> tuple[list[str], list[str]]:
        """Denials first."""
        found: dict[bool, list[str]] = {False: [], True: []}
        size = 0
        for allowed, queue in ((False, self._denied), (True, self._allowed)):
            while queue and (not size or size + len(queue[0]) <= BATCH_BYTES):
                text = queue.popleft()
                size += len(text)
                self._bytes[allowed] -= len(text)
                found[allowed].append(text)
        return found[False], found[True]

    def _give_back(self, denied: list[str], allowed: list[str]) -> None:
        self._denied.extendleft(reversed(denied))
        self._allowed.extendleft(reversed(allowed))
        self._bytes[False] += sum(map(len, denied))
        self._bytes[True] += sum(map(len, allowed))

    async def _send_one(self, batch: list[str]) -> bool:
        """Whether nothing is left to be done about it."""
        body = await asyncio.to_thread(_zipped, batch)
        try:
            status = await self._send(body)
        except VestibuleError as error:
            self._complain(str(error))
            return False
        except asyncio.CancelledError:
            # Sent twice rather than never.
            self._give_back(batch, [])
            raise
        if 200 <= status < 300:
            if self._failing:
                self._failing = False
                _log.info("the collector takes decisions again; %d were dropped in all", self.dropped)
            return True
        if status in _NEVER:
            self.refused += len(batch)
            _log.error("the collector refused %d decisions for good: %d", len(batch), status)
            return True
        self._complain(f"it answers {status}")
        return False

    def _complain(self, why: str) -> None:
        if not self._failing:
            self._failing = True
            _log.warning("the collector does not take decisions: %s", why)


def _zipped(batch: list[str]) -> bytes:
    return gzip.compress(f"[{','.join(batch)}]".encode(), compresslevel=5)
