"""``grpc.health.v1.Health``: whether the component as a whole can do its work, for probes that speak gRPC.

As in SPIRE there is one state, that of the component; services have none of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from vestibule.doors.codes import NO_HEALTH_OF_SERVICE
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.grpc import health_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Health"]
LOOK_SECONDS: Final = 2.0
"""How often a watched component is looked at."""
PATIENCE: Final = 5.0
"""Seconds that a look may take; one that takes longer has found the component not serving."""

Look = Callable[[], Awaitable[str | None]]
"""``None`` while the component can do its work, else what is wrong."""
_log = logging.getLogger(__name__)


class HealthDoor:
    """Looks when asked; remembers nothing."""

    def __init__(self, look: Look, *, every: float = LOOK_SECONDS) -> None:
        """``every`` is in seconds."""
        self._look = look
        self._every = every

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def check(self, stream: Stream) -> None:
        """Check.  Raises: VST2204 when it is asked about one service."""
        request = await stream.recv_message()
        if request.service:
            raise NO_HEALTH_OF_SERVICE.error("per-service health is not supported")
        await stream.send_message(await self._state())

    async def list(self, stream: Stream) -> None:
        """List: the component, under the empty name."""
        await stream.recv_message()
        await stream.send_message(wire.HealthListResponse(statuses={"": await self._state()}))

    async def watch(self, stream: Stream) -> None:
        """Watch: the state now and at each change.  Of a service it stays unknown, as the protocol wants it."""
        request = await stream.recv_message()
        if request.service:
            unknown = wire.HealthCheckResponse(status=wire.HealthCheckResponse.SERVICE_UNKNOWN)
            await stream.send_message(unknown)
            await asyncio.Event().wait()  # until the client leaves: services do not appear
        last: wire.HealthCheckResponse | None = None
        while True:
            state = await self._state()
            if state != last:
                last = state
                await stream.send_message(state)
            await asyncio.sleep(self._every)

    async def _state(self) -> wire.HealthCheckResponse:
        problem = await self._problem()
        if problem is None:
            return wire.HealthCheckResponse(status=wire.HealthCheckResponse.SERVING)
        _log.debug("not serving: %s", problem)
        return wire.HealthCheckResponse(status=wire.HealthCheckResponse.NOT_SERVING)

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._look()
        except VestibuleError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {PATIENCE:.0f} seconds"
