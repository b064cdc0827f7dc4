"""SPIRE's ``Logger`` services: how much a running server or agent writes into its log.

Both have the same three methods and messages, under different names.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from vestibule.doors.codes import NO_LOG_LEVEL
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.telemetry.levels import LogControl, LogLevel
from vestibule.wire.gen.spire import agent_logger_pb2, logger_pb2
from vestibule.wire.gen.spire import logger_types_pb2 as types

SERVER: Final = logger_pb2.DESCRIPTOR.services_by_name["Logger"]
AGENT: Final = agent_logger_pb2.DESCRIPTOR.services_by_name["Logger"]

FROM_WIRE: Final[Mapping[int, LogLevel]] = {types.LogLevel.Value(level.name): level for level in LogLevel}

Before = Callable[[str, LogLevel], Awaitable[None]]
"""Puts an act (``logger.set``, ``logger.reset``) with the level on record; what it raises keeps the act undone."""

_log = logging.getLogger(__name__)


class LoggerDoor:
    """Answers for one process."""

    def __init__(self, control: LogControl, before: Before | None = None) -> None:
        """Without ``before`` the log itself is the only record of its changes."""
        self._control = control
        self._before = before

    def for_server(self) -> Servable:
        """``spire.api.server.logger.v1.Logger``, not yet guarded."""
        return serve(SERVER, self)

    def for_agent(self) -> Servable:
        """``spire.api.agent.logger.v1.Logger``, for a private socket."""
        return serve(AGENT, self)

    async def get_logger(self, stream: Stream) -> None:
        """GetLogger."""
        await stream.recv_message()
        await self._answer(stream)

    async def set_log_level(self, stream: Stream) -> None:
        """SetLogLevel.  Raises: VST2203 for no level or an unknown one, VST8100 if it cannot be put on record."""
        request = await stream.recv_message()
        level = FROM_WIRE.get(request.new_level)
        if level is None:
            raise NO_LOG_LEVEL.error(f"{request.new_level} is not a log level")
        await self._change("logger.set", level)
        await self._answer(stream)

    async def reset_log_level(self, stream: Stream) -> None:
        """ResetLogLevel.  Raises: VST8100 if it cannot be put on record."""
        await stream.recv_message()
        await self._change("logger.reset", self._control.launch)
        await self._answer(stream)

    async def _change(self, action: str, level: LogLevel) -> None:
        if self._before is not None:
            await self._before(action, level)
        # Told while the level is still the higher of the two, so that a log never ends without saying why.
        quieter = level.value > self._control.current.value
        if quieter:
            _log.warning("the log level becomes %s", level.name.lower())
        self._control.set(level)
        if not quieter:
            _log.warning("the log level is %s", level.name.lower())

    async def _answer(self, stream: Stream) -> None:
        await stream.send_message(
            types.Logger(
                current_level=types.LogLevel.Value(self._control.current.name),
                launch_level=types.LogLevel.Value(self._control.launch.name),
            )
        )
