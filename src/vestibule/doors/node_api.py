"""``vestibule.node.v1.Node``: what agents are told of changes, and tell of instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from vestibule.doors.identity_api.values import own_agent_id, receive
from vestibule.doors.sidecar_api import LONGEST_DRAIN, instance_from_wire, view_to_wire
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.beacon import first
from vestibule.identity.codes import NOT_ENTITLED
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Instance, Lease, ServiceView
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Node"]


class Discovery(Protocol):
    """What the mesh answers; declared here because the identity service must not know the mesh."""

    @property
    def revision(self) -> int:
        """Changes when ``describe`` may answer differently."""
        ...

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        ...

    def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """The service with this identity; ``None`` when there is none."""
        ...

    async def register(self, instance: Instance, state: bytes = b"") -> int:
        """Keep an instance, which renewals will call ``state``, or renew its lease; the lease in seconds."""
        ...

    def renew(self, agent_id: SpiffeId, leases: Sequence[Lease]) -> tuple[int, list[str]]:
        """Renew the leases of an agent's instances: the lease in seconds, and whose it was not."""
        ...

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId) -> None:
        """Forget an instance of this identity under this agent; nothing happens if there is none."""
        ...

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, agent_id: SpiffeId, within: float) -> int:
        """Its callers leave an instance of this identity under this agent; how many have not so many seconds later."""
        ...


class NodeDoor:
    """Translates for the mesh's discovery; lets an agent speak only for identities that are placed under it."""

    def __init__(
        self,
        authorities: Authorities,
        entitlements: Entitlements,
        bundles: FederatedBundles,
        discovery: Discovery,
    ) -> None:
        self._authorities = authorities
        self._entitlements = entitlements
        self._bundles = bundles
        self._discovery = discovery
        self._watching: Counter[SpiffeId] = Counter()

    def is_connected(self, agent_id: SpiffeId) -> bool:
        """Whether an agent watches for changes now."""
        return self._watching[agent_id] > 0

    def connected(self) -> int:
        """How many agents watch for changes now."""
        return len(self._watching)

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def watch(self, stream: Stream) -> None:
        """Watch: the state by its revisions, at once and after every change that concerns this agent."""
        await receive(stream)
        agent_id = own_agent_id()
        self._watching[agent_id] += 1
        try:
            await self._watch(stream, agent_id)
        finally:
            self._watching[agent_id] -= 1
            self._watching += Counter()  # drops the zeros

    async def _watch(self, stream: Stream, agent_id: SpiffeId) -> None:
        last: wire.WatchResponse | None = None
        own = self._entitlements.news_for(agent_id)
        while True:
            # Read before the answer is made: what changes meanwhile ends the wait below at once.
            seen = (
                own.value,
                self._authorities.revision,
                self._discovery.revision,
                self._bundles.revision,
            )
            response = self._state(agent_id)
            if response != last:
                await stream.send_message(response)
                last = response
            await first(
                own.changed(seen[0]),
                self._authorities.changed(seen[1]),
                self._discovery.changed(seen[2]),
                self._bundles.changed(seen[3]),
            )

    def _state(self, agent_id: SpiffeId) -> wire.WatchResponse:
        return wire.WatchResponse(
            entries_revision=self._entitlements.revision_for(agent_id),
            bundle_sequence=self._authorities.bundle().sequence,
            intent_revision=self._discovery.revision,
            federation_revision=self._bundles.revision_for(self._entitlements.entries_for(agent_id)),
        )

    async def describe_service(self, stream: Stream) -> None:
        """DescribeService; without a service in the answer where the intent has none of this identity."""
        request = await receive(stream)
        spiffe_id = self._entitled(request.spiffe_id)
        view = self._discovery.describe(spiffe_id)
        await stream.send_message(
            wire.DescribeServiceResponse(service=view_to_wire(view) if view is not None else None)
        )

    async def register_instance(self, stream: Stream) -> None:
        """RegisterInstance; identity and agent are what is proven, not what the message says."""
        request = await receive(stream)
        spiffe_id = self._entitled(request.instance.spiffe_id)
        instance = instance_from_wire(request.instance, spiffe_id, own_agent_id())
        lease = await self._discovery.register(instance, request.state)
        await stream.send_message(wire.RegisterInstanceResponse(lease_seconds=lease))

    async def renew_instances(self, stream: Stream) -> None:
        """RenewInstances; each under its own identity, so that none depends on the others."""
        request = await receive(stream)
        agent_id = own_agent_id()
        ours = {
            text: self._if_entitled(agent_id, text) for text in {each.spiffe_id for each in request.leases}
        }
        leases = [
            Lease(instance_id=each.instance_id, spiffe_id=spiffe_id, state=each.state)
            for each in request.leases
            if (spiffe_id := ours[each.spiffe_id]) is not None
        ]
        lease, refused = self._discovery.renew(agent_id, leases)
        refused += [each.instance_id for each in request.leases if ours[each.spiffe_id] is None]
        await stream.send_message(wire.RenewInstancesResponse(lease_seconds=lease, not_renewed=refused))

    async def deregister_instance(self, stream: Stream) -> None:
        """DeregisterInstance; also when the identity has just been taken from the agent."""
        request = await receive(stream)
        await self._discovery.deregister(
            request.instance_id, SpiffeId.parse(request.spiffe_id), own_agent_id()
        )
        await stream.send_message(wire.DeregisterInstanceResponse())

    async def drain_instance(self, stream: Stream) -> None:
        """DrainInstance; also when the identity has just been taken from the agent."""
        request = await receive(stream)
        behind = await self._discovery.drain(
            request.instance_id,
            SpiffeId.parse(request.spiffe_id),
            own_agent_id(),
            min(request.wait_ms / 1000, LONGEST_DRAIN),
        )
        await stream.send_message(wire.DrainInstanceResponse(behind=behind))

    def _if_entitled(self, agent_id: SpiffeId, text: str) -> SpiffeId | None:
        try:
            spiffe_id = SpiffeId.parse(text)
        except VestibuleError:
            return None
        return spiffe_id if self._entitlements.is_entitled(agent_id, spiffe_id) else None

    def _entitled(self, text: str) -> SpiffeId:
        spiffe_id = SpiffeId.parse(text)
        if not self._entitlements.is_entitled(own_agent_id(), spiffe_id):
            raise NOT_ENTITLED.error(f"{spiffe_id} is not an identity under this agent")
        return spiffe_id
