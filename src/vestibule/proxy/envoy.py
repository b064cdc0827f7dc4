"""The Envoy process: its command line, its readiness, its replacement, its drain.

It is started with a bootstrap that holds no secret and an empty environment; everything else it gets from the
agent over one Unix socket, by virtue of being the process that its sidecar vouched for.

It is replaced without a pause: a new one is started beside it and takes over its listening sockets (Envoy's hot
restart), so that no connection is refused or forgotten; only once the new one has all of its configuration does the old
one let its connections go.  One that does not get so far is ended, and the old one has never stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from vestibule.envoy.bootstrap import HEAP_BYTES, bootstrap
from vestibule.errors import VestibuleError
from vestibule.net.unix import MAX_PATH_BYTES, check_path
from vestibule.processes import BoundedFile, Child, Command, Ledger, Probe, Restart, Spec, Supervised, User
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.processes.placing import place
from vestibule.proxy.admin import Admin
from vestibule.proxy.binary import check_version, hot_restart_version
from vestibule.proxy.codes import ENVOY_INCOMPATIBLE, ENVOY_NOT_REPLACED
from vestibule.proxy.environment import envoy_environment

ENVOY: Final = "envoy"
_SETTLE: Final = 0.3
"""Seconds in which callers hear that the instance is gone; requests may still arrive until then."""
_POLL: Final = 0.1
_LINGER: Final = 1
"""Seconds for which a replaced Envoy lives on after its drain."""
_READY_WITHIN: Final = 30.0
_FEWEST_FILES: Final = 1024
_PRINTED_WITHIN: Final = 500
"""Milliseconds for which a line of a log may wait."""
_WHO: Final = "/server_info"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where shm_open(3) puts it
_INITIALIZING: Final = 1
_LONGEST_SUFFIX: Final = len("_udp_parent_2684354559")
_MEMORY_RECORD: Final = "shared-memory"
_APPENDING: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPlan:
    """How one Envoy is started.  ``drain`` in seconds is also how long connections of a removed listener live.

    ``directory`` is its user's alone; ``heap_bytes`` is what it may allocate before it refuses requests, and
    ``files`` how many descriptors it may hold, None for all that the system lets it have.  ``document`` makes another
    bootstrap than a sidecar's usual one, given the number of descriptors.
    """

    binary: Path
    directory: Path
    instance_id: str
    service: str
    agent_socket: Path
    log: Path
    drain: float = 5.0
    workers: int = 2
    user: User | None = None
    heap_bytes: int = HEAP_BYTES
    files: int | None = None
    document: Callable[[int], dict[str, Any]] | None = None

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def host_socket(self) -> Path:
        """Where Envoy asks its sidecar for secrets that are files of this host."""
        return self.directory / "host.sock"

    @property
    def token_socket(self) -> Path:
        """Where the sidecar gets tokens, through Envoy."""
        return self.directory / "tokens.sock"

    @property
    def hand_over_socket(self) -> Path:
        """Where a new Envoy asks the old one for its sockets; Envoy appends to the name."""
        return self.directory / "hr"


@dataclass(slots=True)
class _Generation:
    """One process in a row of those that hand over to each other; ``epoch`` is its place in the row."""

    binary: Path
    base_id: int = field(default_factory=lambda: secrets.randbelow(1 << 28))
    epoch: int = 0
    process: Supervised = field(init=False)
    task: asyncio.Task[int] | None = None
    started: bool = False

    def again(self) -> None:
        """After a crash: nobody is there to take over from."""
        if self.started:
            self.base_id, self.epoch = secrets.randbelow(1 << 28), 0
        self.started = True


class Envoy:
    """One supervised Envoy, and those that follow it."""

    def __init__(
        self,
        plan: EnvoyPlan,
        ledger: Ledger,
        *,
        on_start: Callable[[Child], None],
        on_end: Callable[[Child, int], None],
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """``on_line`` hears what any of them prints."""
        check_path(plan.admin_socket)
        check_path(plan.agent_socket)
        self.plan = plan
        self.admin = Admin(plan.admin_socket)
        self._ledger = ledger
        self._on_start = on_start
        self._on_end = on_end
        self._on_line = on_line
        self._log = BoundedFile(plan.log)
        self._count = 0
        self._replacing = asyncio.Lock()
        self._now = self._generation(_Generation(plan.binary))

    @property
    def process(self) -> Supervised:
        """The one that takes new connections."""
        return self._now.process

    @property
    def binary(self) -> Path:
        """What runs now."""
        return self._now.binary

    async def run(self) -> None:
        """Keep it running.  Raises: VST7000, VST7001, VST7002 or VST7006 when it never comes up."""
        self._write_bootstrap()
        tasks: set[asyncio.Task[int]] = set()
        try:
            now = None
            while now is not self._now:
                now = self._now
                now.task = now.task or asyncio.create_task(now.process.run(), name=ENVOY)
                tasks.add(now.task)
                await asyncio.wait({now.task})
            assert now.task is not None
            now.task.result()
        finally:
            if self._now.task is not None:
                tasks.add(self._now.task)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for left in shared_memory(self.plan.directory):
                left.unlink(missing_ok=True)
            self._log.close()

    async def replace(self, binary: Path | None = None, *, within: float = _READY_WITHIN) -> str:
        """Put a new process in the place of the running one; the answer is its version.

        ``binary`` may be another Envoy than the one that runs.  Returns once the old one is gone.
        Raises: VST7100–VST7102 for a binary that is none, VST7104, VST7105; then the old one goes on.
        """
        async with self._replacing:
            old = self._now
            new = _Generation(binary or old.binary, old.base_id, old.epoch + 1)
            version = await check_version(new.binary)
            await self._check_hand_over(old, new)
            try:
                await self._start_beside(new, within)
            except VestibuleError:
                _clear_initializing(old.base_id)
                await self._restore(old, within)
                raise
            self._now = new
            await self._see_off(old)
            return ".".join(map(str, version))

    async def drain(self) -> None:
        """Finish what is in flight, for at most ``plan.drain`` seconds.

        Inbound listeners close after that time and every answer until then ends its connection; the app's way
        out stays open, because requests in flight may need it.
        """
        if not self.process.ready.is_set():
            return
        try:
            await self.admin.post("/drain_listeners?inboundonly&graceful&skip_exit")
            await self._idle()
        except VestibuleError as error:
            _log.warning("draining ends early: %s", error)

    async def stop(self) -> None:
        """End it, and whatever of it is being replaced."""
        await self.process.stop()

    async def fail_health(self) -> None:
        """Whoever asks this proxy for its health hears that it is about to leave."""
        if self.process.ready.is_set():
            try:
                await self.admin.post("/healthcheck/fail")
            except VestibuleError as error:
                _log.warning("cannot announce the end: %s", error)

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

    # Replacing.

    async def _check_hand_over(self, old: _Generation, new: _Generation) -> None:
        if why := self._cannot_hand_over():
            raise ENVOY_INCOMPATIBLE.error(why)
        if not old.process.ready.is_set():
            raise ENVOY_NOT_REPLACED.error("the running Envoy is not ready; there is nothing to take over")
        have, offered = await hot_restart_version(old.binary), await hot_restart_version(new.binary)
        if have != offered:
            raise ENVOY_INCOMPATIBLE.error(f"{old.binary} hands over by {have}, {new.binary} by {offered}")

    async def _start_beside(self, new: _Generation, within: float) -> None:
        """Returns once the new one has everything, and its predecessor has heard from it that it may go."""
        process = self._generation(new, within=within).process
        new.task = asyncio.create_task(process.run(), name=f"{ENVOY} {self._count}")
        ready = asyncio.create_task(process.ready.wait(), name="envoy taking over")
        try:
            await asyncio.wait({ready, new.task}, return_when=asyncio.FIRST_COMPLETED)
            if new.task.done():
                raise _not_replaced(new)
        except BaseException:
            process.kill()
            await asyncio.gather(new.task, return_exceptions=True)
            raise
        finally:
            ready.cancel()
        # From now on it is kept running, as its predecessor was.
        process.spec = replace(process.spec, restart=Restart.ALWAYS)

    async def _restore(self, old: _Generation, within: float) -> None:
        """The old one serves as before, but gave its admin interface away: one of its own kind takes it back."""
        if not old.process.ready.is_set() or await self._answers():
            return
        again = _Generation(old.binary, old.base_id, old.epoch + 1)
        try:
            await self._start_beside(again, within)
        except VestibuleError as error:
            _log.warning("Envoy goes on without its admin interface: %s", error)
            return
        self._now = again
        await self._see_off(old)

    async def _see_off(self, old: _Generation) -> None:
        """The replaced one drains by itself; one that does not end is ended."""
        old.process.retire()
        assert old.task is not None
        patience = max(1, round(self.plan.drain)) + _LINGER + 5.0
        await asyncio.wait({old.task}, timeout=patience)
        if not old.task.done():
            _log.warning("the replaced Envoy does not end by itself")
            await old.process.stop()

    # One process.

    def _generation(self, new: _Generation, *, within: float | None = None) -> _Generation:
        """With ``within`` seconds it is one that takes over: it has one try, until it is ready."""
        self._count += 1
        spec = Spec(
            # A name of its own each: what ends with one must not end the next.
            name=ENVOY if self._count == 1 else f"{ENVOY}-{self._count}",
            command=lambda: self._command(new),
            ready=Probe(lambda child: self._serves(new)),
            log=self._log,
            grace=5.0,
            on_line=self._on_line,
        )
        if within is not None:
            spec = replace(spec, ready_within=within, restart=Restart.NEVER)
        new.process = Supervised(spec, self._ledger, on_start=self._on_start, on_end=self._on_end)
        return new

    def _command(self, generation: _Generation) -> Command:
        plan = self.plan
        generation.again()
        if generation.epoch == 0:
            plan.admin_socket.unlink(missing_ok=True)
            self._record_memory(generation.base_id)
        drain = max(1, round(plan.drain))
        argv = (
            str(generation.binary),
            *("--config-path", str(self._bootstrap_path)),
            *(("--disable-hot-restart",) if self._cannot_hand_over() else self._hand_over(generation, drain)),
            *("--concurrency", str(plan.workers)),
            *("--drain-time-s", str(drain)),
            *("--drain-strategy", "immediate"),
            *("--log-level", "warning"),
            # What break-glass allowed is printed for the sidecar; by itself Envoy waits for ten seconds.
            *("--file-flush-interval-msec", str(_PRINTED_WITHIN)),
        )
        return Command(
            argv=argv,
            env=envoy_environment(),
            cwd=plan.directory,
            user=plan.user,
            limits=((resource.RLIMIT_NOFILE, self._files()), (resource.RLIMIT_CORE, 0)),
        )

    def _hand_over(self, generation: _Generation, drain: int) -> tuple[str, ...]:
        # By a socket of our own directory: Envoy's default is one that any user of the host may talk to.
        return (
            *("--base-id", str(generation.base_id), "--restart-epoch", str(generation.epoch)),
            *("--socket-path", str(self.plan.hand_over_socket), "--socket-mode", "600"),
            *("--parent-shutdown-time-s", str(drain + _LINGER)),
        )

    def _cannot_hand_over(self) -> str | None:
        """Why an Envoy is started that nobody can follow; it does all else."""
        if not os.access(_MEMORY, os.W_OK):
            return f"{_MEMORY} is not writable, and Envoys hand over with its help"
        longest = len(os.fsencode(self.plan.hand_over_socket)) + _LONGEST_SUFFIX
        if longest > MAX_PATH_BYTES:
            return f"the run directory's path is too long for the sockets by which Envoys hand over ({longest} bytes)"
        return None

    def _record_memory(self, base_id: int) -> None:
        with contextlib.suppress(OSError):
            record = os.open(self.plan.directory / _MEMORY_RECORD, _APPENDING, 0o600)
            with os.fdopen(record, "a") as opened:
                opened.write(f"{base_id}\n")

    def _files(self) -> int:
        """A proxy needs a descriptor per connection; the soft limit of many systems is 1024."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return hard if self.plan.files is None else max(_FEWEST_FILES, min(self.plan.files, hard))

    async def _answers(self) -> bool:
        try:
            await self.admin.get("/ready")
        except VestibuleError:
            return False
        return True

    async def _serves(self, generation: _Generation) -> bool:
        """The first of a row serves once it answers; one that takes over, once it has all of its configuration."""
        if generation.epoch == 0:
            return await self._answers()
        try:
            # Until it takes this over, too, it is the old one that answers here.
            info = json.loads((await self.admin.get(_WHO)).body)
            epoch, state = info["command_line_options"]["restart_epoch"], info["state"]
        except (VestibuleError, ValueError, KeyError, TypeError):
            return False
        return bool(epoch == generation.epoch and state == "LIVE")

    @property
    def _bootstrap_path(self) -> Path:
        return self.plan.directory / "bootstrap.json"

    def _write_bootstrap(self) -> None:
        document = self._document()
        try:
            # Their user owns the directory: an Envoy that was taken over could have put a link there.
            owner = None if self.plan.user is None else self.plan.user.uid
            place(self.plan.directory, self._bootstrap_path.name, json.dumps(document).encode(), owner=owner)
        except OSError as error:
            raise NOT_WRITABLE.error(f"cannot write {self._bootstrap_path}: {error.strerror}") from error

    def _document(self) -> dict[str, Any]:
        plan = self.plan
        if plan.document is not None:
            return plan.document(self._files())
        return bootstrap(
            node_id=plan.instance_id,
            cluster=plan.service,
            agent_socket=str(plan.agent_socket),
            admin_socket=str(plan.admin_socket),
            host_socket=str(plan.host_socket),
            token_socket=str(plan.token_socket),
            heap_bytes=plan.heap_bytes,
            files=self._files(),
        )


