"""An event loop in a thread of its own, on which code that blocks has things done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=AbstractAsyncContextManager[Any])


class LoopThread:
    """Runs from ``start`` to ``stop``."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Have it done; may be called from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have it done, and wait for it; may be called from any thread but the loop's own."""
        future = self.begin(coroutine)
        try:
            return future.result()
        except BaseException:
            # Such as Ctrl-C: nobody waits for it any more.
            future.cancel()
            raise

    def abandon(self) -> None:
        """In a child of fork, where the thread does not run: nothing that is cleaned up here may reach the parent's.

        The kernel's table of what an event loop watches is shared with the parent until it is closed on this side.
        """
        selector = getattr(self._loop, "_selector", None)
        if selector is not None:
            selector.close()

    def stop(self) -> None:
        """For good."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Blocking(Generic[C]):
    """A client for asyncio, entered and left on a loop in a thread of its own for as long as the block is entered.

    So connections, renewals and a rotating SVID are looked after in the background.
    """

    def __init__(self, client: C, name: str) -> None:
        self._client = client
        self._thread = LoopThread(name)

    def __enter__(self) -> Self:
        """Raises: VST2402 where an SVID is needed and none comes."""
        self._thread.start()
        try:
            self._thread.wait(self._client.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._thread.wait(self._client.__aexit__(None, None, None))
        finally:
            self._thread.stop()
