"""The aggregated discovery service (ADS), both variants: on the server for agents, on the agent for Envoys.

An Envoy never reaches the server.  Its agent opens a stream in its place and names the proxy in the metadata;
the server believes it only if an entry gives the proxy's identity to that agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from vestibule.calls.ads import PROXY_INSTANCE_ID, PROXY_SPIFFE_ID, SERVICE
from vestibule.clock import Clock
from vestibule.doors.xds_serving import cause_of, serve_delta, serve_sotw
from vestibule.errors import VestibuleError
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.codes import PROXY_NOT_ALLOWED, PROXY_NOT_NAMED
from vestibule.xds.ledger import Ledger
from vestibule.xds.messages import Event
from vestibule.xds.resources import AGGREGATED_TYPES, ProxyKey, Snapshot, SnapshotSource

RECHECK_SECONDS: Final = 10.0
"""Whether a stream may go on is asked again at least this often, besides at every change."""
MAX_INSTANCE_ID: Final = 128

_Serve = Callable[..., Coroutine[Any, Any, None]]


class Entitled(Protocol):
    """Which identities belong to an agent (``identity.entitlement.Entitlements``)."""

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """Return once ``revision`` differs from ``since``."""
        ...

    def is_entitled(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> bool: ...


class Feed(Protocol):
    """What one stream of an Envoy is served from (``agent.relay.Feed``)."""

    def snapshots(self) -> AsyncIterator[Snapshot]: ...

    def note(self, event: Event) -> None: ...


class Feeds(Protocol):
    """``agent.relay.Relay``."""

    def attach(self, proxy: ProxyKey) -> AbstractAsyncContextManager[Feed]:
        """What to serve one stream of this proxy from."""
        ...


class ServerAdsDoor:
    """ADS for agents.  The caller was authenticated as an agent before (``net.caller.current_caller``).

    ``instance_of`` finds a registered instance by its id.  A proxy connects before its instance is registered;
    what it must not do is use the id of somebody else's.
    """

    def __init__(
        self,
        source: SnapshotSource,
        entitled: Entitled,
        instance_of: Callable[[str], Instance | None],
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._source = source
        self._entitled = entitled
        self._instance_of = instance_of
        self._ledger = ledger
        self._clock = clock

    def servable(self) -> Servable:
        """The service, ready for a gRPC server."""
        return serve(SERVICE, self)

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.DeltaAggregatedResources.  Raises: VST3100 to VST3107."""
        await self._serve(stream, serve_delta)

    async def stream_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.StreamAggregatedResources.  Raises: VST3100 to VST3107."""
        await self._serve(stream, serve_sotw)

    async def _serve(self, stream: Stream, variant: _Serve) -> None:
        agent = current_caller().spiffe_id
        if agent is None:
            raise PROXY_NOT_ALLOWED.error("the caller is no agent")
        proxy = _named_proxy(stream)
        self._check(agent, proxy)
        session = self._ledger.open(proxy, self._clock.now())
        try:
            serving = variant(
                stream,
                self._source.watch(proxy),
                types=AGGREGATED_TYPES,
                on_event=lambda event: session.note(event, self._clock.now()),
            )
            await _while(serving, self._until_not_allowed(agent, proxy))
        finally:
            session.close(self._clock.now())

    def _check(self, agent: SpiffeId, proxy: ProxyKey) -> None:
        """1. An entry gives the identity to the agent.  2. The instance is nobody else's.  Raises: VST3107."""
        if not self._entitled.is_entitled(agent, proxy.spiffe_id):
            raise PROXY_NOT_ALLOWED.error(f"no entry gives {proxy.spiffe_id} to {agent}")
        instance = self._instance_of(proxy.instance_id)
        if instance is not None and (instance.agent_id, instance.spiffe_id) != (agent, proxy.spiffe_id):
            raise PROXY_NOT_ALLOWED.error(
                f"instance {proxy.instance_id!r} belongs to another agent or service"
            )

    async def _until_not_allowed(self, agent: SpiffeId, proxy: ProxyKey) -> None:
        while True:
            seen = self._entitled.revision
            self._check(agent, proxy)
            try:
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self._entitled.changed(seen)
            except TimeoutError:
                continue


class AgentAdsDoor:
    """ADS for the Envoys of this node, on the agent's public socket.

    ``proxy_of`` tells from the connection which proxy is calling; what Envoy says of itself counts for nothing.
    """

    def __init__(
        self, proxy_of: Callable[[Stream], ProxyKey], feeds: Feeds, ledger: Ledger, clock: Clock
    ) -> None:
        self._proxy_of = proxy_of
        self._feeds = feeds
        self._ledger = ledger
        self._clock = clock

    def servable(self) -> Servable:
        """The service, ready for a gRPC server."""
        return serve(SERVICE, self)

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.DeltaAggregatedResources.  Raises: VST2133, VST3100 to VST3105."""
        await self._serve(stream, serve_delta)

    async def stream_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.StreamAggregatedResources.  Raises: VST2133, VST3100 to VST3105."""
        await self._serve(stream, serve_sotw)

    async def _serve(self, stream: Stream, variant: _Serve) -> None:
        proxy = self._proxy_of(stream)
        async with self._feeds.attach(proxy) as feed:
            session = self._ledger.open(proxy, self._clock.now())

            def note(event: Event) -> None:
                session.note(event, self._clock.now())
                feed.note(event)

            try:
                serving = variant(stream, feed.snapshots(), types=AGGREGATED_TYPES, on_event=note)
                await _while(serving, self._until_another(stream, proxy))
            finally:
                session.close(self._clock.now())

    async def _until_another(self, stream: Stream, proxy: ProxyKey) -> None:
        """A sidecar may take its word for a process back."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self._proxy_of(stream) != proxy:
                raise PROXY_NOT_ALLOWED.error("the calling process is no longer this proxy")


def _named_proxy(stream: Stream) -> ProxyKey:
    """The proxy that an agent says its stream is for.  Raises: VST3106."""
    metadata = stream.metadata or {}
    instance_id = str(metadata.get(PROXY_INSTANCE_ID, ""))
    if not instance_id or len(instance_id) > MAX_INSTANCE_ID or not instance_id.isprintable():
        raise PROXY_NOT_NAMED.error(f"{PROXY_INSTANCE_ID} is missing or malformed")
    try:
        spiffe_id = SpiffeId.parse(str(metadata.get(PROXY_SPIFFE_ID, "")))
    except VestibuleError as error:
        raise PROXY_NOT_NAMED.error(f"{PROXY_SPIFFE_ID} is missing or malformed") from error
    return ProxyKey(spiffe_id, instance_id)


async def _while(serving: Coroutine[Any, Any, None], allowed: Coroutine[Any, Any, None]) -> None:
    """Serve until the end, or until ``allowed`` raises."""
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(allowed, name="ads permission")
            await serving
            watch.cancel()
    except BaseExceptionGroup as failures:
        raise cause_of(failures) from None
