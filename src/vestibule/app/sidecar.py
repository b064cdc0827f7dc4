"""One sidecar put together: an Envoy, optionally the app beside it, and their place at the agent.

The order of a start: attach to the agent, learn what the service looks like, lay out the addresses, start Envoy and
vouch for it, register the way out, start the app and vouch for it, and register the way in once the app listens
there and nowhere else.  The order of an end: its health fails, callers leave, requests in flight finish, the app
stops, Envoy stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vestibule.app.host_secrets import HostSecrets
from vestibule.app.sidecar_control import Control
from vestibule.app.sidecar_home import alive
from vestibule.app.sidecar_place import sidecar_place
from vestibule.app.sidecar_walls import Walls, WallSettings
from vestibule.envoy.bootstrap import HEAP_BYTES
from vestibule.envoy.host_secrets import CertificateFiles
from vestibule.errors import VestibuleError
from vestibule.net.unix import check_path
from vestibule.processes import (
    Backoff,
    Child,
    Command,
    Ledger,
    Probe,
    Restart,
    Shutdown,
    Spec,
    State,
    Supervised,
)
from vestibule.processes.codes import NOT_READY
from vestibule.proxy.attachment import Attachment
from vestibule.proxy.codes import APP_SILENT, BAD_SUPERVISOR_KEY, NOT_ATTACHED, OTHER_KIND
from vestibule.proxy.counters import traffic_or_none
from vestibule.proxy.envoy import ENVOY, Envoy, EnvoyPlan
from vestibule.proxy.host_files import HostFiles
from vestibule.proxy.layout import EGRESS_PORT, LOOPBACK, Layout
from vestibule.proxy.listeners import AppListeners, all_listening
from vestibule.proxy.printed_uses import PrintedUses
from vestibule.records import Address, Boundary, Health, Instance, ServiceView

APP: Final = "app"
READY: Final = "sidecar ready:"
"""How the one line begins that a sidecar prints once its instance is registered."""

_USES: Final = "uses"
_WATCH_EVERY: Final = 1.0
_LOOK_EVERY: Final = 0.025
_EGRESS_WITHIN: Final = 5.0
_TOKENS_WITHIN: Final = 5.0
_LISTENING_WITHIN: Final = 10.0
_CALLERS_WITHIN: Final = 3.0
_DEREGISTER_WITHIN: Final = 2.0
_USES_WITHIN: Final = 1.0
_COUNT_EVERY: Final = 2.0
_COUNTING_SHARE: Final = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """What a sidecar is told at its start; durations in seconds.

    ``run_directory`` gets a private subdirectory per sidecar.  ``command`` is the app to start; without one,
    ``app_ports`` says where the app listens.  ``ingress_ports`` and ``upstream_ports`` are where others reach some of
    its ports, and where it finds some services, rather than what is free.  ``base_environment`` is what the app
    inherits.  With ``gateway``, ``service`` is the name of a gateway, which has no app.  ``ca_bundle`` holds the public
    authorities to trust in place of the distribution's.  ``walls`` says more about the ``boundary``, and who app and
    Envoy run as; ``heap_bytes``, ``files`` and ``workers`` bound Envoy.
    """

    service: str
    agent_socket: Path
    run_directory: Path
    gateway: bool = False
    command: tuple[str, ...] = ()
    base_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    app_ports: Mapping[str, int] = field(default_factory=dict)
    ingress_ports: Mapping[str, int] = field(default_factory=dict)
    upstream_ports: Mapping[str, int] = field(default_factory=dict)
    version: str = "v1"
    supervisor_key: bytes | None = field(default=None, repr=False)
    envoy: Path | None = None
    allow_exposed: bool = False
    walls: WallSettings = field(default_factory=lambda: WallSettings(boundary=Boundary.TRUST))
    ingress_host: str = LOOPBACK
    egress_port: int | None = None
    heap_bytes: int = HEAP_BYTES
    files: int | None = None
    workers: int | None = None
    log_directory: Path | None = None
    ca_bundle: Path | None = None
    attach_within: float = 60.0
    ready_within: float = 60.0
    drain: float = 5.0
    grace: float = 10.0


async def run_sidecar(settings: SidecarSettings, *, on_ready: Callable[[Instance], None]) -> int:
    """Run until a signal, or until the app is done.  The answer is the exit status: 0, or the app's own.

    ``on_ready`` hears once, when the instance is registered and everything listens.
    Raises: VST70xx–VST72xx, VST2310.
    """
    check_path(settings.agent_socket)
    settings.walls.check()
    async with sidecar_place(
        settings.run_directory, settings.agent_socket, settings.walls, settings.envoy
    ) as place:
        settings = replace(settings, ingress_host=place.address or settings.ingress_host)
        sidecar = Sidecar(
            settings, place.ledger, place.home, place.walls, place.binary, place.shutdown, on_ready
        )
        sidecar.uses.adopt(alive(place.others))
        return await sidecar.run()


class Sidecar:
    """One running sidecar.  ``home`` is the directory of what it starts, owned by their user."""

    def __init__(
        self,
        settings: SidecarSettings,
        ledger: Ledger,
        home: Path,
        walls: Walls,
        binary: Path,
        shutdown: Shutdown,
        on_ready: Callable[[Instance], None],
    ) -> None:
        instance_id = f"{settings.service}-{secrets.token_hex(5)}"
        self.settings = settings
        self.attachment = Attachment(
            socket=settings.agent_socket,
            service=settings.service,
            instance_id=instance_id,
            supervisor_key=settings.supervisor_key,
        )
        self.layout = Layout(
            instance_id=instance_id,
            service=settings.service,
            version=settings.version,
            boundary=settings.walls.boundary,
            directory=home,
            starts_app=bool(settings.command),
            app_ports=settings.app_ports,
            ingress_host=settings.ingress_host,
            ingress_at={
                name: Address(host=settings.ingress_host, port=port)
                for name, port in settings.ingress_ports.items()
            },
            upstream_at=settings.upstream_ports,
            egress_port=settings.egress_port or EGRESS_PORT,
            egress_fixed=settings.egress_port is not None,
        )
        family = (lambda: ledger.family(APP)) if settings.command else None
        self.walls = walls
        self.listeners = AppListeners(
            family,
            allow_exposed=settings.allow_exposed or walls.hides_app,
            owner=settings.walls.app_uid if settings.walls.boundary is Boundary.GUARD else None,
        )
        logs = settings.log_directory or ledger.directory
        plan = EnvoyPlan(
            binary=binary,
            directory=home,
            instance_id=instance_id,
            service=settings.service,
            agent_socket=settings.agent_socket,
            log=logs / f"envoy-{instance_id}.log",
            drain=settings.drain,
            workers=settings.workers or default_workers(os.cpu_count() or 1),
            user=settings.walls.proxy_user,
            heap_bytes=settings.heap_bytes,
            files=settings.files,
        )
        self.host_secrets = HostSecrets(
            HostFiles(ca_bundle=settings.ca_bundle, reader=settings.walls.proxy_user),
            plan.host_socket,
            plan.token_socket,
            owner=settings.walls.proxy_user,
        )
        self.uses = PrintedUses(
            settings.run_directory / _USES, settings.service, ledger.directory.name, self.attachment
        )
        self.attachment.on_taken = self.uses.taken
        self.envoy = Envoy(
            plan,
            ledger,
            on_start=lambda child: self.attachment.vouch(child, ENVOY),
            on_end=self._envoy_gone,
            on_line=self.uses.hear,
        )
        self.app = Supervised(
            self._app_spec(), ledger, on_start=self._app_started, on_end=self._gone, on_change=self._app_moved
        )
        self.control = Control(ledger.directory, self)
        self._shutdown = shutdown
        self._on_ready = on_ready
        self._app_up = False
        self._envoy_up = True
        self._listens = False
        self._moved = asyncio.Event()
        self._leaving = False
        self._seen = "nowhere"
        self._seen_at = 0.0

    @property
    def service(self) -> str:
        return self.settings.service

    async def run(self) -> int:
        """Start everything, keep it, and end it in order.  Raises: as ``run_sidecar``."""
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(self.attachment.run(), name="attachment")]
                serving = tasks.create_task(self._serve(tasks, background), name="serve")
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
            self.uses.close()
            self.host_secrets.close()
            self.layout.close()
        return 0

    async def _serve(self, tasks: asyncio.TaskGroup, background: list[asyncio.Task[None]]) -> None:
        """The start, and then the watch; returns when the app is done."""
        view = await self._first_view()
        self._check_kind(view)
        self.layout.fit(view)
        # Before the first of these addresses listens.
        self.walls.put_up(self.layout, view)
        self.host_secrets.open()
        background.append(tasks.create_task(self.control.run(), name="control"))
        background.append(tasks.create_task(self.host_secrets.run(), name="host-secrets"))
        background.append(tasks.create_task(self.uses.run(), name="uses"))
        background.append(tasks.create_task(self.envoy.run(), name="envoy"))
        background.append(tasks.create_task(self._follow_views(), name="views"))
        background.append(tasks.create_task(self._count(), name="counters"))
        background.append(tasks.create_task(self._keep_open(), name="ready"))
        self._announce()
        if not self.settings.command:
            await self._watch_app()
            return
        # An app that calls someone first thing should find its way out open.
        await self._egress_open()
        background.append(tasks.create_task(self._watch_exposure(), name="exposure"))
        running = tasks.create_task(self._run_app(), name=APP)
        background.append(running)
        # Waited for from outside: when we are told to leave, the app goes on until it is stopped in its turn.
        await asyncio.wait({running})

    def _check_kind(self, view: ServiceView) -> None:
        """Raises: VST7224; VST7221 and VST7223 for a gateway whose certificate cannot be served."""
        if view.is_gateway is not self.settings.gateway:
            kind = "gateway" if view.is_gateway else "service"
            raise OTHER_KIND.error(f"{view.service} is a {kind}; start it with --{kind} {view.service}")
        for port in view.ports:
            if port.certificate:
                self.host_secrets.files.check(CertificateFiles(certificate=port.certificate, key=port.key))

    async def _first_view(self) -> ServiceView:
        try:
            async with asyncio.timeout(self.settings.attach_within):
                while self.attachment.view is None:
                    await self.attachment.changed()
                return self.attachment.view
        except TimeoutError:
            problem = self.attachment.problem
            raise NOT_ATTACHED.error(
                f"not attached to the agent at {self.settings.agent_socket} within "
                f"{self.settings.attach_within:g} s: {problem or 'it does not say what the service looks like'}",
                advice=problem.advice if problem is not None else None,
            ) from None

    async def _follow_views(self) -> None:
        while True:
            await self.attachment.changed()
            self._announce()

    async def _count(self) -> None:
        """Tell what Envoy has counted, whenever that is something new."""
        loop, told = asyncio.get_running_loop(), None
        while True:
            began = loop.time()
            if self.envoy.process.ready.is_set() and self.attachment.registered:
                counted = await traffic_or_none(self.envoy.admin)
                if counted is not None and counted != told:
                    told = counted
                    self.attachment.count(counted)
            # A proxy with very many counters is asked less often.
            await asyncio.sleep(max(_COUNT_EVERY, (loop.time() - began) / _COUNTING_SHARE))

    def _announce(self) -> None:
        """Register the instance as it is now.  Without an app to be reached it has only its way out."""
        if (view := self.attachment.view) is not None and not self._leaving:
            self._fit(view)
            self.walls.put_up(self.layout, view)
            instance = self.layout.instance(view, reachable=self._is_up)
            # Envoy opens the way in after it was registered; until then, whoever called would be refused.
            health = Health.UNKNOWN if self._listens else Health.STARTING
            self.attachment.register(replace(instance, health=health))

    def _fit(self, view: ServiceView) -> None:
        try:
            self.layout.fit(view)
        except VestibuleError as error:
            if not view.is_gateway:
                raise
            # A gateway's new listener must not end those that work.
            _log.error("%s (%s)", error, error.advice)

    async def _egress_open(self) -> None:
        egress = self.layout.egress
        if egress is None or not await soon(lambda: all_listening([egress]), _EGRESS_WITHIN):
            _log.warning("the way out is not open yet; starting the app all the same")
        if not await soon(lambda: self.host_secrets.tokens.settled, _TOKENS_WITHIN):
            _log.warning("tokens to send along are not there yet; starting the app all the same")

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
        view = self.attachment.view
        assert view is not None
        env = self.layout.environment(self.settings.base_environment, view, self.settings.agent_socket)
        for address in self.layout.apps.values():
            if address.path:
                # The socket of an app that was killed; a new one could not bind.
                Path(address.path).unlink(missing_ok=True)
        user = self.settings.walls.app_user
        if user is not None:
            env.update(user.variables)
        return Command(argv=self.settings.command, env=env, user=user, hosts=self.walls.hosts)

    async def _app_serving(self, child: Child) -> bool:
        serving = self.listeners.serving(self.layout.apps)
        # Checked last: what listens now was looked at, whatever happened before.
        self.listeners.check(self.layout.apps)
        if not serving and (now := asyncio.get_running_loop().time()) - self._seen_at >= _WATCH_EVERY:
            self._seen, self._seen_at = self.listeners.found(), now
        return serving

    async def _run_app(self) -> None:
        try:
            await self.app.run()
        except VestibuleError as error:
            if error.code is not NOT_READY:
                raise
            wanted = ", ".join(map(str, self.layout.apps.values()))
            raise APP_SILENT.error(
                f"the app does not listen on {wanted} after {self.settings.ready_within:g} s "
                f"(it listens: {self._seen})"
            ) from error

    def _app_started(self, child: Child) -> None:
        self.attachment.vouch(child, APP)

    def _gone(self, child: Child, status: int) -> None:
        self.attachment.withdraw(child)

    @property
    def _is_up(self) -> bool:
        """Whether there is an app to be reached, and an Envoy to reach it by."""
        return self._app_up and self._envoy_up

    def _envoy_gone(self, child: Child, status: int) -> None:
        self._gone(child, status)
        if child is self.envoy.process.child and not self._leaving:
            # Not one that was replaced.  Until the next one listens, callers go elsewhere.
            self._envoy_up = False
            self._move()

    def _app_moved(self, app: Supervised) -> None:
        up = app.state is State.READY
        if up is not self._app_up:
            self._app_up = up
            self._move()

    def _move(self) -> None:
        """Something began or ended; what opens now is called only once it listens again."""
        if not self._is_up:
            self._listens = False
        self._moved.set()
        self._announce()

    async def _watch_exposure(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            self.listeners.check(self.layout.apps)

    async def _watch_app(self) -> None:
        """An app that somebody else runs: registered whenever it listens."""
        while True:
            up = self.listeners.serving(self.layout.apps)
            self.listeners.check(self.layout.apps)
            if up is not self._app_up:
                self._app_up = up
                self._move()
            await asyncio.sleep(_WATCH_EVERY if up else _LOOK_EVERY * 4)

    # The end.

    async def _keep_open(self) -> None:
        """The instance is called whenever the server took the whole of it, and all of it listens.

        The first time that is told: it is ready.
        """
        instance = await self._open()
        await soon(lambda: self.attachment.registered, None)
        self._on_ready(instance)
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self._app_up and not self._listens:
                await self._open()

    def _taken(self) -> bool:
        """Whether everything is there, and the server knows it."""
        if not self._envoy_up and self.envoy.process.ready.is_set():
            self._envoy_up = True
            self._announce()
        return self._is_up and self.attachment.registered

    async def _open(self) -> Instance:
        """Wait until everything listens, and say so."""
        await soon(self._taken, None)
        view = self.attachment.view
        assert view is not None
        instance = self.layout.instance(view, reachable=True)
        ours = [*instance.ingress.values(), *instance.upstreams.values()]
        if not await soon(lambda: all_listening(ours), _LISTENING_WITHIN):
            child = self.envoy.process.child
            _log.warning(
                "Envoy does not listen after %g s; if it has no identity, this says why: vestibule why --pid %s",
                _LISTENING_WITHIN,
                child.pid if child is not None else "PID",
            )
            await soon(lambda: all_listening(ours), None)
        self._listens = self._is_up
        self._announce()
        return instance

    def _kill(self) -> None:
        _log.warning("stopping at once")
        self.app.kill()
        self.envoy.process.kill()

    async def _drain(self) -> None:
        """Whoever asks hears that we leave; callers turn elsewhere; what is in flight ends; the app; then Envoy."""
        self._leaving = True
        await self.envoy.fail_health()
        await self.attachment.drain(_CALLERS_WITHIN)
        await self.envoy.drain()
        await self.attachment.deregister(_DEREGISTER_WITHIN)
        await self.app.stop()
        await self.envoy.stop()
        await soon(lambda: not (len(self.uses) and self.attachment.welcomes), _USES_WITHIN)


def default_workers(processors: int) -> int:
    """Threads of an Envoy that nobody sized: half of the processors, 1 or 2.

    The app needs the other half.  More threads than that take more turns, each with less to do.
    """
    return max(1, min(2, processors // 2))


def read_supervisor_key(descriptor: int) -> bytes:
    """The key that our supervisor was granted, from a descriptor that is then closed.  Raises: VST7205."""
    try:
        with os.fdopen(descriptor, "rb") as pipe:
            key = pipe.read(65)
    except OSError as error:
        raise BAD_SUPERVISOR_KEY.error(f"cannot read descriptor {descriptor}: {error.strerror}") from error
    if not 16 <= len(key) <= 64:
        raise BAD_SUPERVISOR_KEY.error(f"descriptor {descriptor} does not hold a supervisor key")
    return key


async def soon(condition: Callable[[], bool], within: float | None) -> bool:
    """Look until the condition holds; False after so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - the kernel's tables tell no event
                await asyncio.sleep(_LOOK_EVERY)
            return True
    return False


def _first(errors: BaseExceptionGroup[VestibuleError]) -> VestibuleError:
    """The one error that ended the group; the others are its consequences."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
