"""``vestibule healthcheck``: can the server, or this node's agent, do its work?  For scripts and probes."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from vestibule.calls.unix import unix_channel
from vestibule.cli.components import TIMEOUT, Component, ComponentArgument
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import AgentSocketOption, ServerSocketOption, find_sockets
from vestibule.net.grpc import Client
from vestibule.wire.gen.grpc import health_pb2

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]


def healthcheck(
    component: ComponentArgument = Component.SERVER,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say which socket was asked.")] = False,
    server_socket: ServerSocketOption = None,
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Exit 0 if it is healthy, 1 if it says that it is not, 3 if it cannot be reached."""

    async def main() -> Exit:
        sockets = find_sockets(server=server_socket, agent=agent_socket)
        path = sockets.existing_server() if component is Component.SERVER else sockets.existing_agent()
        channel = unix_channel(path)
        try:
            client = Client(channel, SERVICE)
            found = await client.unary("Check", health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        finally:
            channel.close()
        healthy = found.status == health_pb2.HealthCheckResponse.SERVING
        word = component.value.capitalize()

        def text() -> None:
            if verbose:
                console.print(f"asked {path}")
            console.print(f"{word} is healthy." if healthy else f"{word} is unhealthy.")

        answer(
            output, "health", {"component": component.value, "healthy": healthy, "socket": str(path)}, text
        )
        return Exit.FINE if healthy else Exit.FINDINGS

    run(output, "health", main)
