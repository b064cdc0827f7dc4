"""SPIRE's ``Debug`` services: counts and certificates of a running server or agent.

Neither tells a secret; both are for the operator alone, since they say how large a deployment is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from vestibule.agent.cache import Holdings
from vestibule.clock import Clock
from vestibule.doors.identity_api.values import id_to_wire, unix
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.pki.description import describe_chain
from vestibule.spiffe import TrustBundle
from vestibule.store import AgentFilter, EntryFilter, Store
from vestibule.wire.gen.spire import agent_debug_pb2, debug_pb2

SERVER: Final = debug_pb2.DESCRIPTOR.services_by_name["Debug"]
AGENT: Final = agent_debug_pb2.DESCRIPTOR.services_by_name["Debug"]


class ServerDebugDoor:
    """``spire.api.server.debug.v1.Debug``."""

    def __init__(
        self,
        *,
        store: Store,
        chain: Callable[[], tuple[bytes, ...]],
        bundle: Callable[[], TrustBundle],
        bundles: Callable[[], Awaitable[int]],
        clock: Clock,
    ) -> None:
        """``chain`` is the server's own SVID's, DER, leaf first; ``bundles`` counts the own one and others'."""
        self._bundles = bundles
        self._store = store
        self._chain = chain
        self._bundle = bundle
        self._clock = clock
        self._started_at = clock.now()

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVER, self)

    async def get_info(self, stream: Stream) -> None:
        """GetInfo."""
        await stream.recv_message()
        response = debug_pb2.GetInfoResponse(
            uptime=_seconds(self._started_at, self._clock),
            agents_count=await self._store.agents.count(AgentFilter()),
            entries_count=await self._store.entries.count(EntryFilter()),
            federated_bundles_count=await self._bundles(),
        )
        for each in describe_chain(self._chain(), self._bundle()):
            response.svid_chain.add(
                id=id_to_wire(each.spiffe_id) if each.spiffe_id else None,
                expires_at=unix(each.not_after),
                subject=each.subject,
            )
        await stream.send_message(response)


class AgentDebugDoor:
    """``spire.agent.debug.v1.Debug``."""

    def __init__(
        self,
        *,
        holdings: Callable[[], Holdings],
        jwt_svids: Callable[[], int],
        seen_at: Callable[[], datetime | None],
        clock: Clock,
    ) -> None:
        """``jwt_svids`` is how many tokens are remembered, ``seen_at`` when the server last answered."""
        self._holdings = holdings
        self._jwt_svids = jwt_svids
        self._seen_at = seen_at
        self._clock = clock
        self._started_at = clock.now()

    def servable(self) -> Servable:
        """The service, for a private socket."""
        return serve(AGENT, self)

    async def get_info(self, stream: Stream) -> None:
        """GetInfo.  Before the agent has joined there is no chain."""
        await stream.recv_message()
        holdings = self._holdings()
        count = len(holdings.svids)
        response = agent_debug_pb2.GetInfoResponse(
            uptime=_seconds(self._started_at, self._clock),
            svids_count=count,
            last_sync_success=unix(self._seen_at()),
            cached_x509_svids_count=count,
            cached_jwt_svids_count=self._jwt_svids(),
        )
        if holdings.own is not None and holdings.bundle is not None:
            for each in describe_chain(holdings.own.svid.chain, holdings.bundle):
                response.svid_chain.add(
                    id=id_to_wire(each.spiffe_id) if each.spiffe_id else None,
                    expires_at=unix(each.not_after),
                    subject=each.subject,
                )
        await stream.send_message(response)


def _seconds(since: datetime, clock: Clock) -> int:
    return max(0, int((clock.now() - since).total_seconds()))
