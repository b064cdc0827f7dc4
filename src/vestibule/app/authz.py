"""A decision service of its own, for Envoys that are not ours: an intent, followed, and doors in front of engines."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from vestibule import __version__
from vestibule.app.codes import INVALID_SETTING
from vestibule.clock import Clock
from vestibule.doors.authz_http import decision_app
from vestibule.doors.checks import Answering
from vestibule.doors.ext_authz import MAX_MESSAGE, METHOD, AuthorizationDoor
from vestibule.doors.grpc_health import HealthDoor
from vestibule.doors.health import HealthServer
from vestibule.intent.model import DenyDetail, Intent
from vestibule.intent.port_policies import port_policy
from vestibule.mesh import Source
from vestibule.net.codes import CALL_NOT_ALLOWED
from vestibule.net.grpc import Stream
from vestibule.net.grpc_server import Connection, Fast, GrpcServer
from vestibule.net.listen import listen_tcp
from vestibule.net.quotas import Quota
from vestibule.net.unary_http2 import Answer
from vestibule.net.unix import PRIVATE, UnixListener, listen_unix
from vestibule.policy.deciders import Decider
from vestibule.policy.engine import Engine
from vestibule.processes.signals import Shutdown
from vestibule.records import Address
from vestibule.spiffe import SpiffeId
from vestibule.telemetry.metrics import Metrics

DRAIN_SECONDS: Final = 3.0
RELOAD_SECONDS: Final = 10.0
CONNECTIONS: Final = 256
CALLS: Final = 1024
"""Of one client at once; one more is refused at once, which its Envoy takes for 503."""

NOT_FOLLOWED: Final = ("break-glass", "revocations")
"""What only sidecars enforce.  Both are kept by a server; this service has none, and must not seem to know of them."""

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_log = logging.getLogger(__name__)

Deciders = Mapping[tuple[str, str], Decider]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: what the service shows, and whose client certificates count."""

    certificate: Path
    key: Path
    authorities: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzSettings:
    """Where the service listens.  ``askers`` are the identities that may ask over TCP."""

    socket: Path | None = None
    listen: Address | None = None
    tls: TlsFiles | None = None
    askers: tuple[SpiffeId, ...] = ()
    http: Address | None = None

    def __post_init__(self) -> None:
        if self.socket is None and self.listen is None and self.http is None:
            raise INVALID_SETTING.error("there is nowhere to listen: give --socket, --listen or --http")
        if self.listen is not None and (self.tls is None or not self.askers):
            raise INVALID_SETTING.error("--listen needs --tls-cert, --tls-key, --client-ca and --asker")
        if self.http is not None and self.http.host not in _LOOPBACK:
            raise INVALID_SETTING.error("--http is for this machine: it takes callers' names on trust")


def deciders_of(intent: Intent) -> dict[tuple[str, str], Decider]:
    """An engine for every HTTP port of an intent."""
    trust_domain = str(intent.mesh.trust_domain)
    return {
        (service.name, port.name): Decider(
            Engine(port_policy(intent, service, port)),
            trust_domain,
            version=intent.version,
            tells_rule=service.deny_detail is DenyDetail.CALLER,
        )
        for service in intent.services.values()
        for port in service.ports.values()
        if port.protocol.is_http
    }


