"""``vestibule debug``: what a running server or agent counts, by SPIRE's debug API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import ServiceDescriptor
from rich.markup import escape

from vestibule.cli.components import TIMEOUT, Component, ComponentArgument, component_client
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import from_wire, instant
from vestibule.cli.sockets import AdminSocketOption, ServerSocketOption
from vestibule.wire.gen.spire import agent_debug_pb2, debug_pb2

SERVICES: Final[Mapping[Component, ServiceDescriptor]] = {
    Component.SERVER: debug_pb2.DESCRIPTOR.services_by_name["Debug"],
    Component.AGENT: agent_debug_pb2.DESCRIPTOR.services_by_name["Debug"],
}
_REQUESTS: Final[Mapping[Component, Any]] = {
    Component.SERVER: debug_pb2.GetInfoRequest,
    Component.AGENT: agent_debug_pb2.GetInfoRequest,
}


def info(
    component: ComponentArgument,
    server_socket: ServerSocketOption = None,
    admin_socket: AdminSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the certificates that a server or agent presents, how long it runs, and what it counts."""

    async def main() -> Exit:
        with component_client(component, SERVICES, server=server_socket, admin=admin_socket) as client:
            found = await client.unary("GetInfo", _REQUESTS[component](), timeout=TIMEOUT)
        data = document(component, found)
        answer(output, "debug", data, lambda: _show(data))
        return Exit.FINE

    run(output, "debug", main)


def document(component: Component, found: Any) -> dict[str, Any]:
    """The answer as the envelope carries it; ``uptime`` is in seconds."""
    data: dict[str, Any] = {
        "component": component.value,
        "uptime": found.uptime,
        "svid_chain": [
            {
                "id": from_wire(each.id) if each.HasField("id") else None,
                "expires_at": instant(each.expires_at),
                "subject": each.subject,
            }
            for each in found.svid_chain
        ],
    }
    if component is Component.SERVER:
        counts = {
            "agents": found.agents_count,
            "entries": found.entries_count,
            "bundles": found.federated_bundles_count,
        }
        return data | {"counts": counts}
    counts = {
        "x509_svids": found.cached_x509_svids_count,
        "jwt_svids": found.cached_jwt_svids_count,
    }
    return data | {"counts": counts, "last_sync": instant(found.last_sync_success)}


def _show(data: Mapping[str, Any]) -> None:
    console.print(f"{data['component']}, running for {data['uptime']} s")
    for each in data["svid_chain"]:
        console.print(f"  {escape(each['id'] or each['subject'])}  until {each['expires_at']}")
    if "last_sync" in data:
        console.print(f"last answer of the server: {data['last_sync'] or 'none yet'}")
    console.print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in data["counts"].items()))
