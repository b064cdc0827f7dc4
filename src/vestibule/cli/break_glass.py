"""``vestibule break-glass …``: permitting what no rule allows, for a while, on somebody's responsibility."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.calls.unix import unix_channel
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run, sentence
from vestibule.cli.remote_server import remote_address, remote_channel
from vestibule.cli.server_calls import CODES, instant
from vestibule.cli.sockets import ServerSocketOption, find_sockets
from vestibule.mesh import codes as _mesh_codes
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import break_glass_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["BreakGlassAdmin"]
KNOWN_CODES: Final = (*CODES, _mesh_codes)


@asynccontextmanager
async def _client(socket: Path | None) -> AsyncIterator[Client]:
    remote = remote_address() if socket is None else None
    if remote is not None:
        channel = await remote_channel(remote)
    else:
        channel = unix_channel(find_sockets(server=socket).existing_server())
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()


def open_(
    caller: Annotated[
        str,
        typer.Option(
            "--from", metavar="CALLER", help="Who: a service, role:NAME, a SPIFFE ID, or one and /**."
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--to", metavar="SERVICE[/PORT]", help="Whom it may call; without PORT on every port."),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence.")],
    ticket: Annotated[str, typer.Option("--ticket", help="Where the incident is written down.")],
    approver: Annotated[str, typer.Option("--approver", help="Who agreed: somebody else than you.")],
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long: 15m, 1h; at most 4h.")],
    method: Annotated[str, typer.Option("--method", help="Only this HTTP method.")] = "",
    path: Annotated[str, typer.Option("--path", help="Only this path, as rules write paths.")] = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Permit what no rule allows, until it ends by itself.

    It reaches all proxies at once; each ends it by its own clock, also if the server is away then.  What rules deny
    stays denied.  The opening, every use and the end are in the audit log.
    """

    async def main() -> Exit:
        service, _, port = target.partition("/")
        request = wire.OpenRequest(
            caller=caller,
            service=service,
            port=port,
            method=method.upper(),
            path=path,
            reason=reason,
            ticket=ticket,
            approver=approver,
            seconds=int(parse_duration(lasts).total_seconds()),
        )
        async with _client(server_socket) as client:
            response = await client.unary("Open", request)
        data = {**document(response.emergency), "warnings": list(response.warnings)}
        answer(output, "break-glass", data, lambda: _show_opened(data))
        return Exit.FINE

    run(output, "break-glass", main)


def list_emergencies(
    all_: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List what break-glass permits now, and how often that was used."""

    async def main() -> Exit:
        async with _client(server_socket) as client:
            response = await client.unary("List", wire.ListEmergenciesRequest(all=all_))
        data = [document(each) for each in response.emergencies]
        answer(output, "break-glass-list", data, lambda: _show(data))
        return Exit.FINE

    run(output, "break-glass-list", main)


def close(
    emergency_id: Annotated[str, typer.Argument(metavar="ID", help="As `break-glass list` shows it.")],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """End a permission before its time; all proxies that the server reaches end it at once."""

    async def main() -> Exit:
        request = wire.CloseRequest(id=emergency_id.removeprefix("break-glass/"))
        async with _client(server_socket) as client:
            data = document((await client.unary("Close", request)).emergency)
        answer(output, "break-glass", data, lambda: _show([data]))
        return Exit.FINE

    run(output, "break-glass", main)


def document(each: Any) -> dict[str, Any]:
    """A permission as the envelope carries it."""
    return {
        "id": each.id,
        "rule": f"break-glass/{each.id}",
        "callers": list(each.callers),
        "service": each.service,
        "port": each.port or None,
        "method": each.method or None,
        "path": each.path or None,
        "reason": each.reason,
        "ticket": each.ticket,
        "approver": each.approver,
        "opener": each.opener,
        "opened_at": instant(each.opened_at),
        "expires_at": instant(each.expires_at),
        "closed_at": instant(each.closed_at),
        "closed_by": each.closed_by or None,
        "open": each.open,
        "seconds_left": max(0, each.expires_at - int(time.time())) if each.open else 0,
        "uses": each.uses,
    }


def _show_opened(data: dict[str, Any]) -> None:
    _show([data])
    for each in data["warnings"]:
        sentence(console, " [yellow]![/]", escape(each))


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        console.print("nothing is open")
    for each in found:
        target = f"{each['service']}/{each['port']}" if each["port"] else each["service"]
        what = " ".join(filter(None, (each["method"], each["path"]))) or "anything"
        state = (
            f"open until {each['expires_at']}"
            if each["open"]
            else f"ended {each['closed_at'] or each['expires_at']}"
        )
        _line(f"{each['rule']} {state}, {each['uses']} uses")
        _line(f"  {', '.join(each['callers'])} → {target}: {what}")
        _line(f"  {each['ticket']}: {each['reason']}")
        ended = f", closed by {each['closed_by']}" if each["closed_by"] else ""
        _line(f"  opened by {each['opener']}, approved by {each['approver']}{ended}")


def _line(text: str) -> None:
    console.print(escape(text), soft_wrap=True)
