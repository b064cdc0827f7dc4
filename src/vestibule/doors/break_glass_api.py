"""Break-glass, as operators open it (``BreakGlassAdmin``) and agents report its uses (``BreakGlassReports``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeAlias

from vestibule.calls.break_glass import LONGEST_BATCH, MOST_USES, use_from_wire
from vestibule.doors.identity_api.values import actor, own_agent_id, receive, unix
from vestibule.doors.limits import Limits
from vestibule.mesh.break_glass import BreakGlass
from vestibule.mesh.break_glass_orders import Order
from vestibule.mesh.codes import MALFORMED_USES, NO_INTENT_YET
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Emergency, EmergencyUse
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import break_glass_pb2 as wire
from vestibule.wire.gen.vestibule.node.v1 import break_glass_pb2 as node_wire

ADMIN: Final = wire.DESCRIPTOR.services_by_name["BreakGlassAdmin"]
REPORTS: Final = node_wire.DESCRIPTOR.services_by_name["BreakGlassReports"]

Used: TypeAlias = Callable[[SpiffeId, str, Sequence[EmergencyUse]], Awaitable[None]]
"""Takes what an agent reports, under its name for the report."""


class BreakGlassDoor:
    """Translates for ``mesh.break_glass``.  Without one there is no intent."""

    def __init__(self, break_glass: BreakGlass | None) -> None:
        self._break_glass = break_glass

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(ADMIN, self)

    async def open(self, stream: Stream) -> None:
        """Open.  Raises: VST3203, VST4090 to VST4092, VST4094."""
        request = await receive(stream)
        order = Order(
            opener=actor(),
            caller=request.caller,
            service=request.service,
            port=request.port,
            method=request.method,
            path=request.path,
            reason=request.reason,
            ticket=request.ticket,
            approver=request.approver,
            lasts=timedelta(seconds=request.seconds),
        )
        opened = await self._known().open(order)
        response = wire.OpenResponse(
            emergency=emergency_to_wire(opened.emergency, is_open=True), warnings=opened.warnings
        )
        await stream.send_message(response)

    async def close(self, stream: Stream) -> None:
        """Close.  Raises: VST3203, VST4093."""
        request = await receive(stream)
        closed = await self._known().close(request.id, actor())
        await stream.send_message(
            wire.CloseResponse(emergency=emergency_to_wire(closed, is_open=False)),
        )

    async def list(self, stream: Stream) -> None:
        """List."""
        request, known = await receive(stream), self._known()
        holding = {each.id for each in known.holding()}
        found = [each for each in await known.all() if request.all or each.id in holding]
        await stream.send_message(
            wire.ListEmergenciesResponse(
                emergencies=[emergency_to_wire(each, is_open=each.id in holding) for each in found]
            )
        )

    def _known(self) -> BreakGlass:
        if self._break_glass is None:
            raise NO_INTENT_YET.error("this server runs without an intent")
        return self._break_glass


def emergency_to_wire(each: Emergency, *, is_open: bool) -> wire.Emergency:
    """A permission as operators see it."""
    return wire.Emergency(
        id=each.id,
        callers=each.callers,
        service=each.service,
        port=each.port,
        method=each.method,
        path=each.path,
        reason=each.reason,
        ticket=each.ticket,
        approver=each.approver,
        opener=each.opener,
        opened_at=unix(each.opened_at),
        expires_at=unix(each.expires_at),
        closed_at=unix(each.closed_at),
        closed_by=each.closed_by,
        uses=each.uses,
        open=is_open,
    )


class BreakGlassReportsDoor:
    """Takes what agents say of their proxies.  What cannot be so is not refused: ``used`` puts it on record as that."""

    def __init__(self, used: Used, limits: Limits) -> None:
        self._used = used
        self._limits = limits

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(REPORTS, self)

    async def report(self, stream: Stream) -> None:
        """Report.  Raises: VST4095, VST2325, VST8100 (it is not on record, and to be sent again)."""
        request, agent_id = await receive(stream), own_agent_id()
        await self._limits.uses.pass_through(str(agent_id))
        if len(request.uses) > MOST_USES or not 0 < len(request.batch) <= LONGEST_BATCH:
            raise MALFORMED_USES.error(f"a report has a name, and {MOST_USES} uses at most")
        try:
            uses = [use_from_wire(each) for each in request.uses]
        except (ValueError, OverflowError) as error:
            raise MALFORMED_USES.error(f"a use cannot be read: {error}") from error
        await self._used(agent_id, request.batch, uses)
        await stream.send_message(node_wire.ReportUsesResponse())
