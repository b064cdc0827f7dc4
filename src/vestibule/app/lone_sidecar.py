"""A sidecar without a control plane: one file says what a server would, and an agent gives it its identity.

The order of a start: read the file, lay out the addresses, write what Envoy follows, start Envoy, wait for its
certificate; then the app, if there is one to start.  From then on a changed file is read again, and what is revoked
is refused, on open connections too, if the agent tells of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vestibule.app.codes import LONE_NO_CERTIFICATE
from vestibule.app.host_secrets import HostSecrets
from vestibule.app.lone_followed import Followed
from vestibule.app.lone_views import layout_of, moved, view_of
from vestibule.app.sidecar import APP, default_workers, soon
from vestibule.app.sidecar_control import Control
from vestibule.app.sidecar_place import sidecar_place
from vestibule.app.sidecar_walls import Walls, WallSettings
from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.envoy.bootstrap import HEAP_BYTES
from vestibule.envoy.lone.access_lines import MARK, STDOUT
from vestibule.envoy.lone.delivery import delivered, lone_bootstrap
from vestibule.envoy.lone.worlds import compiled, world_of
from vestibule.envoy.world import DEFAULT_SVID_TTL, next_expiry
from vestibule.errors import Kind, SeveralError, VestibuleError
from vestibule.intent.lone import Lone
from vestibule.intent.lone.files import LoneFile, checked
from vestibule.net.codes import UNREACHABLE
from vestibule.net.unix import check_path
from vestibule.processes import Backoff, Child, Command, Ledger, Probe, Restart, Shutdown, Spec, Supervised
from vestibule.processes.codes import NOT_READY
from vestibule.proxy.codes import APP_SILENT
from vestibule.proxy.envoy import Envoy, EnvoyPlan
from vestibule.proxy.host_files import HostFiles
from vestibule.proxy.listeners import AppListeners, all_listening
from vestibule.records import Boundary, Instance
from vestibule.spiffe import Revocations, SpiffeId

_FOLLOWED: Final = "x"
_LOOK_EVERY: Final = 1.0
_CERTIFICATE_EVERY: Final = 0.1
_CERTIFICATE_LATER: Final = 30.0
_REFUSALS_EVERY: Final = 5.0
_TELL_AFTER: Final = 5.0
_LISTENING_WITHIN: Final = 30.0
_PAUSE: Final = 0.5
_LIST_WITHIN: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneSettings:
    """What a lone sidecar is told at its start; durations in seconds.

    ``access_log`` is a file, ``-`` for standard output, or empty for none.  Everything else is as for
    ``SidecarSettings``.
    """

    file: Path
    agent_socket: Path
    run_directory: Path
    access_log: str = STDOUT
    command: tuple[str, ...] = ()
    base_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    envoy: Path | None = None
    allow_exposed: bool = False
    walls: WallSettings = field(default_factory=lambda: WallSettings(boundary=Boundary.TRUST))
    heap_bytes: int = HEAP_BYTES
    files: int | None = None
    workers: int | None = None
    log_directory: Path | None = None
    ca_bundle: Path | None = None
    attach_within: float = 60.0
    ready_within: float = 60.0
    drain: float = 5.0
    grace: float = 10.0


async def run_lone(settings: LoneSettings, *, on_ready: Callable[[Instance], None]) -> int:
    """Run until a signal, or until the app is done.  The answer is the exit status: 0, or the app's own.

    ``on_ready`` hears once, when it has its certificate and everything listens.
    Raises: VST7320, VST7321, VST7330, VST70xx–VST72xx, VST2310.
    """
    check_path(settings.agent_socket)
    settings.walls.check()
    source = LoneFile(settings.file)
    lone = _read(source)
    async with sidecar_place(
        settings.run_directory, settings.agent_socket, settings.walls, settings.envoy
    ) as place:
        sidecar = LoneSidecar(
            settings, source, lone, place.ledger, place.home, place.walls, place.binary, place.shutdown
        )
        return await sidecar.run(on_ready)


class LoneSidecar:
    """One running sidecar.  ``home`` is the directory of what it starts, owned by their user."""

    def __init__(
        self,
        settings: LoneSettings,
        source: LoneFile,
        lone: Lone,
        ledger: Ledger,
        home: Path,
        walls: Walls,
        binary: Path,
        shutdown: Shutdown,
    ) -> None:
        self.settings = settings
        self.lone = lone
        self.walls = walls
        self.revocations = Revocations()
        self.svid_ttl = DEFAULT_SVID_TTL
        instance_id = f"{lone.name}-{secrets.token_hex(5)}"
        self.layout = layout_of(
            lone,
            instance_id=instance_id,
            directory=home,
            boundary=settings.walls.boundary,
            starts_app=bool(settings.command),
        )
        followed = home / _FOLLOWED
        followed.mkdir(mode=0o700)
        self.followed = Followed(followed)
        if (user := settings.walls.proxy_user) is not None:
            self.followed.give_to(user.uid, user.gid)
        logs = settings.log_directory or ledger.directory
        plan = EnvoyPlan(
            binary=binary,
            directory=home,
            instance_id=instance_id,
            service=lone.name,
            agent_socket=settings.agent_socket,
            log=logs / f"envoy-{instance_id}.log",
            drain=settings.drain,
            workers=settings.workers or default_workers(os.cpu_count() or 1),
            user=user,
            heap_bytes=settings.heap_bytes,
            files=settings.files,
            document=lambda files: self._bootstrap(files),
        )
        self.plan = plan
        self.host_secrets = HostSecrets(
            HostFiles(ca_bundle=settings.ca_bundle, reader=user),
            plan.host_socket,
            plan.token_socket,
            owner=user,
        )
        self.listeners = AppListeners(
            (lambda: ledger.family(APP)) if settings.command else None,
            allow_exposed=settings.allow_exposed or walls.hides_app,
            owner=settings.walls.app_uid if settings.walls.boundary is Boundary.GUARD else None,
            ours=lambda: list(self.layout.ingress.values()),
        )
        self.envoy = Envoy(
            plan, ledger, on_start=lambda child: None, on_end=lambda child, status: None, on_line=_pass_on
        )
        self.app = Supervised(self._app_spec(), ledger)
        self.control = Control(ledger.directory, self)
        self._source = source
        self._shutdown = shutdown
        self._changed = asyncio.Event()
        self._listed = asyncio.Event()

    @property
    def service(self) -> str:
        """Whose sidecar it is."""
        return self.lone.name

    async def run(self, on_ready: Callable[[Instance], None]) -> int:
        """Start everything, keep it, and end it in order.  Raises: as ``run_lone``."""
        try:
            async with asyncio.TaskGroup() as tasks:
                background: list[asyncio.Task[Any]] = []
                serving = tasks.create_task(self._serve(tasks, background, on_ready), name="serve")
                leaving = asyncio.create_task(self._shutdown.drain.wait(), name="signals")
                try:
                    await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    leaving.cancel()
                serving.cancel()
                await self._shutdown.carry_out(self._drain(), self._kill)
                for task in background:
                    task.cancel()
        except BaseExceptionGroup as errors:
            foreseen, others = errors.split(VestibuleError)
            if foreseen is None or others is not None:
                raise
            raise _first(foreseen) from None
        finally:
            self.host_secrets.close()
            self.layout.close()
        return 0

    async def _serve(
        self,
        tasks: asyncio.TaskGroup,
        background: list[asyncio.Task[Any]],
        on_ready: Callable[[Instance], None],
    ) -> None:
        """The start, and then the watch; returns when the app is done."""
        view = view_of(self.lone)
        self.layout.fit(view)
        # Before the first of these addresses listens.
        self.walls.put_up(self.layout, view)
        self.host_secrets.open()
        following = tasks.create_task(self._follow_revocations(), name="revocations")
        background.append(following)
        # So that nobody is let in before it is known who is not to be; but an agent may not tell that at all.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listed.wait(), _LIST_WITHIN)
        self._write()
        for name, coroutine in (
            ("control", self.control.run()),
            ("host-secrets", self.host_secrets.run()),
            ("envoy", self.envoy.run()),
            ("file", self._follow_file()),
            ("changes", self._follow_changes()),
        ):
            background.append(tasks.create_task(coroutine, name=name))
        await self._certified()
        background.append(tasks.create_task(self._follow_certificate(), name="certificate"))
        background.append(tasks.create_task(self._follow_refusals(), name="refusals"))
        await self._open()
        if not self.settings.command:
            on_ready(self._instance)
            await self._watch_app()
            return
        background.append(tasks.create_task(self._watch_exposure(), name="exposure"))
        running = tasks.create_task(self._run_app(), name=APP)
        background.append(running)
        ready = asyncio.create_task(self.app.ready.wait(), name="app ready")
        try:
            await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not running.done():
            on_ready(self._instance)
        # Waited for from outside: when we are told to leave, the app goes on until it is stopped in its turn.
        await asyncio.wait({running})

    # What Envoy is told.

    @property
    def _instance(self) -> Instance:
        view = view_of(self.lone)
        return self.layout.instance(view, reachable=True)

    def _write(self) -> bool:
        """Everything as it is now; whether that is something new."""
        instance = self._instance
        world = world_of(
            self.lone, instance, datetime.now(UTC), svid_ttl=self.svid_ttl, revocations=self.revocations
        )
        files = delivered(
            compiled(world, instance),
            self.lone.identity,
            directory=str(self.followed.directory),
            access_log=self.settings.access_log,
        )
        return self.followed.write(files)

    def _bootstrap(self, files: int) -> dict[str, Any]:
        return lone_bootstrap(
            node_id=self.plan.instance_id,
            service=self.lone.name,
            directory=str(self.followed.directory),
            agent_socket=str(self.plan.agent_socket),
            admin_socket=str(self.plan.admin_socket),
            host_socket=str(self.plan.host_socket),
            heap_bytes=self.plan.heap_bytes,
            files=files,
        )

    async def _follow_changes(self) -> None:
        """Whatever changed, and rules that end."""
        while True:
            end = next_expiry(self.lone.intent, datetime.now(UTC))
            # A rule ends in time by the proxy's own clock; this only tidies up, and asks again if clocks jump.
            left = 60.0 if end is None else min(60.0, (end - datetime.now(UTC)).total_seconds() + 0.05)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.05, left))
            self._changed.clear()
            self._write()

    async def _follow_file(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._source.has_changed():
                try:
                    self._take_file()
                except VestibuleError as error:
                    for each in error.errors if isinstance(error, SeveralError) else (error,):
                        _log.error("%s; nothing is changed (%s)", each, each.advice)

    def _take_file(self) -> None:
        """What the file says now counts, all of it or nothing.  Raises: VST7320, VST7321, VST7005."""
        lone = _read(self._source)
        moved(self.layout, self.lone, lone, starts_app=bool(self.settings.command))
        view = view_of(lone)
        self.layout.fit(view)
        self.walls.put_up(self.layout, view)
        self.lone = lone
        self._write()
        _log.warning("%s has changed, and counts as it is now (version %s)", lone.file, lone.intent.version)

    async def _follow_refusals(self) -> None:
        """What Envoy does not take is not enforced, and has to be known."""
        known = 0
        while True:
            await asyncio.sleep(_REFUSALS_EVERY)
            count = await self._refusals()
            if count > known:
                _log.error(
                    "Envoy refused a part of what it was told, and goes on with what it had: see its log"
                )
            known = count

    async def _refusals(self) -> int:
        try:
            answer = await self.envoy.admin.get("/stats?format=json&filter=update_rejected")
            stats = json.loads(answer.body)["stats"]
            return sum(int(each["value"]) for each in stats if "value" in each)
        except (VestibuleError, ValueError, KeyError, TypeError):
            return 0

    # The certificate.

    async def _certified(self) -> None:
        """Wait for the first certificate.  Raises: VST7330."""
        loop = asyncio.get_running_loop()
        began, told = loop.time(), False
        while (life := await self._life()) is None:
            waited = loop.time() - began
            if waited > self.settings.attach_within:
                raise await self._why_not()
            if waited > _TELL_AFTER and not told:
                told = True
                _log.warning("%s", await self._why_not())
            await asyncio.sleep(_CERTIFICATE_EVERY)
        self._lives(life)

    async def _follow_certificate(self) -> None:
        """How long a certificate lives decides how long connections may."""
        while True:
            await asyncio.sleep(_CERTIFICATE_LATER)
            if (life := await self._life()) is not None:
                self._lives(life)

    def _lives(self, life: timedelta) -> None:
        if not 0.8 < life / self.svid_ttl < 1.25:
            self.svid_ttl = life
            self._changed.set()

    async def _life(self) -> timedelta | None:
        """Of the certificate that Envoy has; None while it has none."""
        if not self.envoy.process.ready.is_set():
            return None
        try:
            answer = await self.envoy.admin.get("/certs")
            return life_of(json.loads(answer.body), self.lone.identity)
        except (VestibuleError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def _why_not(self) -> VestibuleError:
        """Why there is no certificate, as far as this process can tell."""
        socket, wanted = self.settings.agent_socket, self.lone.identity
        channel = unix_channel(socket)
        try:
            async with asyncio.timeout(2):
                context = await WorkloadApi(channel).fetch()
        except (VestibuleError, TimeoutError) as error:
            why = str(error) if isinstance(error, VestibuleError) else "it does not answer"
            return LONE_NO_CERTIFICATE.error(
                f"no certificate of {wanted} from the agent at {socket} yet: {why}"
            )
        finally:
            channel.close()
        given = ", ".join(str(each.spiffe_id) for each in context.svids) or "none"
        return LONE_NO_CERTIFICATE.error(
            f"no certificate of {wanted} from the agent at {socket} yet; this user's identities are: {given}"
        )

    async def _open(self) -> None:
        layout = self.layout
        ours = [*layout.ingress.values(), *layout.upstreams.values()]
        ours += [] if layout.egress is None else [layout.egress]
        if not await soon(lambda: all_listening(ours), _LISTENING_WITHIN):
            _log.warning("Envoy does not listen after %g s: its log says why", _LISTENING_WITHIN)
            await soon(lambda: all_listening(ours), None)

    # What is revoked.

    async def _follow_revocations(self) -> None:
        channel = unix_channel(self.settings.agent_socket)
        try:
            while True:
                try:
                    async with aclosing(RevocationFeed(channel).watch(self.revocations.version)) as updates:
                        async for update in updates:
                            self._hear(update.version, update.changes, more=update.more)
                except VestibuleError as error:
                    if _is_unknown(error):
                        _log.warning("this agent does not tell what is revoked: only the ends of SVIDs count")
                        return
                    _log.debug("not following what is revoked: %s", error)
                    if error.code is UNREACHABLE:
                        # Nor does it give a certificate: nobody is let in yet.
                        self._listed.set()
                # The agent is on this machine, and there is one such stream to it.
                await asyncio.sleep(_PAUSE)
        finally:
            self._listed.set()
            channel.close()

    def _hear(self, version: int, changes: Any, *, more: bool) -> None:
        before = self.revocations
        self.revocations = before.merged(changes, version, datetime.now(UTC))
        if not more:
            self._listed.set()
            if self.revocations is not before:
                self._changed.set()

    # The app.

    def _app_spec(self) -> Spec:
        return Spec(
            name=APP,
            command=self._app_command,
            ready=Probe(self._app_serving),
            ready_within=self.settings.ready_within,
            attempts=5,
            restart=Restart.ON_FAILURE,
            backoff=Backoff(),
            grace=self.settings.grace,
        )

    def _app_command(self) -> Command:
        env = self.layout.environment(
            self.settings.base_environment, view_of(self.lone), self.settings.agent_socket
        )
        for address in self.layout.apps.values():
            if address.path:
                Path(address.path).unlink(missing_ok=True)
        user = self.settings.walls.app_user
        if user is not None:
            env.update(user.variables)
        return Command(argv=self.settings.command, env=env, user=user, hosts=self.walls.hosts)

    async def _app_serving(self, child: Child) -> bool:
        serving = self.listeners.serving(self.layout.apps)
        # Checked last: what listens now was looked at, whatever happened before.
        self.listeners.check(self.layout.apps)
        return serving

    async def _run_app(self) -> None:
        try:
            await self.app.run()
        except VestibuleError as error:
            if error.code is not NOT_READY:
                raise
            wanted = ", ".join(map(str, self.layout.apps.values()))
            raise APP_SILENT.error(
                f"the app does not listen on {wanted} after {self.settings.ready_within:g} s"
            ) from error

    async def _watch_exposure(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self.listeners.check(self.layout.apps)

    async def _watch_app(self) -> None:
        """An app that somebody else runs."""
        while True:
            self.listeners.serving(self.layout.apps)
            self.listeners.check(self.layout.apps)
            await asyncio.sleep(_LOOK_EVERY)

    # The end.

    def _kill(self) -> None:
        _log.warning("stopping at once")
        self.app.kill()
        self.envoy.process.kill()

    async def _drain(self) -> None:
        await self.envoy.fail_health()
        await self.envoy.drain()
        await self.app.stop()
        await self.envoy.stop()


def life_of(certificates: Any, identity: SpiffeId) -> timedelta | None:
    """How long the certificate of this identity lives, by what Envoy says of those that it has (``/certs``)."""
    for each in certificates["certificates"]:
        for leaf in each.get("cert_chain", ()):
            if any(name.get("uri") == str(identity) for name in leaf.get("subject_alt_names", ())):
                began, ends = (datetime.fromisoformat(leaf[key]) for key in ("valid_from", "expiration_time"))
                return max(ends - began, timedelta(seconds=1))
    return None


def _read(source: LoneFile) -> Lone:
    """The file as it is now; what is doubtful in it is logged.  Raises: VST7320, VST7321."""
    loaded = source.load()
    lone = checked(source.path, loaded)
    for each in loaded.warnings:
        _log.warning("%s (%s)", each.error, each.advice)
    return lone


def _pass_on(line: str) -> None:
    """Access logs to standard output; whatever else Envoy prints is in its log."""
    if line.startswith(MARK):
        with contextlib.suppress(OSError):
            sys.stdout.write(line.rstrip("\n") + "\n")
            sys.stdout.flush()


def _is_unknown(error: VestibuleError) -> bool:
    return error.code.kind is Kind.UNIMPLEMENTED or "UNIMPLEMENTED" in error.message


def _first(errors: BaseExceptionGroup[VestibuleError]) -> VestibuleError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
