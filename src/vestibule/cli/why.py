"""``vestibule why``: why a process, or a SPIFFE ID, has what it has, or has nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.output import EXIT_OF_KIND, Exit, Output, OutputOption, answer, run
from vestibule.cli.server_calls import server_calls
from vestibule.cli.sockets import AdminSocketOption, ServerSocketOption, find_sockets
from vestibule.cli.why_report import Report, show
from vestibule.errors import Kind, VestibuleError
from vestibule.net.grpc import Client
from vestibule.spiffe import Selector, SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import why_pb2 as wire

TIMEOUT = 20.0


def why(
    pid: Annotated[
        int | None, typer.Option("--pid", help="A process of this machine, whoever's it is.")
    ] = None,
    spiffe_id: Annotated[
        str | None, typer.Option("--spiffe-id", help="An identity: who gives it, who gets it.")
    ] = None,
    selector: Annotated[
        list[str] | None,
        typer.Option("--selector", help="What a workload is, as its agent found it. Repeatable."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="The agent in question. [default with --pid: this one]")
    ] = None,
    admin_socket: AdminSocketOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say why a process or a SPIFFE ID has an identity, or none.  Exits 0 if one is issued, 1 if none is.

    With --pid the agent examines the process as if it called, and the server, if it can be asked from here, is asked
    about entries that this agent does not get.
    """

    async def main() -> Exit:
        if pid is None and spiffe_id is None and not selector:
            raise USAGE.error("why wants --pid, --spiffe-id or --selector")
        if pid is not None and (selector or agent):
            raise USAGE.error("--pid finds selectors and agent by itself")
        wanted = str(SpiffeId.parse(spiffe_id)) if spiffe_id else ""
        selectors = [str(Selector.parse(each)) for each in selector or ()]
        found = await _ask(pid, wanted, selectors, agent or "", admin_socket, server_socket)
        answer(output, "why", found.document, lambda: show(found), errors=found.errors)
        return _exit(found)

    run(output, "why", main)


async def _ask(
    pid: int | None,
    spiffe_id: str,
    selectors: list[str],
    agent: str,
    admin_socket: Path | None,
    server_socket: Path | None,
) -> Report:
    report = Report(pid=pid, spiffe_id=spiffe_id, selectors=selectors, agent_id=agent)
    if pid is not None:
        try:
            report.process = await _ask_agent(admin_socket, pid)
        except VestibuleError as error:
            if error.code.kind is not Kind.UNAVAILABLE or error.code.code == "VST2312":
                raise
            report.unasked("agent", error)
        else:
            report.agent_id = report.process.agent.spiffe_id
            # What names an environment variable's value stays on the machine.
            report.selectors = [each for each in report.process.selectors if not each.endswith("=…")]
    if report.spiffe_id or report.selectors:
        try:
            report.identity = await _ask_server(server_socket, report)
        except VestibuleError as error:
            report.unasked("server", error)
    return report


async def _ask_agent(socket: Path | None, pid: int) -> Any:
    from vestibule.calls.unix import unix_channel

    channel = unix_channel(find_sockets(admin=socket).existing_admin())
    try:
        client = Client(channel, wire.DESCRIPTOR.services_by_name["AgentWhy"])
        return await client.unary("ExplainProcess", wire.ExplainProcessRequest(pid=pid), timeout=TIMEOUT)
    finally:
        channel.close()


async def _ask_server(socket: Path | None, report: Report) -> Any:
    request = wire.ExplainIdentityRequest(
        spiffe_id=report.spiffe_id, agent_id=report.agent_id, selectors=report.selectors
    )
    async with server_calls(socket) as calls:
        client = Client(calls.channel, wire.DESCRIPTOR.services_by_name["ServerWhy"])
        return await client.unary("ExplainIdentity", request, timeout=TIMEOUT)


def _exit(report: Report) -> Exit:
    if report.process is None and report.identity is None:
        return max(
            (EXIT_OF_KIND.get(each.code.kind, Exit.REFUSED) for each in report.errors), default=Exit.REFUSED
        )
    return Exit.FINE if report.is_issued else Exit.FINDINGS
