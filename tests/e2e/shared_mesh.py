"""One mesh for all tests of a module: its loop lives in a thread, and each test is a story told there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Self, TypeVar

T = TypeVar("T")
LONGEST_STORY: Final = 150.0


class SharedHere(Generic[T]):
    """The same in the main thread, from which alone processes are started."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._make = make

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._made = self._make()
        self._entered = self._runner.run(self._made.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._made.__aexit__(None, None, None))
        self._runner.close()

    def run(self, story: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._runner.run(asyncio.wait_for(story(self._entered), LONGEST_STORY))


class Shared(Generic[T]):
    """``with`` it.  ``make`` is called, entered and left in the thread's loop."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._mesh: AbstractAsyncContextManager[T] | None = None
        self._entered: T | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._mesh = self._make()
            self._entered = self._do(self._mesh.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._mesh is not None
        try:
            self._do(self._mesh.__aexit__(None, None, None))
        finally:
            self._end()

    def run(self, story: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        assert self._entered is not None
        self._do(story(self._entered))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LONGEST_STORY)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
