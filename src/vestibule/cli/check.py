"""``vestibule check``: is everything healthy?  Each line says what was looked at, and what to do about it."""

from __future__ import annotations

import ctypes
import http.client
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli import findings
from vestibule.cli.findings import Finding, Level, failed, fine, warning
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run, sentence
from vestibule.cli.seal_status import fetch_seal
from vestibule.cli.sockets import (
    AdminSocketOption,
    AgentSocketOption,
    ServerSocketOption,
    Sockets,
    find_sockets,
)
from vestibule.cli.status import fetch_status
from vestibule.errors import VestibuleError
from vestibule.processes.listening import tcp_listeners

if TYPE_CHECKING:
    from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

MARKS: Final = {Level.FINE: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.FAILED: "[red]✗[/]"}
HEALTH: Final = "127.0.0.1:8082"
UNREACHABLE: Final = frozenset({"server-reachable", "agent-reachable"})

HealthOption = Annotated[
    str | None,
    typer.Option(
        "--health-address", envvar="VESTIBULE_HEALTH_ADDRESS", help="Where the server answers /ready."
    ),
]


@dataclass(slots=True)
class Report:
    """The findings, by category, in the order in which they were made."""

    categories: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, category: str, found: Iterable[Finding]) -> None:
        self.categories.setdefault(category, []).extend(found)

    @property
    def all(self) -> list[Finding]:
        return [each for found in self.categories.values() for each in found]

    @property
    def exit(self) -> Exit:
        """Unreachable parts before other findings; warnings alone are fine."""
        bad = [each.id for each in self.all if each.level is Level.FAILED]
        if UNREACHABLE & set(bad):
            return Exit.UNREACHABLE
        return Exit.FINDINGS if bad else Exit.FINE

    @property
    def document(self) -> dict[str, Any]:
        return {
            "healthy": self.exit is Exit.FINE,
            "checks": [
                {
                    "category": category,
                    "id": each.id,
                    "result": each.level.value,
                    "message": each.message,
                    "hint": each.hint or None,
                }
                for category, found in self.categories.items()
                for each in found
            ],
        }


