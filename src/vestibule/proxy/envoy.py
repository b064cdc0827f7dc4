"""The Envoy process: its command line, its readiness, its drain.

It is started with a bootstrap that holds no secret and an empty environment; everything else it gets from the
agent over one Unix socket, by virtue of being the process that its sidecar vouched for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.envoy.bootstrap import bootstrap
from vestibule.errors import VestibuleError
from vestibule.net.unix import check_path
from vestibule.processes import BoundedFile, Child, Command, Ledger, Probe, Spec, Supervised
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.proxy.admin import Admin

ENVOY: Final = "envoy"
_SETTLE: Final = 0.3
"""Seconds in which callers hear that the instance is gone; requests may still arrive until then."""
_POLL: Final = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPlan:
    """How one Envoy is started.  ``drain`` in seconds is also how long connections of a removed listener live."""

    binary: Path
    directory: Path
    instance_id: str
    service: str
    agent_socket: Path
    log: Path
    drain: float = 5.0
    workers: int = 2

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def host_socket(self) -> Path:
        """Where Envoy asks its sidecar for secrets that are files of this host."""
        return self.directory / "host.sock"


class Envoy:
    """One supervised Envoy."""

    def __init__(
        self,
        plan: EnvoyPlan,
        ledger: Ledger,
        *,
        on_start: Callable[[Child], None],
        on_end: Callable[[Child, int], None],
    ) -> None:
        check_path(plan.admin_socket)
        check_path(plan.agent_socket)
        self.plan = plan
        self.admin = Admin(plan.admin_socket)
        self._on_start = on_start
        self._log = BoundedFile(plan.log)
        spec = Spec(
            name=ENVOY,
            command=self._command,
            ready=Probe(self._answers),
            log=self._log,
            grace=5.0,
        )
        self.process = Supervised(spec, ledger, on_start=self._started, on_end=on_end)

    async def run(self) -> None:
        """Keep it running.  Raises: VST7000, VST7001, VST7002 or VST7006 when it never comes up."""
        self._write_bootstrap()
        try:
            await self.process.run()
        finally:
            self._log.close()

    async def drain(self) -> None:
        """Finish what is in flight, for at most ``plan.drain`` seconds.

        Inbound listeners close after that time and every answer until then ends its connection; the app's way
        out stays open, because requests in flight may need it.
        """
        if not self.process.ready.is_set():
            return
        try:
            await self.admin.post("/healthcheck/fail")
            await self.admin.post("/drain_listeners?inboundonly&graceful&skip_exit")
            await self._idle()
        except VestibuleError as error:
            _log.warning("draining ends early: %s", error)

    async def _idle(self) -> None:
        loop = asyncio.get_running_loop()
        began, quiet = loop.time(), 0
        while (elapsed := loop.time() - began) < self.plan.drain:
            quiet = quiet + 1 if await self.admin.in_flight() == 0 else 0
            # Twice, since between two requests of a busy caller there are quiet moments.
            if quiet >= 2 and elapsed >= _SETTLE:
                return
            await asyncio.sleep(_POLL)
        _log.warning("requests are still in flight after %g s; stopping all the same", self.plan.drain)

    def _command(self) -> Command:
        plan = self.plan
        plan.admin_socket.unlink(missing_ok=True)
        argv = (
            str(plan.binary),
            *("--config-path", str(self._bootstrap_path)),
            "--disable-hot-restart",
            *("--concurrency", str(plan.workers)),
            *("--drain-time-s", str(max(1, round(plan.drain)))),
            *("--drain-strategy", "immediate"),
            *("--log-level", "warning"),
        )
        return Command(argv=argv, env={"PATH": os.defpath}, cwd=plan.directory)

    def _started(self, child: Child) -> None:
        # A proxy needs a descriptor per connection; the soft limit of many systems is 1024.
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (hard, hard))
        self._on_start(child)

    async def _answers(self, child: Child) -> bool:
        try:
            await self.admin.get("/ready")
        except VestibuleError:
            return False
        return True

    @property
    def _bootstrap_path(self) -> Path:
        return self.plan.directory / "bootstrap.json"

    def _write_bootstrap(self) -> None:
        plan = self.plan
        document = bootstrap(
            node_id=plan.instance_id,
            cluster=plan.service,
            agent_socket=str(plan.agent_socket),
            admin_socket=str(plan.admin_socket),
            host_socket=str(plan.host_socket),
        )
        try:
            self._bootstrap_path.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            raise NOT_WRITABLE.error(f"cannot write {self._bootstrap_path}: {error.strerror}") from error
