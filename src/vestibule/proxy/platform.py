"""The Envoy in front of the server's own services: started, watched, started again, drained.

It has a bootstrap that says all but its certificate, an empty environment, and dies with the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.envoy.platform import PlatformBootstrap
from vestibule.errors import VestibuleError
from vestibule.net.peer import Peer
from vestibule.net.unix import check_path
from vestibule.processes import BoundedFile, Child, Command, Ledger, Probe, Spec, Supervised
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.proxy.admin import Admin
from vestibule.proxy.environment import envoy_environment

PLATFORM: Final = "platform-envoy"
_POLL: Final = 0.05
_FILES: Final = 16_384

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformPlan:
    """How it is started.  ``directory`` is private; ``drain`` in seconds."""

    binary: Path
    directory: Path
    bootstrap: PlatformBootstrap
    log: Path
    drain: float = 5.0
    workers: int = 1


class PlatformEnvoy:
    """One supervised Envoy.  ``is_ours`` knows its process by pid and start time."""

    def __init__(
        self, plan: PlatformPlan, ledger: Ledger, *, on_change: Callable[[], None] = lambda: None
    ) -> None:
        bootstrap = plan.bootstrap
        for each in (bootstrap.admin_socket, bootstrap.server_socket):
            check_path(each)
        for service in bootstrap.services:
            check_path(service.app_socket)
        self.plan = plan
        self.admin = Admin(bootstrap.admin_socket)
        self.restarts = 0
        self._ledger = ledger
        self._on_change = on_change
        self._child: Child | None = None
        self._process: Supervised | None = None
        self._log = BoundedFile(plan.log)

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        return self._process is not None and self._process.ready.is_set()

    def is_ours(self, peer: Peer) -> bool:
        """Whether a process is the Envoy that runs now, and no other, not even one that got its pid."""
        child = self._child
        return (
            child is not None
            and peer.process is not None
            and (peer.pid, peer.start_time) == (child.pid, child.start_time)
        )

    async def run(self) -> None:
        """Keep it running until ``stop``.  Raises: VST7000, VST7001, VST7002 or VST7006 when it never comes up."""
        self._write_bootstrap()
        self._process = Supervised(
            self._spec(), self._ledger, on_start=self._started, on_end=self._ended, on_change=self._moved
        )
        await self._process.run()

    async def stop(self) -> None:
        """Finish what is in flight, for at most ``plan.drain`` seconds; then end it."""
        if self._process is None:
            return
        if self.is_ready:
            await self._drain()
        await self._process.stop()
        self._log.close()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.plan.drain
        try:
            await self.admin.post("/drain_listeners?graceful&skip_exit")
            while loop.time() < until:
                if not await self.admin.in_flight():
                    return
                await asyncio.sleep(_POLL)
        except VestibuleError as error:
            _log.warning("draining ends early: %s", error)

    def _spec(self) -> Spec:
        return Spec(
            name=PLATFORM,
            command=self._command,
            ready=Probe(lambda _child: self._answers()),
            log=self._log,
            grace=5.0,
            keep_tail=True,
        )

    def _command(self) -> Command:
        plan = self.plan
        plan.bootstrap.admin_socket.unlink(missing_ok=True)
        argv = (
            str(plan.binary),
            *("--config-path", str(self._bootstrap_path)),
            "--disable-hot-restart",
            *("--concurrency", str(plan.workers)),
            *("--drain-time-s", str(max(1, round(plan.drain)))),
            *("--log-level", "warning"),
            *("--file-flush-interval-msec", "500"),
        )
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = ((resource.RLIMIT_NOFILE, min(_FILES, hard)), (resource.RLIMIT_CORE, 0))
        return Command(argv=argv, env=envoy_environment(), cwd=plan.directory, limits=limits)

    async def _answers(self) -> bool:
        try:
            return (await self.admin.get("/ready")).status == 200
        except VestibuleError:
            return False

    def _started(self, child: Child) -> None:
        self._child = child

    def _ended(self, _child: Child, _status: int) -> None:
        self._child = None

    def _moved(self, process: Supervised) -> None:
        self.restarts = process.restarts
        self._on_change()

    @property
    def _bootstrap_path(self) -> Path:
        return self.plan.directory / "bootstrap.json"

    def _write_bootstrap(self) -> None:
        try:
            self._bootstrap_path.write_text(json.dumps(self.plan.bootstrap.document), encoding="utf-8")
        except OSError as error:
            raise NOT_WRITABLE.error(f"cannot write {self._bootstrap_path}: {error.strerror}") from error
