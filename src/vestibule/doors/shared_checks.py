"""Checks that many streams have in common, made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

Ended = Callable[[BaseException], None]
"""Told why a stream may not go on; called at most once."""


class SharedChecks:
    """Runs one check for each key, from the first stream that needs it to the last."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Check] = {}

    def __len__(self) -> int:
        return len(self._running)

    @contextmanager
    def accompanying(
        self, key: Hashable, check: Callable[[], Coroutine[Any, Any, BaseException]], ended: Ended
    ) -> Iterator[None]:
        """Within the block ``ended`` is called once ``check``, which may be another stream's, says or raises why."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Check(asyncio.create_task(check(), name="recheck"))
            running.task.add_done_callback(partial(self._over, key, running))
        stream = object()
        running.streams[stream] = ended
        try:
            yield
        finally:
            del running.streams[stream]
            if not running.streams:
                self._drop(key, running)
                running.task.cancel()

    def _over(self, key: Hashable, running: _Check, task: asyncio.Task[BaseException]) -> None:
        # Who comes now is checked anew.
        self._drop(key, running)
        if task.cancelled():
            return
        why = task.exception() or task.result()
        for ended in tuple(running.streams.values()):
            ended(why)

    def _drop(self, key: Hashable, running: _Check) -> None:
        if self._running.get(key) is running:
            del self._running[key]


class _Check:
    def __init__(self, task: asyncio.Task[BaseException]) -> None:
        self.task = task
        self.streams: dict[object, Ended] = {}
