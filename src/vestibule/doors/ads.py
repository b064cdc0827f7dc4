"""The aggregated discovery service (ADS), both variants: on the server for agents, on the agent for Envoys.

A sidecar's Envoy does not reach the server.  Its agent opens a stream in its place and names the proxy in the metadata;
the server believes it only if an entry gives the proxy's identity to that agent.

Others may come themselves, to the server with an SVID of their own, to the agent as the process that they are: Envoys
that somebody configured by hand, and gRPC clients without a proxy.  Each gets what is its own identity's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, Final, NoReturn, Protocol, cast

from vestibule.calls.ads import PROXY_INSTANCE_ID, PROXY_SPIFFE_ID, SERVICE
from vestibule.clock import Clock
from vestibule.doors.shared_checks import Ended, SharedChecks
from vestibule.doors.xds_services import Peeked, Variant, separate_services
from vestibule.doors.xds_serving import answer_once, cause_of, serve_delta, serve_sotw
from vestibule.envoy.names import SIDECAR_MARK
from vestibule.errors import VestibuleError
from vestibule.net.caller import CallerKind, current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.clients import ClientKind, client_key, client_kind
from vestibule.xds.codes import NODE_MISSING, NOTHING_YET, PROXY_NOT_ALLOWED, PROXY_NOT_NAMED
from vestibule.xds.ledger import Ledger
from vestibule.xds.messages import Event, Settled
from vestibule.xds.patches import ACCEPTED
from vestibule.xds.resources import AGGREGATED_TYPES, RELAYED_TYPES, ProxyKey, Snapshot, SnapshotSource

RECHECK_SECONDS: Final = 10.0
"""Whether a stream may go on is asked again at least this often, besides at every change."""
AT_ONCE: Final = 100
"""So many streams are checked before everybody else has a turn."""
MAX_INSTANCE_ID: Final = 128
FETCH_WITHIN: Final = 5.0
"""Seconds for which a single request waits for something to answer with."""


class Entitled(Protocol):
    """Which identities belong to an agent (``identity.entitlement.Entitlements``)."""

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """Return once ``revision`` differs from ``since``."""
        ...

    def is_entitled(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> bool: ...

    def is_given(self, spiffe_id: SpiffeId) -> bool:
        """Whether any entry gives this identity."""
        ...


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
    """ADS for agents, and for workloads with SVIDs (authenticated before: ``net.caller.current_caller``).

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
        # What workloads refuse is shown nowhere and stops no rollout, whatever node they name: whoever has got hold of
        # an SVID could refuse all he likes.
        self._clients = Ledger()
        self._clock = clock
        self._checks = SharedChecks()
        self._allowed: dict[Ended, Callable[[], None]] = {}

    def servables(self) -> tuple[Servable, ...]:
        """The aggregated service and the separate ones, ready for a gRPC server."""
        return (serve(SERVICE, self), *separate_services(self))

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.DeltaAggregatedResources.  Raises: VST3100 to VST3107."""
        patches = (stream.metadata or {}).get(ACCEPTED) == "1"
        variant = partial(serve_delta, restates=True, patches=patches)
        await self.follow(stream, variant, RELAYED_TYPES)

    async def stream_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.StreamAggregatedResources.  Raises: VST3100 to VST3107."""
        await self.follow(stream, serve_sotw, RELAYED_TYPES)

    async def follow(self, stream: Stream, variant: Variant, types: tuple[str, ...]) -> None:
        """A stream, for one type or for all.  Raises: VST3100 to VST3107."""
        caller = current_caller()
        if caller.spiffe_id is None:
            raise PROXY_NOT_ALLOWED.error("the caller has no identity")
        if caller.kind is CallerKind.WORKLOAD:
            if (first := await stream.recv_message()) is None:
                return
            proxy, stream = self._own(caller.spiffe_id, first.node), Peeked(stream, first)
            check, ledger = partial(self._check_own, proxy), self._clients
        else:
            proxy = _named_proxy(stream)
            check = partial(self._check, caller.spiffe_id, proxy)
            ledger = self._ledger if client_kind(proxy) is None else self._clients
        check()
        session = ledger.open(proxy, self._clock.now())
        try:
            serving = variant(
                stream,
                self._source.watch(proxy),
                types=types,
                on_event=lambda event: session.note(event, self._clock.now()),
            )
            await self._while_allowed(serving, check)
        finally:
            session.close(self._clock.now())

    async def fetch(self, stream: Stream, type_url: str) -> None:
        """A single request of a workload.  Raises: VST3102 to VST3107, VST3111."""
        caller = current_caller()
        if caller.spiffe_id is None or caller.kind is not CallerKind.WORKLOAD:
            raise PROXY_NOT_ALLOWED.error("the caller is no workload")
        if (message := await stream.recv_message()) is None:
            return
        proxy = self._own(caller.spiffe_id, message.node)
        self._check_own(proxy)
        snapshot = await _first(self._source.watch(proxy))
        self._check_own(proxy)
        await stream.send_message(answer_once(message, snapshot, types=(type_url,)))

    def _own(self, spiffe_id: SpiffeId, node: Any) -> ProxyKey:
        """Which proxy a workload is: that of the instance it names, or none but a client.  Raises: VST3100."""
        if not node.id:
            raise NODE_MISSING.error("the first request has no node with an id")
        if self._instance_of(node.id) is not None:
            return ProxyKey(spiffe_id, node.id)
        return client_key(spiffe_id, ClientKind.of(node.user_agent_name))

    def _check_own(self, proxy: ProxyKey) -> None:
        """1. An entry still gives the identity.  2. The instance has the same identity.  Raises: VST3107."""
        if not self._entitled.is_given(proxy.spiffe_id):
            raise PROXY_NOT_ALLOWED.error(f"no entry gives {proxy.spiffe_id}")
        instance = self._instance_of(proxy.instance_id)
        if instance is not None and instance.spiffe_id != proxy.spiffe_id:
            raise PROXY_NOT_ALLOWED.error(f"instance {proxy.instance_id!r} belongs to another service")

    def _check(self, agent: SpiffeId, proxy: ProxyKey) -> None:
        """1. An entry gives the identity to the agent.  2. The instance is nobody else's.  Raises: VST3107."""
        if not self._entitled.is_entitled(agent, proxy.spiffe_id):
            raise PROXY_NOT_ALLOWED.error(f"no entry gives {proxy.spiffe_id} to {agent}")
        instance = self._instance_of(proxy.instance_id)
        if instance is not None and (instance.agent_id, instance.spiffe_id) != (agent, proxy.spiffe_id):
            raise PROXY_NOT_ALLOWED.error(
                f"instance {proxy.instance_id!r} belongs to another agent or service"
            )

    async def _while_allowed(self, serving: Coroutine[Any, Any, None], check: Callable[[], None]) -> None:
        """Serve until the end, or until ``check`` raises."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        refused: BaseException | None = None

        def end(why: BaseException) -> None:
            nonlocal refused
            if refused is None:
                refused = why
                task.cancel()

        self._allowed[end] = check
        try:
            with self._checks.accompanying(None, self._check_all, end):
                await serving
        except asyncio.CancelledError:
            if refused is None:
                raise
            task.uncancel()
            raise refused from None
        finally:
            del self._allowed[end]

    async def _check_all(self) -> NoReturn:
        """For all streams in one: may each go on?"""
        while True:
            seen = self._entitled.revision
            for count, (end, check) in enumerate(tuple(self._allowed.items())):
                if count % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                try:
                    check()
                except VestibuleError as error:
                    if end in self._allowed:
                        end(error)
            try:
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self._entitled.changed(seen)
            except TimeoutError:
                continue


class AgentAdsDoor:
    """ADS for the Envoys of this node, on the agent's public socket.

    ``proxy_of`` tells from the connection which sidecar's Envoy is calling; what Envoy says of itself counts for
    nothing.  Anybody else is a client with the identity of its process, which ``client_of`` attests.
    """

    def __init__(
        self,
        proxy_of: Callable[[Stream], ProxyKey],
        feeds: Feeds,
        ledger: Ledger,
        clock: Clock,
        client_of: Callable[[Stream], Awaitable[SpiffeId]] | None = None,
    ) -> None:
        self._proxy_of = proxy_of
        self._client_of = client_of
        self._feeds = feeds
        self._ledger = ledger
        self._clients = Ledger()
        self._clock = clock
        self._asked: Counter[tuple[ProxyKey, str]] = Counter()

    def servables(self) -> tuple[Servable, ...]:
        """The aggregated service and the separate ones, ready for a gRPC server."""
        return (serve(SERVICE, self), *separate_services(self))

    async def delta_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.DeltaAggregatedResources.  Raises: VST2133, VST3100 to VST3105."""
        await self.follow(stream, serve_delta, AGGREGATED_TYPES)

    async def stream_aggregated_resources(self, stream: Stream) -> None:
        """AggregatedDiscoveryService.StreamAggregatedResources.  Raises: VST2133, VST3100 to VST3105."""
        await self.follow(stream, serve_sotw, AGGREGATED_TYPES)

    async def follow(self, stream: Stream, variant: Variant, types: tuple[str, ...]) -> None:
        """A stream, for one type or for all.  Raises: VST2133, VST3100 to VST3105, VST3107."""
        try:
            proxy, allowed = self._proxy_of(stream), self._until_another(stream)
        except VestibuleError as stranger:
            if (first := await stream.recv_message()) is None:
                return
            proxy = await self._client(stream, first.node, stranger)
            allowed = self._until_another_client(stream, proxy.spiffe_id)
            stream = Peeked(stream, first)
        whole = types == AGGREGATED_TYPES and client_kind(proxy) is None
        async with self._feeds.attach(proxy) as feed:
            session = (self._ledger if whole else self._clients).open(proxy, self._clock.now())

            def note(event: Event) -> None:
                session.note(event, self._clock.now())
                feed.note(event)

            self._asked.update((proxy, url) for url in types)
            try:
                serving = variant(stream, self._snapshots(feed, proxy), types=types, on_event=note)
                await _while(serving, allowed)
            finally:
                self._asked.subtract((proxy, url) for url in types)
                self._asked += Counter()  # drops the zeros
                session.close(self._clock.now())

    async def fetch(self, stream: Stream, type_url: str) -> None:
        """A single request.  Raises: VST2133, VST3102 to VST3107, VST3111."""
        if (message := await stream.recv_message()) is None:
            return
        try:
            proxy = self._proxy_of(stream)
        except VestibuleError as stranger:
            proxy = await self._client(stream, message.node, stranger)
        async with self._feeds.attach(proxy) as feed:
            snapshot = await _first(self._snapshots(feed, proxy), type_url)
        await stream.send_message(answer_once(message, snapshot, types=(type_url,)))

    async def _snapshots(self, feed: Feed, proxy: ProxyKey) -> AsyncIterator[Snapshot]:
        """Who takes single types must not hold up upstream: what nobody asks for is as good as taken."""
        async for snapshot in feed.snapshots():
            yield snapshot
            for url in RELAYED_TYPES:
                if not self._asked[proxy, url] and snapshot.knows(url):
                    feed.note(Settled(type_url=url, snapshot=snapshot, refused={}, asked=False))

    async def _client(self, stream: Stream, node: Any, stranger: VestibuleError) -> ProxyKey:
        """Who calls, if not a sidecar's Envoy.  Raises: what it is refused for as such; VST2105, VST3100."""
        # A sidecar's own Envoy waits until the sidecar has vouched for it, and does not take anything else meanwhile.
        if self._client_of is None or SIDECAR_MARK in node.metadata.fields:
            raise stranger
        if not node.id:
            raise NODE_MISSING.error("the first request has no node with an id")
        return client_key(await self._client_of(stream), ClientKind.of(node.user_agent_name))

    async def _until_another(self, stream: Stream) -> None:
        """A sidecar may take its word for a process back."""
        proxy = self._proxy_of(stream)
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self._proxy_of(stream) != proxy:
                raise PROXY_NOT_ALLOWED.error("the calling process is no longer this proxy")

    async def _until_another_client(self, stream: Stream, spiffe_id: SpiffeId) -> None:
        """An entry may be taken away, and a process may change."""
        assert self._client_of is not None
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if await self._client_of(stream) != spiffe_id:
                raise PROXY_NOT_ALLOWED.error(f"the calling process is no longer {spiffe_id}")


async def _first(snapshots: AsyncIterator[Snapshot], type_url: str | None = None) -> Snapshot:
    """The first snapshot that knows a type.  Raises: VST3111 where there is none in time."""
    try:
        async with asyncio.timeout(FETCH_WITHIN), aclosing(snapshots) as found:  # type: ignore[type-var]
            async for snapshot in found:
                if type_url is None or snapshot.knows(type_url):
                    return snapshot
    except TimeoutError:
        pass
    raise NOTHING_YET.error("there is nothing yet to answer with")


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
