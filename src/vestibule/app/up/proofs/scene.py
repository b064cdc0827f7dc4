"""What the proofs find when they start: a running mesh, its intent, and edges on which calls succeed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from vestibule.app.up import dialling
from vestibule.app.up.dialling import Answer, Connection, Handshake
from vestibule.app.up.edges import Request, Route
from vestibule.app.up.mesh import Mesh
from vestibule.intent import Intent
from vestibule.observe.access_log import read
from vestibule.observe.access_record import AccessRecord
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, X509Svid

LOOK_EVERY: Final = 0.05
REQUEST_ID: Final = "x-request-id"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LiveEdge:
    """An allowed edge, with an example request that was answered with success."""

    route: Route
    request: Request

    def __str__(self) -> str:
        return str(self.route)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The stage of all proofs.  ``directory`` is the private copy, whose files proofs may edit and put back.

    ``silent`` says of each further allowed edge what came instead of success.
    """

    mesh: Mesh
    edges: tuple[LiveEdge, ...]
    denied: tuple[Route, ...]
    silent: tuple[str, ...] = ()
    bundle: TrustBundle
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def intent(self) -> Intent:
        return self.mesh.plan.intent

    @property
    def directory(self) -> Path:
        return self.mesh.plan.directory

    def identity(self, service: str) -> SpiffeId:
        """The SPIFFE ID that a service has by its intent."""
        return self.intent.services[service].spiffe_id

    def host(self, route: Route) -> str:
        """The name by which a caller calls the callee's port."""
        return host_of(self.intent, route)

    def egress(self, service: str) -> Address:
        """The way out of a service's app."""
        return self.mesh.sidecar_of(service).where.egress

    def ingress(self, service: str, port: str) -> Address:
        """Where a service's proxy accepts others."""
        return self.mesh.sidecar_of(service).where.ingress[port]

    # ------------------------------------------------------------------------------- calling

    async def call(self, route: Route, request: Request, request_id: str | None = None) -> Answer:
        """Call as the caller's app would, through its own proxy.  Raises: NoAnswer."""
        headers = {REQUEST_ID: request_id or new_request_id()}
        return await asyncio.to_thread(
            dialling.ask, self.egress(route.caller), self.host(route), request, headers
        )

    async def open_way_out(self, service: str) -> Connection:
        """A connection of a service's app to its own proxy, to be used for several requests.  Raises: NoAnswer."""
        return Connection(await asyncio.to_thread(dialling.dial, self.egress(service)))

    async def dial(self, service: str, port: str, svid: X509Svid | None) -> Handshake:
        """Dial the callee's proxy directly, as whoever ``svid`` says.  Raises: NoAnswer."""
        return await self.dial_address(self.ingress(service, port), svid)

    async def dial_address(self, address: Address, svid: X509Svid | None) -> Handshake:
        """The same for a certain instance's address.  Raises: NoAnswer."""
        return await asyncio.to_thread(dialling.dial_tls, address, svid)

    async def ask_directly(
        self, route: Route, request: Request, svid: X509Svid | None, request_id: str | None = None
    ) -> Answer:
        """One request past the caller's proxy.  Raises: NoAnswer."""
        handshake = await self.dial(route.callee, route.port, svid)
        with handshake.connection as connection:
            headers = {REQUEST_ID: request_id or new_request_id()}
            return await asyncio.to_thread(connection.ask, self.host(route), request, headers)

    # ------------------------------------------------------------------------------- watching

    async def record(
        self, wanted: Callable[[AccessRecord], bool], *, within: float = 5.0
    ) -> AccessRecord | None:
        """The first access record that fits, waiting for it if need be; None if it does not come in time."""
        return await eventually(lambda: self._find(wanted), within)

    async def records(self, since: datetime) -> list[AccessRecord]:
        """Every access record from ``since`` on that was written so far."""
        return await asyncio.to_thread(
            lambda: [each for each in read(self.mesh.access_log) if each.time >= since]
        )

    async def _find(self, wanted: Callable[[AccessRecord], bool]) -> AccessRecord | None:
        return next((each for each in await self.records(self.began) if wanted(each)), None)


def host_of(intent: Intent, route: Route) -> str:
    """The name by which a caller calls the callee's port, through its egress."""
    ports = intent.services[route.callee].ports
    return route.callee if len(ports) == 1 or route.port == "http" else f"{route.port}.{route.callee}"


async def eventually(look: Callable[[], Awaitable[T | None]], within: float) -> T | None:
    """What ``look`` finds, as soon as it finds something; None after ``within`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while (found := await look()) is None and loop.time() < deadline:  # noqa: ASYNC110 - nobody tells us
        await asyncio.sleep(LOOK_EVERY)
    return found


def new_request_id() -> str:
    """A request id, which both proxies keep as it is."""
    return str(uuid.uuid4())
