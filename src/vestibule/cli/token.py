"""``vestibule token``: join tokens."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import instant, server_calls, to_wire
from vestibule.cli.sockets import ServerSocketOption
from vestibule.cli.token_files import new_file
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_pb2


def generate(
    ttl: Annotated[str, typer.Option("--ttl", help="How long the token may be used, such as 10m.")] = "10m",
    spiffe_id: Annotated[
        str | None, typer.Option("--spiffe-id", help="A further ID for the node that joins, as a parent.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write the token to this new file (mode 0600) instead.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a token that lets one agent join, once.  It is a secret until it is used."""

    async def main() -> Exit:
        request = agent_pb2.CreateJoinTokenRequest(ttl=int(parse_duration(ttl).total_seconds()))
        if spiffe_id is not None:
            request.agent_id.CopyFrom(to_wire(SpiffeId.parse(spiffe_id)))
        # The file is made first: a token that nobody can read would be lost.
        with nullcontext() if write is None else new_file(write) as file:
            async with server_calls(server_socket) as calls:
                token = await calls.agents.unary("CreateJoinToken", request)
            if file is not None:
                file.write(token.value + "\n")
        data = {"token": None if write else token.value, "expires_at": instant(token.expires_at)}
        answer(output, "token", data, lambda: console.print(token.value if write is None else f"{write}"))
        return Exit.FINE

    run(output, "token", main)