def check(
    server_socket: ServerSocketOption = None,
    agent_socket: AgentSocketOption = None,
    admin_socket: AdminSocketOption = None,
    health_address: HealthOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Look at server, secrets, agent, intent, proxies, certificates and Envoy; exits 1 on findings, 3 if one is off."""

    async def main() -> Exit:
        sockets = find_sockets(server=server_socket, agent=agent_socket, admin=admin_socket)
        named = server_socket is not None or sockets.run is not None
        health = health_address or (sockets.run.health_address if sockets.run else HEALTH)
        report = await examine(sockets, server_named=named, health=health, now=time.time())
        answer(output, "check", report.document, lambda: _show(report))
        return report.exit

    run(output, "check", main)


async def examine(sockets: Sockets, *, server_named: bool, health: str, now: float) -> Report:
    """Make all findings.  A part that does not answer is one finding, and leaves out those that depend on it.

    Without ``server_named`` a missing server socket means that the server is on another machine.
    """
    report = Report()
    report.add("envoy", [await envoy()])
    server = await _server(sockets, report, server_named, health, now)
    agent = await _agent(sockets, report, now)
    starts = [each.not_before for each in server.authorities if each.state == "active"] if server else []
    starts += [agent.started_at] if agent else []
    report.add("clock", findings.clock_skew(agent) if agent else ())
    report.add("clock", [findings.clock(clock_is_synchronised(), starts, now)])
    return report


async def _server(
    sockets: Sockets, report: Report, named: bool, health: str, now: float
) -> admin_pb2.ServerStatus | None:
    if not named and not sockets.server.exists() and sockets.admin.exists():
        message = f"no server on this machine (no socket at {sockets.server}); its part is not looked at"
        report.add("server", [warning("server-reachable", message, "Run the check there, too.")])
        return None
    try:
        status = await fetch_status(sockets.existing_server())
    except VestibuleError as error:
        report.add("server", [failed("server-reachable", str(error), error.advice)])
        return None
    up = f"version {status.version}, trust domain {status.trust_domain}"
    report.add("server", [fine("server-reachable", f"the server answers ({up})"), readiness(health)])
    report.add("server", findings.authorities(status, now))
    report.add("entries", await entries(sockets.server))
    report.add("secrets", await secrets(sockets.server))
    report.add("intent", findings.intent(status))
    report.add("proxies", findings.proxies(status))
    report.add("proxies", findings.boundaries(status))
    return status


async def _agent(sockets: Sockets, report: Report, now: float) -> admin_pb2.AgentStatus | None:
    try:
        status = await fetch_agent_status(sockets.existing_admin())
    except VestibuleError as error:
        report.add("agent", [failed("agent-reachable", str(error), error.advice)])
        return None
    report.add("agent", [fine("agent-reachable", f"the agent answers (version {status.version})")])
    report.add("agent", [public_socket(sockets.agent)])
    report.add("agent", findings.agent(status, now))
    report.add("agent", findings.kek(status))
    report.add("agent", findings.bypasses(status, tcp_listeners()))
    report.add("certificates", findings.certificates(status, now))
    return status


async def fetch_agent_status(path: Path) -> admin_pb2.AgentStatus:
    """Ask the agent.  Raises: VST2300 when nobody answers."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

    channel = unix_channel(path)
    try:
        client = Client(channel, admin_pb2.DESCRIPTOR.services_by_name["AgentAdmin"])
        found: admin_pb2.AgentStatus = await client.unary(
            "GetStatus", admin_pb2.GetAgentStatusRequest(), timeout=5.0
        )
        return found
    finally:
        channel.close()


async def entries(path: Path) -> list[Finding]:
    """What the server has to say of its registration entries."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2

    channel = unix_channel(path)
    try:
        client = Client(channel, entries_pb2.DESCRIPTOR.services_by_name["Entries"])
        found = await client.unary("Review", entries_pb2.ReviewRequest(), timeout=10.0)
    except VestibuleError as error:
        return [warning("entries-clear", f"the entries could not be reviewed: {error}", error.advice)]
    finally:
        channel.close()
    return list(findings.entries([each.message for each in found.warnings], found.left_out))


async def secrets(path: Path) -> list[Finding]:
    """Whether secrets can be had, and whether somebody has tampered with them."""
    try:
        seal = await fetch_seal(path)
    except VestibuleError as error:
        return [
            failed("secrets-unsealed", f"the secret manager does not say how it is: {error}", error.advice)
        ]
    return list(findings.secrets(seal))


def public_socket(path: Path) -> Finding:
    """Whether somebody listens where workloads look for the agent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            message = f"nobody listens on the public socket {path}: {error.strerror or error}"
            return failed(
                "agent-socket", message, "Workloads cannot get their identities: restart the agent."
            )
    return fine("agent-socket", f"the public socket {path} accepts connections")


def readiness(address: str) -> Finding:
    """What the server says of itself under ``/ready``."""
    connection = http.client.HTTPConnection(address, timeout=3.0)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        text = response.read(500).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return warning(
            "server-ready",
            f"nobody answers /ready at {address}: {error}",
            "Name the address with --health-address, if the server has another one.",
        )
    finally:
        connection.close()
    if response.status != http.client.OK:
        return failed(
            "server-ready", f"the server is not ready: {text}", "The answer names the part that is not."
        )
    return fine("server-ready", "the server is ready")


async def envoy() -> Finding:
    """Whether there is an Envoy to start sidecars with, and which."""
    try:
        from vestibule.proxy.binary import check_version, find_envoy
    except ModuleNotFoundError as error:
        return warning(
            "envoy-version", f"not looked for: {error.name} is not installed", "pip install 'vestibule[all]'"
        )
    try:
        path = find_envoy()
        version = await check_version(path)
    except VestibuleError as error:
        return failed("envoy-version", str(error), error.advice)
    return fine("envoy-version", f"Envoy {'.'.join(map(str, version))} at {path}")


def clock_is_synchronised() -> bool | None:
    """What the kernel's clock discipline says (adjtimex(2)); None where it cannot be asked."""
    adjtimex: Callable[[Any], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return None
    time_error = 5  # TIME_ERROR: not synchronised
    state = adjtimex(ctypes.create_string_buffer(512))  # struct timex, all zero: a question, no change
    return None if state < 0 else state != time_error


def _show(report: Report) -> None:
    for category, found in report.categories.items():
        console.print(f"[bold]{category}[/]")
        for each in found:
            sentence(console, f" {MARKS[each.level]}", escape(each.message))
            if each.hint:
                sentence(console, "   [dim]→[/]", f"[dim]{escape(each.hint)}[/]")
    counts = {level: sum(each.level is level for each in report.all) for level in Level}
    console.print(
        f"\n{counts[Level.FINE]} fine, {counts[Level.WARNING]} to know about, {counts[Level.FAILED]} to mend"
    )
