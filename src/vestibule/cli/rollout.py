"""``vestibule rollout …`` and ``vestibule rollback``: how a new intent reaches the proxies, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.calls.unix import unix_channel
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.rollout_report import (
    document,
    ended,
    history_document,
    progress_line,
    show,
    show_history,
)
from vestibule.cli.server_calls import CODES
from vestibule.cli.sockets import ServerSocketOption, find_sockets
from vestibule.mesh import codes as _mesh_codes
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["RolloutAdmin"]
KNOWN_CODES: Final = (*CODES, _mesh_codes)
PATIENCE: Final = 30.0
LOOK_EVERY: Final = 0.25

ReasonOption = Annotated[
    str, typer.Option("--reason", help="For people, and the audit log: the ticket, the incident.")
]
NeededReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; it is shown to everybody who looks at the rollout.")
]


@asynccontextmanager
async def _client(socket: Path | None) -> AsyncIterator[Client]:
    channel = unix_channel(find_sockets(server=socket).existing_server())
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()


def rollout(
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow what is under way until it has ended.")
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which intent the proxies have, how many have acknowledged it, and who is behind and why.

    Ends with 1 when the newest intent was refused, or a proxy has not what it is to have.
    """

    async def main() -> Exit:
        async with _client(server_socket) as client:
            found = await client.unary("Get", wire.GetRolloutRequest(), timeout=PATIENCE)
            if watch:
                found = await _follow(client, found, output)
        return _answer(output, found)

    run(output, "rollout", main)


async def _follow(client: Client, found: Any, output: Output) -> Any:
    """Look again until nothing is being tried, telling people what changes."""
    told = ""
    while not ended(found):
        news = f"{found.trial} {found.phase} {found.acknowledged}"
        if output is Output.TEXT and news != told:
            console.print(progress_line(found, time.time()))
            told = news
        await asyncio.sleep(LOOK_EVERY)
        found = await client.unary("Get", wire.GetRolloutRequest(), timeout=PATIENCE)
    return found


def history(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """List the intents that were taken up, the newest first, and what became of each."""

    async def main() -> Exit:
        async with _client(server_socket) as client:
            found = await client.unary("GetHistory", wire.GetRolloutHistoryRequest(), timeout=PATIENCE)
        data = history_document(found)
        answer(output, "rollout-history", data, lambda: show_history(data))
        return Exit.FINE

    run(output, "rollout-history", main)


def pause(
    reason: ReasonOption = "", server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Try no new intent and let no wave follow, until `vestibule rollout resume`.  Going back still works."""
    _steer("Pause", reason, server_socket, output)


def resume(
    reason: ReasonOption = "", server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Go on after a pause or a rollback, or try again what was refused."""
    _steer("Resume", reason, server_socket, output)


def promote(
    reason: ReasonOption = "", server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Give the newest intent to all proxies now, and call it good, whatever they say of it."""
    _steer("Promote", reason, server_socket, output)


def rollback(
    reason: NeededReasonOption,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="One of `vestibule rollout history`.")
    ] = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Give all proxies the good intent before, or VERSION, until the source changes or `vestibule rollout resume`."""

    async def main() -> Exit:
        request = wire.RollBackRequest(version=version, reason=reason)
        async with _client(server_socket) as client:
            found = await client.unary("RollBack", request, timeout=PATIENCE)
        data = document(found)
        answer(output, "rollout", data, lambda: show(data))
        return Exit.FINE

    run(output, "rollout", main)


def _steer(method: str, reason: str, server_socket: Path | None, output: Output) -> None:
    async def main() -> Exit:
        async with _client(server_socket) as client:
            found = await client.unary(method, wire.SteerRolloutRequest(reason=reason), timeout=PATIENCE)
        data = document(found)
        answer(output, "rollout", data, lambda: show(data))
        return Exit.FINE

    run(output, "rollout", main)


def _answer(output: Output, found: Any) -> Exit:
    data = document(found)
    answer(output, "rollout", data, lambda: show(data))
    late = [each for each in data["behind"] if not each["busy"]]
    return Exit.FINDINGS if data["phase"] == "refused" or late else Exit.FINE
