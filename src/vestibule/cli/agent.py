"""``vestibule agent list|show|ban|evict|purge``: the agents that the server knows."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, complain, console, run
from vestibule.cli.server_calls import PAGE, every_page, from_wire, instant, server_calls, to_wire
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector, SpiffeId
from vestibule.wire.gen.spire import agent_pb2, types_pb2


class Match(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How sets of selectors compare."""

    EXACT = "exact"
    SUBSET = "subset"
    SUPERSET = "superset"
    ANY = "any"


IdArgument = Annotated[str, typer.Argument(metavar="SPIFFE-ID", help="The agent.")]


TypeOption = Annotated[str, typer.Option("--attestation-type", help="Only those that joined this way.")]
BannedOption = Annotated[bool | None, typer.Option("--banned/--not-banned", help="Only those (not) banned.")]
ReattestOption = Annotated[
    bool | None,
    typer.Option(
        "--can-reattest/--cannot-reattest", help="Only those that may (not) attest again by themselves."
    ),
]
ExpiresOption = Annotated[
    str,
    typer.Option(
        "--expires-before",
        metavar="TIME|DURATION",
        help="Only those whose SVID ends before then, or within it.",
    ),
]
SelectorOption = Annotated[
    list[str] | None,
    typer.Option("--selector", metavar="TYPE:VALUE", help="A node selector; may be repeated."),
]
MatchOption = Annotated[
    Match, typer.Option("--match-selectors", help="How an agent's selectors compare with those given.")
]


def list_agents(
    attestation_type: TypeOption = "",
    banned: BannedOption = None,
    can_reattest: ReattestOption = None,
    expires_before: ExpiresOption = "",
    selector: SelectorOption = None,
    match: MatchOption = Match.SUPERSET,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the agents that are asked for, or all of them."""

    async def main() -> Exit:
        wanted = _wanted(attestation_type, banned, can_reattest, expires_before, selector, match)
        asked = agent_pb2.ListAgentsRequest.Filter(**wanted)
        async with server_calls(server_socket) as calls:
            agents = await every_page(
                lambda token: calls.agents.unary(
                    "ListAgents",
                    agent_pb2.ListAgentsRequest(filter=asked, page_size=PAGE, page_token=token),
                ),
                lambda page: page.agents,
            )
        data = [document(agent) for agent in agents]
        answer(output, "agents", data, lambda: _show_all(data))
        return Exit.FINE

    run(output, "agents", main)


def count(
    attestation_type: TypeOption = "",
    banned: BannedOption = None,
    can_reattest: ReattestOption = None,
    expires_before: ExpiresOption = "",
    selector: SelectorOption = None,
    match: MatchOption = Match.SUPERSET,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Count the agents that are asked for, or all of them."""

    async def main() -> Exit:
        wanted = _wanted(attestation_type, banned, can_reattest, expires_before, selector, match)
        request = agent_pb2.CountAgentsRequest(filter=agent_pb2.CountAgentsRequest.Filter(**wanted))
        async with server_calls(server_socket) as calls:
            found = int((await calls.agents.unary("CountAgents", request)).count)
        word = "agent" if found == 1 else "agents"
        answer(output, "agent-count", {"count": found}, lambda: console.print(f"{found} attested {word}"))
        return Exit.FINE

    run(output, "agent-count", main)


def _wanted(
    attestation_type: str,
    banned: bool | None,
    can_reattest: bool | None,
    expires_before: str,
    selectors: list[str] | None,
    match: Match,
) -> dict[str, Any]:
    """The conditions as SPIRE's messages hold them, for listing and for counting."""
    wanted: dict[str, Any] = {"by_attestation_type": attestation_type}
    if banned is not None:
        wanted["by_banned"] = {"value": banned}
    if can_reattest is not None:
        wanted["by_can_reattest"] = {"value": can_reattest}
    if expires_before:
        wanted["by_expires_before"] = _instant(expires_before).strftime("%Y-%m-%d %H:%M:%S %z")
    if selectors:
        parsed = [Selector.parse(each) for each in selectors]
        wanted["by_selector_match"] = types_pb2.SelectorMatch(
            selectors=[types_pb2.Selector(type=each.type, value=each.value) for each in parsed],
            match=types_pb2.SelectorMatch.MatchBehavior.Value(f"MATCH_{match.name}"),
        )
    return wanted


def _instant(text: str) -> datetime:
    try:
        return datetime.now(UTC) + parse_duration(text)
    except VestibuleError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise USAGE.error(
            f"{text[:100]!r} is neither a time nor a duration", advice="Write 2026-05-01T12:00:00Z, or 24h."
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


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
