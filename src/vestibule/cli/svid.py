"""``vestibule svid``: this process's own credentials, from any SPIFFE Workload API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import AgentSocketOption, find_sockets
from vestibule.cli.svid_files import pem, replace_file
from vestibule.cli.token_files import read_token
from vestibule.sdk.files.contents import Layout
from vestibule.spiffe import JwtSvid, SpiffeId, X509Svid


def fetch(
    jwt: Annotated[bool, typer.Option("--jwt", help="A JWT-SVID of each identity instead.")] = False,
    audience: Annotated[
        list[str] | None,
        typer.Option("--audience", help="With --jwt: whom the token will be shown to; may be repeated."),
    ] = None,
    spiffe_id: Annotated[
        str | None, typer.Option("--spiffe-id", help="With --jwt: of this identity only.")
    ] = None,
    write_to: Annotated[
        Path | None,
        typer.Option(
            "--write", metavar="DIR", help="Also write svid.N.pem, svid.N.key and bundle.N.pem there."
        ),
    ] = None,
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the X.509-SVIDs of this process, after verifying them.  Private keys are never printed.

    With --jwt --audience, print a JWT-SVID of each identity: one line each, good for whoever has it.
    """

    async def main() -> Exit:
        if jwt:
            await _fetch_jwt(agent_socket, audience or [], spiffe_id, output)
            return Exit.FINE
        if audience or spiffe_id:
            raise USAGE.error(
                "--audience and --spiffe-id are for --jwt", advice="Add --jwt, or leave them out."
            )
        async with _api(agent_socket) as api:
            context = await api.fetch()
        context.verify(datetime.now(UTC))
        if write_to is not None:
            _write(write_to, context)
        _show(context, output)
        return Exit.FINE

    run(output, "svid", main)


def validate(
    audience: Annotated[str, typer.Option("--audience", help="Who is asking: what the token must be for.")],
    token_file: Annotated[
        Path,
        typer.Option("--token-file", metavar="FILE|-", help="Where the token is; never on the command line."),
    ] = Path("-"),
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask the agent whether a JWT-SVID, read from a file or from standard input, proves an identity."""

    async def main() -> Exit:
        token = read_token(token_file)
        async with _api(agent_socket) as api:
            svid = await api.validate_jwt_svid(token, audience)
        data = {"spiffe_id": str(svid.spiffe_id), "claims": dict(svid.claims)}
        answer(output, "jwt-validation", data, lambda: _print_jwt(svid))
        return Exit.FINE

    run(output, "jwt-validation", main)


def watch(agent_socket: AgentSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show them now and after every change, until interrupted."""

    async def main() -> Exit:
        async with _api(agent_socket) as api:
            async for context in api.watch():
                _show(context, output)
        return Exit.FINE

    run(output, "svid", main)


@asynccontextmanager
async def _api(agent_socket: Path | None) -> AsyncIterator[WorkloadApi]:
    channel = unix_channel(find_sockets(agent=agent_socket).existing_agent())
    try:
        yield WorkloadApi(channel)
    finally:
        channel.close()


def _show(context: X509Context, output: Output) -> None:
    context.verify(datetime.now(UTC))
    data = {
        "svids": [_facts(svid) for svid in context.svids],
        "bundles": {
            str(each.trust_domain.id): [pem("CERTIFICATE", der) for der in each.x509_authorities]
            for each in context.bundles
        },
    }
    answer(output, "svid", data, lambda: _print(context))


def _facts(svid: X509Svid) -> dict[str, Any]:
    return {
        "spiffe_id": str(svid.spiffe_id),
        "serial": str(svid.serial),
        "not_before": svid.not_before.isoformat(),
        "not_after": svid.not_after.isoformat(),
        "hint": svid.hint,
        "chain": [pem("CERTIFICATE", der) for der in svid.chain],
    }


def _print(context: X509Context) -> None:
    for svid in context.svids:
        left = int((svid.not_after - datetime.now(UTC)).total_seconds())
        console.print(f"[bold]{svid.spiffe_id}[/]" + (f"  ({escape(svid.hint)})" if svid.hint else ""))
        console.print(f"  serial     {svid.serial:x}")
        console.print(f"  expires    {svid.not_after:%Y-%m-%d %H:%M:%S} UTC, in {left} s")
    for bundle in context.bundles:
        count = len(bundle.x509_authorities)
        console.print(
            f"bundle of {bundle.trust_domain}: {count} {'authority' if count == 1 else 'authorities'}"
        )


def _write(directory: Path, context: X509Context) -> None:
    """Into a directory that may be others', too: nothing but these files is touched."""
    if not directory.is_dir():
        raise USAGE.error(f"{directory} is not a directory", advice="Create it first, with mode 0700.")
    for file in Layout().x509_files(context, datetime.now(UTC)):
        replace_file(directory / file.name, file.data.decode("ascii"), file.mode)


async def _fetch_jwt(
    agent_socket: Path | None, audience: list[str], spiffe_id: str | None, output: Output
) -> None:
    if not audience:
        raise USAGE.error("--jwt needs an audience", advice="Add --audience NAME: who will verify the token.")
    wanted = SpiffeId.parse(spiffe_id) if spiffe_id else None
    async with _api(agent_socket) as api:
        svids = await api.fetch_jwt_svids(audience, wanted)
    data = {"svids": [_jwt_facts(svid) for svid in svids]}
    answer(output, "jwt-svid", data, lambda: typer.echo("\n".join(svid.token for svid in svids)))


def _jwt_facts(svid: JwtSvid) -> dict[str, Any]:
    return {
        "spiffe_id": str(svid.spiffe_id),
        "audience": list(svid.audience),
        "expires_at": svid.expires_at.isoformat(),
        "hint": svid.hint,
        "token": svid.token,
    }


def _print_jwt(svid: JwtSvid) -> None:
    left = int((svid.expires_at - datetime.now(UTC)).total_seconds())
    console.print(f"[bold]{svid.spiffe_id}[/]")
    console.print(f"  audience   {escape(', '.join(svid.audience))}")
    console.print(f"  expires    {svid.expires_at:%Y-%m-%d %H:%M:%S} UTC, in {left} s")
