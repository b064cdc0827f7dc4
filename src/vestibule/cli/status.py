"""``vestibule status``: every proxy, whether it has what it should have, and how long its certificate lasts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table

from vestibule.cli.output import Exit, Output, OutputOption, Terminal, answer, complaints, console, run
from vestibule.cli.seal_status import fetch_seal, seal_document, seal_words
from vestibule.cli.sockets import ServerSocketOption, find_sockets

if TYPE_CHECKING:
    from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

SYNCED: Final = "SYNCED"
WIDE: Final = 1000
SHORT_NAMES: Final[Mapping[str, str]] = {
    "Listener": "LDS",
    "Cluster": "CDS",
    "RouteConfiguration": "RDS",
    "ClusterLoadAssignment": "EDS",
    "TypedExtensionConfig": "ECDS",
    "Secret": "SDS",
}
"""What operators call the resource types."""


def status(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show the secret manager, and every proxy: identity, sync per resource type, certificate and local boundary."""

    async def main() -> Exit:
        socket = find_sockets(server=server_socket).existing_server()
        data = document(await fetch_status(socket))
        data["secrets"] = seal_document(await fetch_seal(socket))
        answer(output, "status", data, lambda: _show(data))
        return Exit.FINE

    run(output, "status", main)


async def fetch_status(socket: Path) -> admin_pb2.ServerStatus:
    """Ask the server.  Raises: VST2300 when nobody answers."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

    channel = unix_channel(socket)
    try:
        client = Client(channel, admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"])
        found: admin_pb2.ServerStatus = await client.unary(
            "GetStatus", admin_pb2.GetServerStatusRequest(), timeout=5.0
        )
        return found
    finally:
        channel.close()


def document(status: admin_pb2.ServerStatus, now: float | None = None) -> dict[str, Any]:
    """The answer as the envelope carries it.  Instants are Unix seconds, remaining times seconds."""
    instant = time.time() if now is None else now
    return {
        "server": {
            "version": status.version,
            "trust_domain": status.trust_domain,
            "started_at": status.started_at,
            "warnings": list(status.warnings),
        },
        "intent": {
            "version": status.intent.version,
            "directory": status.intent.directory,
            "commit": _commit(status.intent),
            "head": status.intent.head or None,
            "problems": [
                {
                    "code": each.code,
                    "message": each.message,
                    "advice": each.advice,
                    "where": each.where,
                    "severity": each.severity,
                }
                for each in status.intent.problems
            ],
        },
        "agents": [
            {
                "id": each.spiffe_id,
                "connected": each.connected,
                "banned": each.banned,
                "svid_expires_at": each.svid_expires_at,
            }
            for each in status.agents
        ],
        "proxies": [_proxy(each, instant) for each in status.proxies],
    }


def _commit(intent: admin_pb2.IntentStatus) -> dict[str, Any] | None:
    if not intent.HasField("commit"):
        return None
    commit = intent.commit
    return {
        "id": commit.id,
        "author": commit.author,
        "subject": commit.subject,
        "signed_by": commit.signed_by or None,
        "committed_at": commit.committed_at,
    }


def _proxy(proxy: admin_pb2.ProxyStatus, now: float) -> dict[str, Any]:
    expires = proxy.svid_expires_at or None
    return {
        "service": proxy.service,
        "identity": proxy.spiffe_id,
        "instance": proxy.instance_id,
        "agent": proxy.agent_id,
        "connected": proxy.connected,
        "synced": is_synced(proxy),
        "sync": {
            short_name(each.type_url): {
                "status": each.status,
                "sent": each.version_sent,
                "acked": each.version_acked,
                "error": each.error or None,
                "updated_at": each.updated_at,
            }
            for each in proxy.types
        },
        "svid_expires_at": expires,
        "svid_seconds_left": max(0, round(expires - now)) if expires else None,
        "boundary": proxy.boundary,
        "version": proxy.version,
        "locality": proxy.locality or None,
        "health": proxy.health,
        "ingress": dict(proxy.ingress),
    }


def is_synced(proxy: admin_pb2.ProxyStatus) -> bool:
    """Whether a proxy is connected and has confirmed all that was sent to it."""
    return proxy.connected and bool(proxy.types) and all(each.status == SYNCED for each in proxy.types)


def short_name(type_url: str) -> str:
    """``…config.listener.v3.Listener`` → ``LDS``; the last part of the name for a type that has no short one."""
    name = type_url.rpartition(".")[2]
    return SHORT_NAMES.get(name, name)


def countdown(seconds: float | None) -> str:
    """A remaining time for people: ``59 s``, ``12 m``, ``3 h 5 m``, ``2 d 4 h``; ``?`` when it is not known."""
    if seconds is None:
        return "?"
    if seconds <= 0:
        return "expired"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    if hours:
        return f"{hours} h {minutes_left} m"
    return f"{minutes} m {rest} s" if minutes and minutes < 5 else f"{minutes} m" if minutes else f"{rest} s"


def sync_words(sync: Mapping[str, Mapping[str, Any]], connected: bool) -> str:
    """``synced`` when all of it is; else each type that is not, with its status."""
    if not connected:
        return "disconnected"
    behind = [
        f"{name} {str(each['status']).lower().replace('_', ' ')}"
        for name, each in sync.items()
        if each["status"] != SYNCED
    ]
    return ", ".join(behind) if behind else "synced" if sync else "nothing sent"


def _show(data: Mapping[str, Any]) -> None:
    intent = data["intent"]
    console.print(
        f"[bold]{escape(data['server']['trust_domain'])}[/]  intent {escape(intent['version'] or 'none')} "
        f"({escape(intent['directory'] or 'no directory')})"
    )
    if commit := intent["commit"]:
        signed = f", signed by {commit['signed_by']}" if commit["signed_by"] else ""
        console.print(f"  {escape(commit['subject'])} [dim]({escape(commit['author'] + signed)})[/]")
    if commit and intent["head"] != commit["id"]:
        refused = any(each["severity"] == "error" for each in intent["problems"])
        what = "is not taken up" if refused else "changes nothing in the intent"
        console.print(f"  [dim]the newest commit, {escape(intent['head'][:12])}, {what}[/]")
    if secrets := data["secrets"]:
        fine = secrets["initialised"] and not secrets["sealed"] and not secrets["damaged"]
        mark = "[bold green]✓[/]" if fine else "[bold red]✗[/]"
        (console if fine else complaints).print(f"{mark} secrets {escape(seal_words(secrets))}")
    for sentence in data["server"]["warnings"]:
        complaints.print(f"[bold yellow]![/] {escape(sentence)}")
    for problem in intent["problems"]:
        mark = "[bold yellow]![/]" if problem["severity"] == "warning" else "[bold red]✗[/]"
        complaints.print(f"{mark} {escape(problem['where'])}: {problem['code']} {escape(problem['message'])}")
    if not data["proxies"]:
        console.print("no proxy is registered")
        return
    # Where nobody looks at a terminal, a table is as wide as what it holds.
    printer = console if console.is_terminal else Terminal(width=WIDE, highlight=False)
    printer.print(proxy_table(data["proxies"]))
    for proxy in data["proxies"]:
        for name, sync in proxy["sync"].items():
            if sync["error"]:
                complaints.print(
                    f"[bold red]✗[/] {escape(proxy['instance'])} refused {name}: {escape(sync['error'])}"
                )


def _health_words(health: str) -> str:
    """As the table shows it; nothing where nothing is asked."""
    style = {"healthy": "green", "unhealthy": "red", "starting": "yellow", "draining": "yellow"}.get(health)
    return f"[{style}]{health}[/]" if style else "-"


def proxy_table(proxies: Sequence[Mapping[str, Any]]) -> Table:
    """The proxies as a table; also part of the live view."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in (
        "SERVICE",
        "IDENTITY",
        "INSTANCE",
        "SYNC",
        "CERT",
        "BOUNDARY",
        "VERSION",
        "LOCALITY",
        "HEALTH",
    ):
        table.add_column(heading, overflow="fold")
    for proxy in proxies:
        style = "green" if proxy["synced"] else "red" if not proxy["connected"] else "yellow"
        table.add_row(
            f"[bold]{escape(proxy['service'])}[/]",
            escape(proxy["identity"]),
            escape(proxy["instance"]),
            f"[{style}]{escape(sync_words(proxy['sync'], proxy['connected']))}[/]",
            countdown(proxy["svid_seconds_left"]),
            escape(proxy["boundary"]),
            escape(proxy["version"]),
            escape(proxy["locality"] or "-"),
            _health_words(proxy["health"]),
        )
    return table
