"""``vestibule.admin.v1.ServerAdmin``: how the server is, for the operator on its private socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from vestibule.doors.identity_api.values import receive, unix
from vestibule.identity.authorities import Authorities
from vestibule.identity.nodes import Nodes
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import AgentFilter
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["ServerAdmin"]


class MeshStatus(Protocol):
    """What the mesh contributes to the server's status, in the door's own form."""

    def intent(self) -> wire.IntentStatus:
        """The intent that is served, and the problems of the files as they are now."""
        ...

    async def proxies(self) -> Sequence[wire.ProxyStatus]:
        """Every registered proxy with what it was sent and has accepted."""
        ...


class ServerAdminDoor:
    """Collects the status from where it is known."""

    def __init__(
        self,
        authorities: Authorities,
        nodes: Nodes,
        mesh: MeshStatus,
        *,
        version: str,
        trust_domain: TrustDomain,
        started_at: datetime,
        connected: Callable[[SpiffeId], bool],
        warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``warnings`` are sentences about what an operator should do soon."""
        self._authorities = authorities
        self._nodes = nodes
        self._mesh = mesh
        self._version = version
        self._trust_domain = trust_domain
        self._started_at = started_at
        self._connected = connected
        self._warnings = warnings

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_status(self, stream: Stream) -> None:
        """GetStatus."""
        await receive(stream)
        agents = await self._nodes.page(AgentFilter(), 0, "")
        status = wire.ServerStatus(
            version=self._version,
            trust_domain=str(self._trust_domain),
            started_at=unix(self._started_at),
            intent=self._mesh.intent(),
            proxies=await self._mesh.proxies(),
            warnings=self._warnings(),
        )
        for authority in self._authorities.all():
            status.authorities.add(
                id=authority.id,
                state=authority.state.value,
                not_before=unix(authority.not_before),
                not_after=unix(authority.not_after),
            )
        for agent in agents.items:
            status.agents.add(
                spiffe_id=str(agent.spiffe_id),
                connected=self._connected(agent.spiffe_id),
                svid_expires_at=unix(agent.new_expires_at or agent.expires_at),
                banned=agent.banned,
            )
        await stream.send_message(status)
