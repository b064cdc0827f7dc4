"""SIGTERM and SIGINT: the first drains, the second stops at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Turns the two signals into two events while it is entered; must be used in the main thread."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.at_once = asyncio.Event()

    def request(self) -> None:
        """What a signal does; also for callers that stop for reasons of their own."""
        if self.drain.is_set():
            self.at_once.set()
        self.drain.set()

    async def carry_out(self, drain: Coroutine[Any, Any, None], kill: Callable[[], None]) -> None:
        """An end in good order, which a second signal cuts short by ``kill``.  Raises: what ``drain`` raises."""
        draining = asyncio.create_task(drain, name="drain")
        at_once = asyncio.create_task(self.at_once.wait(), name="at-once")
        try:
            await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                draining.result()
            else:
                kill()
        finally:
            for task in (draining, at_once):
                task.cancel()
            await asyncio.gather(draining, at_once, return_exceptions=True)

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.add_signal_handler(signum, self.request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.remove_signal_handler(signum)
