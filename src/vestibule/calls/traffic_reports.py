"""What an agent tells the server of its proxies' counters (vestibule.node.v1.TrafficReports), and sidecars tell it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vestibule.net.grpc import Client
from vestibule.records import ProxyTraffic, Requests
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import traffic_pb2 as wire

REPORTS: Final = wire.DESCRIPTOR.services_by_name["TrafficReports"]
TIMEOUT: Final = 5.0


class TrafficReports:
    """A client of the server's service.  Raises the server's errors, and VST2300."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def report(self, proxies: Iterable[tuple[SpiffeId, str, ProxyTraffic]]) -> None:
        """What these proxies, by identity and instance, have counted."""
        request = wire.ReportTrafficRequest()
        for spiffe_id, instance_id, traffic in proxies:
            request.proxies.add(
                spiffe_id=str(spiffe_id), instance_id=instance_id, traffic=traffic_to_wire(traffic)
            )
        await self._client.unary("Report", request, timeout=TIMEOUT)


def traffic_to_wire(traffic: ProxyTraffic) -> wire.Traffic:
    """Counters as sidecars and agents send them."""
    return wire.Traffic(
        inbound=_requests(traffic.inbound),
        outbound=_requests(traffic.outbound),
    )


def traffic_from_wire(message: wire.Traffic) -> ProxyTraffic:
    """Whatever the message says."""
    return ProxyTraffic(
        inbound=_from(message.inbound),
        outbound=_from(message.outbound),
    )


def _requests(count: Requests) -> wire.Requests:
    return wire.Requests(
        requests=count.requests,
        denied=count.denied,
        failed=max(0, count.failed - count.aborted),
        answered_5xx=count.failed,
        aborted=count.aborted,
    )


def _from(message: wire.Requests) -> Requests:
    # An older sidecar says only what failed less what was aborted.
    return Requests(
        requests=message.requests,
        denied=message.denied,
        failed=max(message.failed, message.answered_5xx),
        aborted=message.aborted,
    )
