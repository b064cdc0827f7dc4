"""Following a stream of the Workload API, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Generic, TypeVar

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.workload_api import WorkloadApi
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.sdk.endpoint import Endpoint
from vestibule.spiffe import Revocations

PAUSE_FIRST: Final = 0.1
PAUSE_LONGEST: Final = 10.0

_HOPELESS: Final = frozenset({Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED})
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Pauses:
    """Between attempts: growing ones, and short ones again after a stream that was good for a while."""

    def __init__(self) -> None:
        self._next = PAUSE_FIRST
        self._began = time.monotonic()

    def begin(self) -> None:
        """An attempt begins."""
        self._began = time.monotonic()

    async def rest(self, *, good: bool) -> None:
        """It is over; ``good``: something came."""
        if good and time.monotonic() - self._began > self._next:
            self._next = PAUSE_FIRST
        await asyncio.sleep(self._next * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, hides nothing
        self._next = min(self._next * 2, PAUSE_LONGEST)


class Following(Generic[T]):
    """Each message of a stream is everything there is (SPIFFE_Workload_API.md, section 4.4), so the last one counts.

    However a stream ends, it is opened again: cancelled, ended without an error, refused, or with a message that breaks
    the standard, all of which an agent that restarts may bring about.  What was held goes on to count meanwhile, with
    two exceptions: PERMISSION_DENIED takes it away (section 5.2.1); and before anything was held, what no waiting would
    mend (INVALID_ARGUMENT, UNIMPLEMENTED) is raised.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        watch: Callable[[WorkloadApi], AsyncGenerator[T, None]],
        changed: Callable[[], None],
    ) -> None:
        self.value: T | None = None
        """What was said last; None before, and after it was taken away."""
        self.problem: VestibuleError | None = None
        """Why the stream is not open right now."""
        self._endpoint = endpoint
        self._watch = watch
        self._changed = changed

    async def run(self) -> None:
        """Until cancelled.  Raises: what no waiting would mend."""
        channel = self._endpoint.channel()
        pauses = Pauses()
        try:
            while True:
                pauses.begin()
                came = [False]
                try:
                    await self._follow(channel, came)
                except VestibuleError as error:
                    self._judge(error)
                await pauses.rest(good=came[0])
        finally:
            channel.close()

    def become(self, value: T | None) -> None:
        """This counts from now on."""
        self.value = value
        self._changed()

    async def _follow(self, channel: Channel, came: list[bool]) -> None:
        async with aclosing(self._watch(WorkloadApi(channel))) as answers:
            async for answer in answers:
                came[0] = True
                self.problem = None
                if answer != self.value:
                    self.become(answer)
        raise UNREACHABLE.error("the Workload API ended the stream")

    def _judge(self, error: VestibuleError) -> None:
        """Go on; go on without what was held; or, before there was any, give up."""
        status = status_of(error)
        if status in _HOPELESS and self.value is None:
            raise error
        repeated = self.problem is not None and self.problem.code is error.code
        self.problem = error
        if status is Status.PERMISSION_DENIED and self.value is not None:
            self.become(None)
        level = logging.DEBUG if repeated else logging.WARNING
        _log.log(level, "%s: %s (%s)", self._endpoint, error, error.advice)


class FollowedRevocations:
    """What is revoked, as far as the agent tells: a Vestibule agent does, within a second, and others do not."""

    def __init__(self, endpoint: Endpoint, clock: Clock, changed: Callable[[], None]) -> None:
        self.value = Revocations()
        self.listed = asyncio.Event()
        """Whether the whole list is known, or will not be."""
        self._endpoint = endpoint
        self._clock = clock
        self._changed = changed

    def begin(self) -> None:
        """Nothing is known anew, and whoever waits may do so on another event loop than the last time."""
        self.listed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled, or until the agent says that it does not tell."""
        channel = self._endpoint.channel()
        pauses = Pauses()
        try:
            while True:
                pauses.begin()
                came = [False]
                try:
                    await self._follow(channel, came)
                except VestibuleError as error:
                    if status_of(error) is Status.UNIMPLEMENTED:
                        _log.info("%s does not tell what is revoked", self._endpoint)
                        return
                    _log.debug("not following what is revoked: %s", error)
                await pauses.rest(good=came[0])
        finally:
            self.listed.set()
            channel.close()

    async def _follow(self, channel: Channel, came: list[bool]) -> None:
        async with aclosing(RevocationFeed(channel).watch(self.value.version)) as updates:
            async for update in updates:
                came[0] = True
                after = self.value.merged(update.changes, update.version, self._clock.now())
                if after is not self.value:
                    self.value = after
                    self._changed()
                if not update.more:
                    self.listed.set()


def status_of(error: VestibuleError) -> Status | None:
    """How the Workload API refused; None where it did not get as far as that."""
    return error.__cause__.status if isinstance(error.__cause__, GRPCError) else None
