"""A process that is kept running: started, watched for readiness, restarted with back-off, stopped in order."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.processes.backoff import Backoff
from vestibule.processes.child import Child, Command, ended_how
from vestibule.processes.codes import KEEPS_ENDING, NOT_READY
from vestibule.processes.ledger import Ledger
from vestibule.processes.output import BoundedFile, Capture

_log = logging.getLogger(__name__)
_PROBE_EVERY: Final = 0.025


class State(Enum):
    """Where a supervised process stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    STOPPING = "stopping"
    ENDED = "ended"


class Restart(Enum):
    """When a process that ended is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class ReadyLine:
    """Ready once it prints a line that begins with ``prefix`` (needs captured output)."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ready once ``check`` answers true; asked every 25 ms.  An error it raises ends the supervision."""

    check: Callable[[Child], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How to run one process.  Durations in seconds.

    ``command`` is asked anew for every start, so that each gets descriptors of its own.  ``log`` captures stdout and
    stderr; None leaves them as ours, unless ``ready`` or ``keep_tail`` needs them, or ``on_line``, which hears each
    line.  ``attempts`` bounds how often
    it may end in a row before it was ready for the first time; ``ready_within`` bounds each of these starts
    (None: for ever).
    """

    name: str
    command: Callable[[], Command]
    ready: ReadyLine | Probe | None = None
    ready_within: float | None = 30.0
    attempts: int = 3
    restart: Restart = Restart.ALWAYS
    backoff: Backoff = field(default_factory=Backoff)
    grace: float = 10.0
    log: BoundedFile | None = None
    keep_tail: bool = False
    on_line: Callable[[str], None] | None = None


class Supervised:
    """One process under supervision.  ``run`` holds it; ``stop`` ends both.

    ``on_start`` hears of every new child before anything else happens to it, ``on_end`` of every end with the
    exit status, and ``on_change`` of every change of ``state``.
    """

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        *,
        on_start: Callable[[Child], None] | None = None,
        on_end: Callable[[Child, int], None] | None = None,
        on_change: Callable[[Supervised], None] | None = None,
    ) -> None:
        self.spec = spec
        self.state = State.WAITING
        self.child: Child | None = None
        self.ready = asyncio.Event()
        self.ready_line: str | None = None
        self.restarts = 0
        self.failures = 0
        self._ledger = ledger
        self._on_start = on_start
        self._on_end = on_end
        self._on_change = on_change
        self._was_ready = False
        self._retired = False
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._done = asyncio.Event()
        self._capture: Capture | None = None
        heard = spec.on_line is not None or isinstance(spec.ready, ReadyLine)
        if spec.log is not None or spec.keep_tail or heard:
            self._capture = Capture(spec.log, self._on_line)

    async def run(self) -> int:
        """Keep it running until ``stop``, or until its restart rule says that it is done.

        Returns the last exit status.  Raises: VST7000; VST7001 and VST7002 when it never became ready; whatever
        its probe raises.  Whichever way this is left, the process and its group are gone.
        """
        try:
            while True:
                status = await self._one_life()
                if self._stopping.is_set() or not self._again(status):
                    return status
                self._move(State.BACKING_OFF)
                if await _set_within(self._stopping, self.spec.backoff.delay(self.failures, random.random())):  # noqa: S311 - jitter
                    return status
                self.restarts += 1
        finally:
            self._move(State.ENDED)
            self._done.set()

    async def stop(self) -> None:
        """SIGTERM, patience of ``grace``, SIGKILL; returns once it is gone and ``run`` has ended."""
        self._stopping.set()
        if self.state is not State.WAITING:
            await self._done.wait()

    def retire(self) -> None:
        """It may go on, but once it ends it is not started again."""
        self._retired = True

    def kill(self) -> None:
        """SIGKILL now, also during ``stop``; ``run`` ends by itself."""
        self._stopping.set()
        self._killing.set()

    @property
    def tail(self) -> str:
        """The last captured output lines."""
        return self._capture.tail if self._capture is not None else ""

    async def _one_life(self) -> int:
        began = asyncio.get_running_loop().time()
        child = self._start()
        try:
            await self._live(child)
        finally:
            # Also when cancelled, or when the probe or a listener failed: nothing is left running.
            child.signal(9)
            status = await asyncio.shield(child.wait())
            self._clean_up(child, status)
        self.failures = self.spec.backoff.failures(self.failures, asyncio.get_running_loop().time() - began)
        return status

    def _start(self) -> Child:
        self.ready.clear()
        self._move(State.STARTING)
        output = self._capture.open() if self._capture is not None else None
        try:
            self.child = child = self._ledger.start(self.spec.name, self.spec.command(), output=output)
        finally:
            if output is not None:
                os.close(output)
        if self._on_start is not None:
            self._on_start(child)
        return child

    async def _live(self, child: Child) -> None:
        """From the start to the end of one child, natural or asked for."""
        ended = asyncio.ensure_future(child.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        becoming = asyncio.ensure_future(self._become_ready(child))
        try:
            await asyncio.wait({ended, stopping, becoming}, return_when=asyncio.FIRST_COMPLETED)
            if becoming.done() and not ended.done():
                becoming.result()
                await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not ended.done():
                await self._end(child)
        finally:
            for task in (ended, stopping, becoming):
                task.cancel()
            await asyncio.gather(ended, stopping, becoming, return_exceptions=True)

    async def _become_ready(self, child: Child) -> None:
        spec = self.spec
        limit = None if self._was_ready else spec.ready_within
        patience = asyncio.timeout(limit)
        try:
            async with patience:
                if isinstance(spec.ready, Probe):
                    while not await spec.ready.check(child):  # noqa: ASYNC110 - another process tells no event
                        await asyncio.sleep(_PROBE_EVERY)
                    self._set_ready()
                elif spec.ready is None:
                    self._set_ready()
                else:
                    await self.ready.wait()
        except TimeoutError as error:
            if limit is None or not patience.expired():
                raise
            raise NOT_READY.error(f"{spec.name} was not ready after {limit:g} s{self._said()}") from error

    def _set_ready(self) -> None:
        self._was_ready = True
        self.ready.set()
        self._move(State.READY)

    async def _end(self, child: Child) -> None:
        self._move(State.STOPPING)
        stopping = asyncio.ensure_future(child.stop(self.spec.grace))
        killing = asyncio.ensure_future(self._killing.wait())
        try:
            await asyncio.wait({stopping, killing}, return_when=asyncio.FIRST_COMPLETED)
            if killing.done():
                await child.kill()
        finally:
            for task in (stopping, killing):
                task.cancel()
            await asyncio.gather(stopping, killing, return_exceptions=True)

    def _clean_up(self, child: Child, status: int) -> None:
        self.ready.clear()
        self._ledger.end_strays(self.spec.name)
        self._ledger.forget(child)
        if self._capture is not None:
            self._capture.close()
        if self._on_end is not None:
            self._on_end(child, status)

    def _again(self, status: int) -> bool:
        spec = self.spec
        if self._retired:
            return False
        if spec.restart is Restart.NEVER or (spec.restart is Restart.ON_FAILURE and status == 0):
            return False
        if not self._was_ready and self.failures >= spec.attempts:
            often = "" if self.failures == 1 else f"{self.failures} times "
            raise KEEPS_ENDING.error(
                f"{spec.name} ended {often}before it was ready ({ended_how(status)}){self._said()}"
            )
        _log.warning("%s ended (%s); starting it again", spec.name, ended_how(status))
        return True

    def _on_line(self, line: str) -> None:
        if self.spec.on_line is not None:
            self.spec.on_line(line)
        ready = self.spec.ready
        if isinstance(ready, ReadyLine) and not self.ready.is_set() and line.startswith(ready.prefix):
            self.ready_line = line
            self._set_ready()

    def _said(self) -> str:
        return f"; its last output:\n{self.tail}" if self.tail else ""

    def _move(self, state: State) -> None:
        self.state = state
        if self._on_change is not None:
            self._on_change(self)


async def stop_in_order(groups: Sequence[Sequence[Supervised]]) -> None:
    """Stop group after group, each group's members together."""
    for group in groups:
        await asyncio.gather(*(supervised.stop() for supervised in group))


async def wait_ready(supervised: Supervised, running: asyncio.Task[int]) -> None:
    """Return once it is ready.  Raises: what ``run`` raised; VST7001 if it ended instead."""
    ready = asyncio.ensure_future(supervised.ready.wait())
    try:
        await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done() and not ready.done():
            status = running.result()
            raise _ended_early(supervised, status)
    finally:
        ready.cancel()


def _ended_early(supervised: Supervised, status: int) -> VestibuleError:
    said = f"; its last output:\n{supervised.tail}" if supervised.tail else ""
    return KEEPS_ENDING.error(f"{supervised.spec.name} ended before it was ready ({ended_how(status)}){said}")


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
