"""Keeping the files current: whoever follows the Workload API, one writer, and one who tells the readers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from grpclib.const import Status

from vestibule.calls.workload_api import WorkloadApi
from vestibule.clock import Clock, SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.board import FILES, JWT_BUNDLE, RELOAD, X509, Board
from vestibule.sdk.files.contents import Layout
from vestibule.sdk.files.directory import FileDirectory
from vestibule.sdk.files.jwt_files import JwtFollower, status_of
from vestibule.sdk.files.reload import OnFailure, Reload
from vestibule.sdk.files.x509_files import X509Follower

_GRACE: Final = 5.0
"""Seconds that the first files wait for tokens and bundles, so that a restart takes none of them away for a moment."""

_PATIENCE: Final = 30.0
_PAUSE_FIRST: Final = 1.0
_PAUSE_LONGEST: Final = 60.0
_HOPELESS: Final = frozenset({Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED})


class Keeper:
    """Writes what the Workload API gives into a directory that is entered."""

    def __init__(
        self,
        layout: Layout,
        directory: FileDirectory,
        endpoint: Endpoint,
        *,
        reload: Reload | None = None,
        keep_withdrawn: bool = False,
        clock: Clock | None = None,
        on_written: Callable[[Sequence[Path]], None] = lambda _paths: None,
    ) -> None:
        """With ``keep_withdrawn``, keys of an identity that was taken away stay until somebody removes them."""
        clock = clock or SystemClock()
        self.board = Board(_parts(layout), keep_withdrawn=keep_withdrawn)
        self.placed = asyncio.Event()
        """Set once all files have been put in place."""

        self._layout = layout
        self._directory = directory
        self._endpoint = endpoint
        self._reload = reload or Reload()
        self._on_written = on_written
        self._untold = asyncio.Event()
        self._x509 = X509Follower(self.board, layout, endpoint, clock)
        self._jwt = JwtFollower(self.board, layout, endpoint, clock)

    @property
    def is_ready(self) -> bool:
        """Whether all files are in place and current, and everybody was told."""
        pending = self.board.changed.is_set() or self._untold.is_set()
        return self.placed.is_set() and not pending and not any(self.board.problems.values())

    # ------------------------------------------------------------------------------------------ once

    async def once(self, patience: float = 0.0) -> None:
        """Write everything once, and tell once.

        For ``patience`` seconds what is not there yet is asked for again: an agent that starts, an entry that comes.
        Raises: what the Workload API refuses with, VST2300, VST2450, VST2452, VST2454.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        pause = 0.1
        while True:
            try:
                await self._fetch()
                break
            except VestibuleError as error:
                if status_of(error) in _HOPELESS or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
        await self._place()
        if self._reload.is_needed:
            await self._reload.tell()

    async def _fetch(self) -> None:
        channel = self._endpoint.channel()
        try:
            async with asyncio.timeout(_PATIENCE):
                api = WorkloadApi(channel)
                if self._layout.has_x509:
                    self._x509.put(await api.fetch())
                await self._jwt.put(api)
        except TimeoutError as error:
            raise UNREACHABLE.error(f"{self._endpoint} did not answer within {_PATIENCE:g} s") from error
        finally:
            channel.close()

    # ---------------------------------------------------------------------------------------- following

    async def follow(self) -> None:
        """Keep everything current until cancelled.

        Raises: VST2454, where that is to end it, and what no waiting would mend.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name="svid-files-write")
                tasks.create_task(self._tell(), name="svid-files-tell")
                if self._layout.has_x509:
                    tasks.create_task(self._x509.run(), name="svid-files-x509")
                for job in self._jwt.jobs():
                    tasks.create_task(job, name="svid-files-jwt")
        except BaseExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            await self._reload.close()

    async def _write(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while not self.board.is_complete:
                    await self._next_change()
        if self.board.files:
            self.board.changed.set()
        while True:
            await self._next_change()
            await _until_done(self._place, self._note(FILES), self.board.changed)

    async def _next_change(self) -> None:
        await self.board.changed.wait()
        self.board.changed.clear()

    async def _place(self) -> None:
        news, complete = self.board.take_news(), self.board.is_complete
        try:
            written = await asyncio.to_thread(self._directory.place, self.board.files)
        except BaseException:
            self.board.give_back_news(news)
            raise
        self.board.problems.pop(FILES, None)
        self._on_written(written)
        if complete:
            self.placed.set()
        if news and self._reload.is_needed:
            self._untold.set()

    async def _tell(self) -> None:
        while True:
            await self._untold.wait()
            self._untold.clear()
            if self._reload.on_failure is OnFailure.RETRY:
                await _until_done(self._tell_once, self._note(RELOAD), self._untold)
                continue
            try:
                await self._tell_once()
            except VestibuleError as error:
                if self._reload.on_failure is OnFailure.EXIT:
                    raise
                self.board.note(RELOAD, error)

    async def _tell_once(self) -> None:
        await self._reload.tell()
        self.board.problems.pop(RELOAD, None)

    def _note(self, part: str) -> Callable[[VestibuleError], None]:
        return lambda error: self.board.note(part, error)


def _parts(layout: Layout) -> Iterator[str]:
    if layout.has_x509:
        yield X509
    yield from (jwt.name for jwt in layout.jwts)
    if layout.jwt_bundle:
        yield JWT_BUNDLE


async def _until_done(
    step: Callable[[], Awaitable[None]], note: Callable[[VestibuleError], None], news: asyncio.Event
) -> None:
    """Again with growing pauses until it succeeds; at once where there is something newer to do it with."""
    pause = _PAUSE_FIRST
    while True:
        try:
            await step()
        except VestibuleError as error:
            note(error)
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await news.wait()
                news.clear()
        pause = min(pause * 2, _PAUSE_LONGEST)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What was foreseen, if anything was; else all of it."""
    foreseen = group.subgroup(VestibuleError)
    if foreseen is None:
        return group
    found: BaseException = foreseen
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
