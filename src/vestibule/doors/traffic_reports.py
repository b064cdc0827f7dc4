"""``vestibule.node.v1.TrafficReports``: what proxies have counted, from the agents that their instances belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vestibule.calls.traffic_reports import traffic_from_wire
from vestibule.doors.ads import Entitled
from vestibule.doors.identity_api.values import own_agent_id, receive
from vestibule.doors.limits import Limits
from vestibule.mesh.codes import MALFORMED_REPORT
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Instance, ProxyTraffic
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import traffic_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["TrafficReports"]
MOST: Final = 1000
"""Proxies in one report: as many as an agent can have instances."""


class TrafficReportsDoor:
    """Lets an agent speak of its own instances only; ``took`` hears what it says of them."""

    def __init__(
        self,
        entitled: Entitled,
        instance_of: Callable[[str], Instance | None],
        took: Callable[[Instance, ProxyTraffic], None],
        limits: Limits,
    ) -> None:
        self._entitled = entitled
        self._instance_of = instance_of
        self._took = took
        self._limits = limits

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def report(self, stream: Stream) -> None:
        """Report.  Raises: VST3244, VST2325."""
        request, agent_id = await receive(stream), own_agent_id()
        await self._limits.traffic.pass_through(str(agent_id))
        if len(request.proxies) > MOST:
            raise MALFORMED_REPORT.error(f"a report speaks of {MOST} proxies at most")
        for each in request.proxies:
            if (instance := self._own(agent_id, each.spiffe_id, each.instance_id)) is not None:
                self._took(instance, traffic_from_wire(each.traffic))
        await stream.send_message(wire.ReportTrafficResponse())

    def _own(self, agent_id: SpiffeId, spiffe_id: str, instance_id: str) -> Instance | None:
        """The instance, if it is this agent's; one that has just gone, or was never its own, counts for nothing."""
        instance = self._instance_of(instance_id)
        if instance is None or instance.agent_id != agent_id or str(instance.spiffe_id) != spiffe_id:
            return None
        return instance if self._entitled.is_entitled(agent_id, instance.spiffe_id) else None
