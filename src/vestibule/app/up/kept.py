"""A process that is kept running, and that a proof may take away for a while."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from vestibule.processes import Child, Ledger, Spec, State, Supervised


class Kept:
    """One part of the mesh.  ``run`` holds it until ``stop``; ``on_start`` hears of every new child."""

    def __init__(
        self, spec: Spec, ledger: Ledger, *, on_start: Callable[[Child], None] | None = None
    ) -> None:
        self.spec = spec
        self._ledger = ledger
        self._on_start = on_start
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._stopping = asyncio.Event()
        self._earlier_restarts = 0
        self._process = self._supervised()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> State:
        return self._process.state

    @property
    def ready(self) -> bool:
        return self._process.ready.is_set()

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        child = self._process.child
        return child.pid if child is not None and child.running else None

    @property
    def ready_line(self) -> str:
        """The line with which the newest process said that it is ready."""
        return self._process.ready_line or ""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._earlier_restarts + self._process.restarts

    @property
    def tail(self) -> str:
        """Its last lines of output."""
        return self._process.tail

    async def run(self) -> None:
        """Keep it running.  Raises: VST7000; VST7001 and VST7002 when it never became ready."""
        while True:
            await self._process.run()
            if self._stopping.is_set() or self._wanted.is_set():
                return
            await self._wanted.wait()
            if self._stopping.is_set():
                return
            self._earlier_restarts = self.restarts + 1
            self._process = self._supervised()

    async def became_ready(self) -> None:
        """Return once the process that runs, or will run next, is ready."""
        while not self.ready:
            await self._changed.wait()

    async def take_away(self) -> None:
        """Kill it (SIGKILL), and keep it from coming back; returns once it is gone."""
        self._wanted.clear()
        self._process.kill()
        # Its supervisor would be polite first.
        self._signal(signal.SIGKILL)
        while self.pid is not None or self.state is not State.ENDED:
            await self._changed.wait()

    def put_back(self) -> None:
        """Let it be started again."""
        self._wanted.set()

    async def crash(self) -> None:
        """Kill it (SIGKILL), as an accident would; returns once it was started again and is ready."""
        before = self.restarts
        self._signal(signal.SIGKILL)
        while self.restarts == before or not self.ready:
            await self._changed.wait()

    async def stop(self) -> None:
        """SIGTERM, patience, SIGKILL; returns once it is gone and ``run`` is about to end."""
        self._stopping.set()
        self._wanted.set()
        await self._process.stop()

    def kill(self) -> None:
        """SIGKILL now, for good."""
        self._stopping.set()
        self._wanted.set()
        self._process.kill()

    def _supervised(self) -> Supervised:
        return Supervised(self.spec, self._ledger, on_start=self._on_start, on_change=self._tell)

    def _signal(self, signum: int) -> None:
        child = self._process.child
        if child is not None:
            child.signal(signum)

    def _tell(self, _: Supervised) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
