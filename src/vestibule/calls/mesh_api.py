"""What an agent asks the server about services, and tells it about instances (vestibule.node.v1.Node)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vestibule.net.grpc import Client
from vestibule.records import Address, CheckView, Instance, Lease, PortView, ServiceView, UpstreamView
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

NODE: Final = wire.DESCRIPTOR.services_by_name["Node"]
TIMEOUT: Final = 5.0


class MeshApi:
    """A client of the server's Node service.  Every method raises the server's errors, and VST2300."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """What the service with this identity looks like; ``None`` when the intent has no such service."""
        request = wire.DescribeServiceRequest(spiffe_id=str(spiffe_id))
        answer = await self._client.unary("DescribeService", request, timeout=TIMEOUT)
        return view_from_wire(answer.service) if answer.HasField("service") else None

    async def register(self, instance: Instance, state: bytes = b"") -> float:
        """Register an instance, which renewals will call ``state``; the answer is the lease in seconds."""
        request = wire.RegisterInstanceRequest(instance=instance_to_wire(instance), state=state)
        answer = await self._client.unary("RegisterInstance", request, timeout=TIMEOUT)
        return float(answer.lease_seconds)

    async def renew(self, leases: Iterable[Lease]) -> tuple[float, frozenset[str]]:
        """Renew many leases: the lease in seconds, and the instances that are to be registered again instead.

        Raises: also where the server is older than this question.
        """
        request = wire.RenewInstancesRequest(
            leases=[
                wire.RenewInstancesRequest.Lease(
                    instance_id=each.instance_id, spiffe_id=str(each.spiffe_id), state=each.state
                )
                for each in leases
            ]
        )
        answer = await self._client.unary("RenewInstances", request, timeout=TIMEOUT)
        return float(answer.lease_seconds), frozenset(answer.not_renewed)

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId) -> None:
        """Callers are told to leave the instance."""
        request = wire.DeregisterInstanceRequest(instance_id=instance_id, spiffe_id=str(spiffe_id))
        await self._client.unary("DeregisterInstance", request, timeout=TIMEOUT)

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, within: float) -> int:
        """Callers leave the instance; how many proxies have not confirmed it within so many seconds."""
        request = wire.DrainInstanceRequest(
            instance_id=instance_id, spiffe_id=str(spiffe_id), wait_ms=round(within * 1000)
        )
        answer = await self._client.unary("DrainInstance", request, timeout=within + TIMEOUT)
        return int(answer.behind)


def instance_to_wire(instance: Instance) -> wire.Instance:
    """An instance as agents and sidecars send it; its agent is told by the channel, not by the message."""
    return wire.Instance(
        id=instance.id,
        service=instance.service,
        spiffe_id=str(instance.spiffe_id),
        version=instance.version,
        ingress={name: str(address) for name, address in instance.ingress.items()},
        apps={name: str(address) for name, address in instance.apps.items()},
        egress=str(instance.egress) if instance.egress else "",
        upstreams={name: str(address) for name, address in instance.upstreams.items()},
        boundary=instance.boundary.value,
        locality=instance.locality,
        health=instance.health.value,
    )


def view_from_wire(view: wire.ServiceView) -> ServiceView:
    """Raises: VST1400 for a malformed SPIFFE ID."""
    return ServiceView(
        service=view.service,
        spiffe_id=SpiffeId.parse(view.spiffe_id),
        ports=tuple(
            PortView(
                name=port.name,
                protocol=port.protocol,
                listen=Address.parse(port.listen) if port.listen else None,
                certificate=port.certificate,
                key=port.key,
            )
            for port in view.ports
        ),
        upstreams=tuple(
            UpstreamView(name=up.name, service=up.service, port=up.port, protocol=up.protocol)
            for up in view.upstreams
        ),
        intent_version=view.intent_version,
        intent_commit=view.intent_commit,
        places=dict(view.places),
        mesh=view.mesh,
        environment=view.environment,
        check=_check(view.check) if view.HasField("check") else None,
    )


def _check(check: wire.ServiceView.Check) -> CheckView:
    return CheckView(
        kind=check.kind,
        port=check.port,
        path=check.path,
        grpc_service=check.grpc_service,
        every=check.every_ms / 1000,
        timeout=check.timeout_ms / 1000,
        unhealthy=check.unhealthy,
        healthy=check.healthy,
    )
