"""How the mesh is mounted on a server: with an intent directory, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from vestibule.app.codes import NO_INTENT_DIRECTORY
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.clock import Clock
from vestibule.doors.admin_api import MeshStatus
from vestibule.doors.node_api import Discovery
from vestibule.identity.beacon import Beacon
from vestibule.net.grpc import Servable
from vestibule.records import Instance, ServiceView
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2 as wire


class Mesh(Protocol):
    """What a server needs of the mesh."""

    @property
    def discovery(self) -> Discovery: ...

    @property
    def status(self) -> MeshStatus: ...

    @property
    def services(self) -> Sequence[Servable]:
        """gRPC services to serve to agents besides the server's own."""
        ...

    async def run(self) -> None:
        """The mesh's background work."""
        ...


class IdentityOnly:
    """A server without an intent: it issues identities and knows no services."""

    def __init__(self) -> None:
        self._never = Beacon()
        self.services: Sequence[Servable] = ()

    @property
    def discovery(self) -> Discovery:
        return self

    @property
    def status(self) -> MeshStatus:
        return self

    @property
    def revision(self) -> int:
        """Nothing ever changes."""
        return self._never.value

    async def changed(self, since: int) -> int:
        """Waits for what does not come."""
        return await self._never.changed(since)

    def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """There are no services."""
        return None

    async def register(self, instance: Instance) -> int:
        """Raises: VST9113."""
        raise NO_INTENT_DIRECTORY.error("this server runs without an intent and takes no instances")

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId) -> None:
        """There is nothing to forget."""

    def intent(self) -> wire.IntentStatus:
        """No intent."""
        return wire.IntentStatus()

    async def proxies(self) -> Sequence[wire.ProxyStatus]:
        """No proxies."""
        return ()

    async def run(self) -> None:
        """There is nothing to do."""


@asynccontextmanager
async def mesh_of(settings: ServerSettings, services: Services, clock: Clock) -> AsyncIterator[Mesh]:
    """The mesh that the settings ask for."""
    yield IdentityOnly()
