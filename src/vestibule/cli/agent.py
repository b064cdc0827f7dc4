"""``vestibule agent list|show|ban|evict|purge``: the agents that the server knows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, complain, console, run
from vestibule.cli.server_calls import PAGE, every_page, from_wire, instant, server_calls, to_wire
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_pb2, types_pb2

IdArgument = Annotated[str, typer.Argument(metavar="SPIFFE-ID", help="The agent.")]


def list_agents(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """List all agents."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            agents = await every_page(
                lambda token: calls.agents.unary(
                    "ListAgents", agent_pb2.ListAgentsRequest(page_size=PAGE, page_token=token)
                ),
                lambda page: page.agents,
            )
        data = [document(agent) for agent in agents]
        answer(output, "agents", data, lambda: _show_all(data))
        return Exit.FINE

    run(output, "agents", main)


def show(
    spiffe_id: IdArgument, server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Show one agent."""

    async def main() -> Exit:
        request = agent_pb2.GetAgentRequest(id=to_wire(SpiffeId.parse(spiffe_id)))
        async with server_calls(server_socket) as calls:
            data = document(await calls.agents.unary("GetAgent", request))
        answer(output, "agent", data, lambda: _show_one(data))
        return Exit.FINE

    run(output, "agent", main)


def ban(
    spiffe_id: IdArgument, server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Shut an agent out: it loses its SVID and may not attest again until it is evicted."""

    async def main() -> Exit:
        request = agent_pb2.BanAgentRequest(id=to_wire(SpiffeId.parse(spiffe_id)))
        async with server_calls(server_socket) as calls:
            await calls.agents.unary("BanAgent", request)
        answer(output, "agent", {"spiffe_id": spiffe_id, "banned": True}, lambda: console.print("Banned"))
        return Exit.FINE

    run(output, "agent", main)


def evict(
    spiffe_id: IdArgument, server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Forget an agent, and its ban; it may attest again if it has evidence that was not used up."""

    async def main() -> Exit:
        request = agent_pb2.DeleteAgentRequest(id=to_wire(SpiffeId.parse(spiffe_id)))
        async with server_calls(server_socket) as calls:
            await calls.agents.unary("DeleteAgent", request)
        answer(output, "agent", {"spiffe_id": spiffe_id, "evicted": True}, lambda: console.print("Evicted"))
        return Exit.FINE

    run(output, "agent", main)


def purge(
    expired_for: Annotated[
        str, typer.Option("--expired-for", help="For how long their last SVID has been over, such as 30d.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    tofu: Annotated[
        bool,
        typer.Option(
            "--tofu", help="Also those that cannot attest again by themselves (they need a new token)."
        ),
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Evict agents that have been gone for long; banned ones stay banned."""

    async def main() -> Exit:
        before = datetime.now(UTC) - parse_duration(expired_for)
        wanted = agent_pb2.ListAgentsRequest.Filter(
            by_expires_before=before.strftime("%Y-%m-%d %H:%M:%S +0000 +00")
        )
        wanted.by_banned.SetInParent()  # false: a ban is not lifted by forgetting the agent
        if not tofu:
            wanted.by_can_reattest.value = True
        gone: list[str] = []
        kept: list[str] = []
        async with server_calls(server_socket) as calls:
            agents = await every_page(
                lambda token: calls.agents.unary(
                    "ListAgents",
                    agent_pb2.ListAgentsRequest(filter=wanted, page_size=PAGE, page_token=token),
                ),
                lambda page: page.agents,
            )
            for agent in agents:
                if not dry_run:
                    try:
                        await calls.agents.unary("DeleteAgent", agent_pb2.DeleteAgentRequest(id=agent.id))
                    except VestibuleError as error:
                        complain(error)
                        kept.append(from_wire(agent.id))
                        continue
                gone.append(from_wire(agent.id))
        data = {"agents": gone, "failed": kept, "dry_run": dry_run}
        answer(output, "agents-purged", data, lambda: _show_purged(gone, dry_run))
        return Exit.FINDINGS if kept else Exit.FINE

    run(output, "agents-purged", main)


def _show_purged(gone: list[str], dry_run: bool) -> None:
    for each in gone:
        console.print(escape(each))
    verb = "Would evict" if dry_run else "Evicted"
    console.print(f"{verb} {len(gone)} {'agent' if len(gone) == 1 else 'agents'}")


def document(agent: types_pb2.Agent) -> dict[str, Any]:
    """An agent as the envelope carries it."""
    return {
        "spiffe_id": from_wire(agent.id),
        "attestation_type": agent.attestation_type,
        "serial": agent.x509svid_serial_number or None,
        "expires_at": instant(agent.x509svid_expires_at),
        "selectors": [f"{each.type}:{each.value}" for each in agent.selectors],
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "version": agent.agent_version or None,
    }


def _show_all(data: list[dict[str, Any]]) -> None:
    for agent in data:
        _show_one(agent)
        console.print()
    console.print(f"Found {len(data)} attested {'agent' if len(data) == 1 else 'agents'}")


def _show_one(data: dict[str, Any]) -> None:
    for name, value in data.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        if shown not in (None, ""):
            console.print(f"{name.replace('_', ' '):<17} {escape(str(shown))}")
