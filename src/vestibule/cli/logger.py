"""``vestibule logger``: how much a running server or agent writes into its log, without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.descriptor import ServiceDescriptor

from vestibule.cli.components import TIMEOUT, Component, ComponentArgument, component_client
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import AdminSocketOption, ServerSocketOption
from vestibule.wire.gen.spire import agent_logger_pb2, logger_pb2
from vestibule.wire.gen.spire import logger_types_pb2 as types

SERVICES: Final[Mapping[Component, ServiceDescriptor]] = {
    Component.SERVER: logger_pb2.DESCRIPTOR.services_by_name["Logger"],
    Component.AGENT: agent_logger_pb2.DESCRIPTOR.services_by_name["Logger"],
}
_MESSAGES: Final[Mapping[Component, Any]] = {Component.SERVER: logger_pb2, Component.AGENT: agent_logger_pb2}


class Level(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The levels, from the fewest lines to the most."""

    PANIC = "panic"
    FATAL = "fatal"
    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"
    TRACE = "trace"


def get(
    component: ComponentArgument,
    server_socket: ServerSocketOption = None,
    admin_socket: AdminSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what level of lines a running server or agent writes."""
    request = _MESSAGES[component].GetLoggerRequest()
    _ask(component, "GetLogger", request, server_socket, admin_socket, output)


def set_level(
    component: ComponentArgument,
    level: Annotated[Level, typer.Argument(help="The least important lines that are still written.")],
    server_socket: ServerSocketOption = None,
    admin_socket: AdminSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write that much from now on, until a reset or a restart.  The server's audit log has a record of it."""
    request = _MESSAGES[component].SetLogLevelRequest(new_level=types.LogLevel.Value(level.name))
    _ask(component, "SetLogLevel", request, server_socket, admin_socket, output)


def reset(
    component: ComponentArgument,
    server_socket: ServerSocketOption = None,
    admin_socket: AdminSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Go back to the level that the server or agent was started with."""
    request = _MESSAGES[component].ResetLogLevelRequest()
    _ask(component, "ResetLogLevel", request, server_socket, admin_socket, output)


def _ask(
    component: Component, method: str, request: Any, server: Path | None, admin: Path | None, output: Output
) -> None:
    async def main() -> Exit:
        with component_client(component, SERVICES, server=server, admin=admin) as client:
            found = await client.unary(method, request, timeout=TIMEOUT)
        current, launch = _name(found.current_level), _name(found.launch_level)
        data = {"component": component.value, "current_level": current, "launch_level": launch}

        def text() -> None:
            console.print(f"log level     {current}\nat the start  {launch}")

        answer(output, "logger", data, text)
        return Exit.FINE

    run(output, "logger", main)


def _name(level: types.LogLevel.ValueType) -> str:
    return types.LogLevel.Name(level).lower()