def _not_replaced(new: _Generation) -> VestibuleError:
    """Why a new one did not get ready; its task is done."""
    assert new.task is not None
    error = new.task.exception()
    why = str(error) if isinstance(error, VestibuleError) else "the new Envoy ended"
    said = (
        f"; its last output:\n{new.process.tail}" if new.process.tail and new.process.tail not in why else ""
    )
    return ENVOY_NOT_REPLACED.error(f"{why}{said}")


def _clear_initializing(base_id: int) -> None:
    """One that was killed while it began has left a mark by which no other would begin.

    The mark is the first bit of the last eight bytes (``SharedMemory::flags_`` of hot-restart version 11); what else
    stands there are locks that outlive their holders.  Nobody else begins meanwhile: beginning is ours alone.
    """
    with contextlib.suppress(OSError), (_MEMORY / _memory_name(base_id)).open("r+b") as memory:
        memory.seek(-8, os.SEEK_END)
        if int.from_bytes(memory.read(8), sys.byteorder) == _INITIALIZING:
            memory.seek(-8, os.SEEK_END)
            memory.write(bytes(8))


def shared_memory(directory: Path) -> set[Path]:
    """What the Envoys of a directory share with those that follow them: a page of memory each, which stays behind."""
    try:
        numbers = (directory / _MEMORY_RECORD).read_text(encoding="ascii").split()
    except OSError:
        return set()
    return {_MEMORY / _memory_name(int(each)) for each in numbers if each.isdigit()}


def _memory_name(base_id: int) -> str:
    return f"envoy_shared_memory_{base_id * 10}"
