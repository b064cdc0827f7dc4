"""What sources have in common: they are entered, in asyncio or from a thread, and follow something meanwhile."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from vestibule.clock import Clock, SystemClock
from vestibule.errors import VestibuleError
from vestibule.sdk.codes import NO_SVID, SOURCE_FORKED, SOURCE_LOOP_CLOSED
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.following import FollowedRevocations
from vestibule.sdk.threads import LoopThread
from vestibule.spiffe import Revocations

PATIENCE: Final = 30.0
"""Seconds that entering a source waits for its first answer, unless told otherwise."""

LIST_PATIENCE: Final = 2.0
"""Seconds that entering a source waits, with an answer in hand, for what is revoked."""

_log = logging.getLogger(__name__)


class News:
    """Wakes whoever waits for something new, on whichever event loop or thread."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self._listeners: WeakSet[Listener] = WeakSet()

    def tell(self) -> None:
        """There is something new."""
        with self._told:
            self._told.notify_all()
            listeners = list(self._listeners)
        for each in listeners:
            each.wake()

    def listen(self) -> Listener:
        """For the running event loop; until it is dropped."""
        listener = Listener()
        with self._told:
            self._listeners.add(listener)
        return listener

    def wait(self, until: Callable[[], bool], timeout: float | None) -> None:
        """In a thread: until what was told makes it so, or for so many seconds."""
        with self._told:
            self._told.wait_for(until, timeout)


class Listener:
    """An event of one event loop, which other threads may set."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """From any thread."""
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self.event.set)
            except RuntimeError:
                _log.debug("an event loop was closed meanwhile")


class Source(ABC):
    """Follows something of the Workload API for as long as it is entered.

    ``async with``: by tasks of the running event loop.  ``with``: by a background thread with an event loop of its
    own; then the source serves code that blocks, in any thread.
    """

    def __init__(self, address: str | None, patience: float, clock: Clock | None) -> None:
        self.endpoint = Endpoint.find(address)
        self._patience = patience
        self._clock = clock or SystemClock()
        self._thread: LoopThread | None = None
        self._clear()

    def _clear(self) -> None:
        """As it is before it is entered."""
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forked = False
        self._up = False
        self._version = 0
        self._news = News()
        self._listed = FollowedRevocations(self.endpoint, self._clock, self._on_revocations)

    # ----------------------------------------------------------------------------------- of each source

    @abstractmethod
    def _jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What runs while the source is entered; the first gets what is waited for."""

    @property
    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the first answer came."""

    @property
    @abstractmethod
    def problem(self) -> VestibuleError | None:
        """Why the Workload API is not being followed right now; None while it is."""

    @abstractmethod
    def _lose(self) -> None:
        """Forget what is held: the source was left."""

    @abstractmethod
    def _on_revocations(self) -> None:
        """Something more is revoked."""

    # ----------------------------------------------------------------------------------- reading

    @property
    def revocations(self) -> Revocations:
        """What is revoked, as far as the agent told."""
        return self._listed.value

    @property
    def is_entered(self) -> bool:
        """Whether it is followed in this process."""
        return self._up and not self._forked

    @property
    def version(self) -> int:
        """Grows with every change of what the source holds."""
        return self._version

    def wait(self, version: int, timeout: float | None = None) -> int:
        """In a thread: until the source holds something else than at ``version``; at most ``timeout`` seconds.

        Returns the version then.  Raises: VST2412, VST2413.
        """
        self._check()
        self._news.wait(lambda: self._version != version, timeout)
        return self._version

    def _check(self) -> None:
        """Whether what was entered goes on.  Raises: VST2412, VST2413."""
        if self._forked:
            raise SOURCE_FORKED.error("the source was entered before this process was forked")
        if self._loop is not None and self._loop.is_closed():
            raise SOURCE_LOOP_CLOSED.error("the event loop in which the source was entered is closed")

    def _changed(self) -> None:
        self._version += 1
        self._news.tell()

    # ----------------------------------------------------------------------------------- entering

    async def __aenter__(self) -> Self:
        """Raises: VST2402 when nothing came in time, with the reason; what no waiting would mend, at once."""
        if self._forked or (self._loop is not None and self._loop.is_closed()):
            self._thread = None
            self._clear()
        if self._tasks:
            raise RuntimeError("a source is entered once at a time")
        self._loop = asyncio.get_running_loop()
        self._listed.begin()
        jobs = {**self._jobs(), "revocations": self._listed.run()}
        self._tasks = [asyncio.create_task(job, name=f"svid-source-{name}") for name, job in jobs.items()]
        _entered.add(self)
        try:
            await self._first()
            await self._first_list()
        except BaseException:
            await self._leave()
            raise
        self._up = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = await self._leave()
        if failure is not None and error is None:
            raise failure

    def __enter__(self) -> Self:
        """As ``async with``, in a background thread."""
        if self._thread is not None and not self._forked:
            raise RuntimeError("a source is entered once at a time")
        self._thread = thread = LoopThread("svid-source")
        thread.start()
        try:
            thread.wait(self.__aenter__())
        except BaseException:
            self._thread = None
            thread.stop()
            raise
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if self._forked or thread is None:
            return  # the thread is the parent's
        try:
            thread.wait(self.__aexit__(kind, error, trace))
        finally:
            thread.stop()

    async def _leave(self) -> BaseException | None:
        """Stop; what went wrong in the background, which would be a bug."""
        if self._forked:
            return None  # the tasks are the parent's
        _entered.discard(self)
        self._up = False
        tasks, self._tasks, self._loop = self._tasks, [], None
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
        self._lose()
        for each in tasks:
            if not each.cancelled() and (failure := each.exception()) is not None:
                return failure
        return None

    async def _first(self) -> None:
        following, news = self._tasks[0], self._news.listen()
        try:
            async with asyncio.timeout(self._patience):
                while not self._is_ready:
                    waiter = asyncio.create_task(news.event.wait())
                    await asyncio.wait({waiter, following}, return_when=asyncio.FIRST_COMPLETED)
                    waiter.cancel()
                    news.event.clear()
                    if following.done():
                        await following
        except TimeoutError as error:
            why = self.problem.message if self.problem else f"{self.endpoint} does not answer"
            advice = self.problem.advice if self.problem else None
            raise NO_SVID.error(f"no answer within {self._patience:g} s: {why}", advice=advice) from (
                self.problem or error
            )

    async def _first_list(self) -> None:
        """So that nobody is met before it is known whether he is revoked; but an agent may not tell that at all."""
        try:
            async with asyncio.timeout(LIST_PATIENCE):
                await self._listed.listed.wait()
        except TimeoutError:
            _log.warning("%s did not tell yet what is revoked", self.endpoint)


_entered: WeakSet[Source] = WeakSet()
_abandoned: list[object] = []


def _forked() -> None:
    """In a child: neither tasks nor threads of the parent run here, and what sources hold would grow old unseen."""
    for each in list(_entered):
        each._forked = True
        # Kept for good: tasks that are collected close what the parent goes on to use.
        _abandoned.append((each._tasks, each._loop, each._thread))
        if each._thread is not None:
            each._thread.abandon()
    _entered.clear()


os.register_at_fork(after_in_child=_forked)