class AuthzService:
    """The parts of it, connected."""

    def __init__(self, settings: AuthzSettings, source: Source, clock: Clock) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._deciders: Deciders = {}
        self._since: datetime | None = None
        self.counts: Counter[str] = Counter()
        self.answering = Answering(
            lambda service, port: self._deciders.get((service, port)),
            explains=True,
            now=clock.now,
            counts=self.counts,
        )

    async def load(self) -> None:
        """Read the intent once, and make engines of it."""
        await self._source.load()
        await self._take()

    async def run(self, on_ready: Callable[[], None], shutdown: Shutdown) -> None:
        """Serve until ``shutdown`` asks for the end."""
        server = GrpcServer(
            [AuthorizationDoor(self._of_stream).servable(), HealthDoor(self._problem).servable()],
            max_message=MAX_MESSAGE,
            quota=Quota(connections=CONNECTIONS, calls=CALLS),
            fast=Fast(path=METHOD, answer_of=self._of_connection, max_message=MAX_MESSAGE),
        )
        unix: UnixListener | None = None
        try:
            if self._settings.socket is not None:
                unix = listen_unix(self._settings.socket, PRIVATE)
                await server.listen(unix.sock)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._source.run(), name="intent"),
                    tasks.create_task(self._follow(), name="engines"),
                ]
                if self._settings.listen is not None:
                    tls = Tls(self._settings.tls)
                    running.append(tasks.create_task(tls.run(), name="tls files"))
                    await server.listen(_tcp(self._settings.listen), tls=tls.context)
                if self._settings.http is not None:
                    app = decision_app(self.answering, self.status, self._metrics())
                    http = HealthServer(app, _tcp(self._settings.http))
                    running.append(tasks.create_task(http.run(), name="http"))
                on_ready()
                await shutdown.drain.wait()
                await server.drain(DRAIN_SECONDS)
                for task in running:
                    task.cancel()
        finally:
            await server.close()
            if unix is not None:
                unix.close()

    def status(self) -> Mapping[str, Any]:
        """Which policy decides, how old it is, and what is wrong with a newer one."""
        reading = self._source.reading
        problems = [str(each.error) for each in reading.problems if each.severity.value == "error"]
        age = (self._clock.now() - self._since).total_seconds() if self._since else None
        return {
            "ready": bool(self._deciders),
            "version": reading.intent.version if reading.intent else None,
            "commit": reading.commit.id if reading.commit else None,
            "age_seconds": age,
            "is_newest": not problems,
            "problems": problems[:3],
            "not_followed": list(NOT_FOLLOWED),
        }

    async def _follow(self) -> None:
        seen = self._source.revision.value
        while True:
            seen = await self._source.revision.changed(seen)
            await self._take()

    async def _take(self) -> None:
        """Make engines of what was read last; until they are made, and where it is no good, the last good decides."""
        reading = self._source.reading
        if reading.intent is None:
            return
        self._deciders = await asyncio.to_thread(deciders_of, reading.intent)
        self._since = reading.loaded_at or self._clock.now()
        _log.info("intent version %s decides", reading.intent.version)

    async def _problem(self) -> str | None:
        return None if self._deciders else "there is no valid intent yet"

    def _of_stream(self, stream: Stream) -> Answering:
        self._admit(stream.peer._transport.get_extra_info("ssl_object"))
        return self.answering

    def _of_connection(self, connection: Connection) -> Answer:
        self._admit(connection.tls)
        return self.answering.answer

    def _admit(self, tls: Any) -> None:
        """Over TCP only those who may ask.  Raises: VST2324 and the like."""
        if tls is None:
            return
        names = {name for kind, name in tls.getpeercert().get("subjectAltName", ()) if kind == "URI"}
        if names.isdisjoint(map(str, self._settings.askers)):
            raise CALL_NOT_ALLOWED.error("this client may not ask for decisions")

    def _metrics(self) -> Metrics:
        metrics = Metrics("authz", __version__)
        metrics.gauges(
            "authz_decisions",
            "Questions answered since the start, by verdict.",
            "verdict",
            lambda: self.counts,
        )
        metrics.gauge(
            "authz_policy_age_seconds",
            "For how long the policy has decided.",
            lambda: self.status()["age_seconds"] or 0,
        )
        metrics.gauge(
            "authz_policy_is_newest",
            "1 unless there is a newer policy with errors.",
            lambda: self.status()["is_newest"],
        )
        return metrics


class Tls:
    """A context for listening that follows its files; clients must show a certificate."""

    def __init__(self, files: TlsFiles | None) -> None:
        assert files is not None
        self._files = files
        self._seen = self._look()
        self._current = self._make()
        self.context = self._make()
        self.context.sni_callback = self._choose

    async def run(self) -> None:
        """Look for newer files now and then."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            with suppress(OSError):
                if (seen := self._look()) != self._seen:
                    self._reload(seen)

    def _reload(self, seen: tuple[int, ...]) -> None:
        try:
            self._current = self._make()
        except (OSError, ssl.SSLError) as error:
            _log.warning("the new certificate files cannot be used, the old ones are: %s", error)
            return
        self._seen = seen

    def _look(self) -> tuple[int, ...]:
        files = self._files
        return tuple(each.stat().st_mtime_ns for each in (files.certificate, files.key, files.authorities))

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=self._files.authorities)
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = self._current


def _tcp(address: Address) -> socket.socket:
    return listen_tcp(address.host, address.port)
