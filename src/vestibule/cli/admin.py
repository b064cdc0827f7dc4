"""``vestibule admin``: who may administer the server over its port, and within which bounds."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import instant, server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import administrators_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["Administrators"]


def grant(
    spiffe_id: Annotated[str, typer.Option("--spiffe-id", help="Whose X509-SVID it is that administers.")],
    may: Annotated[
        list[str],
        typer.Option("--may", help="entries, agents, tokens, mint, federation or read. Repeatable."),
    ],
    path: Annotated[
        list[str] | None,
        typer.Option("--path", help="Of SPIFFE IDs: /ns/dev and all below. Repeatable."),
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option("--parent", help="Of parent IDs and agents: this path and all below. Repeatable."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="What else entries may have: admin, downstream, federates_with, dns_names, store_svid, templates, "
            "jwt_claims. Repeatable.",
        ),
    ] = None,
    dns_suffix: Annotated[
        list[str] | None, typer.Option("--dns-suffix", help="What DNS names have to end with. Repeatable.")
    ] = None,
    max_x509_svid_ttl: Annotated[str | None, typer.Option("--max-x509-svid-ttl", help="Such as 1h.")] = None,
    max_jwt_svid_ttl: Annotated[str | None, typer.Option("--max-jwt-svid-ttl", help="Such as 5m.")] = None,
    expires_in: Annotated[str | None, typer.Option("--expires-in", help="Ends after, such as 30d.")] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let an identity administer within bounds; / as a path or parent is everything."""

    async def main() -> Exit:
        wanted = wire.Administrator(
            spiffe_id=str(SpiffeId.parse(spiffe_id)),
            powers=may,
            paths=path or (),
            parents=parent or (),
            features=feature or (),
            dns_suffixes=dns_suffix or (),
            max_x509_svid_ttl=_seconds(max_x509_svid_ttl),
            max_jwt_svid_ttl=_seconds(max_jwt_svid_ttl),
            expires_at=int(time.time() + _seconds(expires_in)) if expires_in else 0,
        )
        async with server_calls(server_socket) as calls:
            request = wire.GrantAdministratorRequest(administrator=wanted)
            made = document(await Client(calls.channel, SERVICE).unary("Grant", request))
        answer(output, "administrator", made, lambda: _show(made))
        return Exit.FINE

    run(output, "administrator", main)


def list_grants(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """List who may administer within bounds.  Full administrators are entries with `admin`, and `admin_ids`."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            client = Client(calls.channel, SERVICE)
            found = (await client.unary("List", wire.ListAdministratorsRequest())).administrators
        data = [document(each) for each in found]

        def tell() -> None:
            for each in data:
                _show(each)
                console.print()
            console.print(f"Found {len(data)} {'grant' if len(data) == 1 else 'grants'}")

        answer(output, "administrators", data, tell)
        return Exit.FINE

    run(output, "administrators", main)


def revoke(
    grant_id: Annotated[str, typer.Argument(metavar="ID")],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a grant back; it counts no more from the next call on."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            request = wire.RevokeAdministratorRequest(id=grant_id)
            await Client(calls.channel, SERVICE).unary("Revoke", request)
        answer(output, "administrator-revoked", {"id": grant_id}, lambda: console.print("Revoked"))
        return Exit.FINE

    run(output, "administrator-revoked", main)


def document(grant: wire.Administrator) -> dict[str, Any]:
    """A grant as the envelope carries it; TTLs in seconds."""
    return {
        "id": grant.id,
        "spiffe_id": grant.spiffe_id,
        "may": list(grant.powers),
        "paths": list(grant.paths),
        "parents": list(grant.parents),
        "features": list(grant.features),
        "dns_suffixes": list(grant.dns_suffixes),
        "max_x509_svid_ttl": grant.max_x509_svid_ttl or None,
        "max_jwt_svid_ttl": grant.max_jwt_svid_ttl or None,
        "expires_at": instant(grant.expires_at),
        "created_at": instant(grant.created_at),
        "created_by": grant.created_by,
    }


def _show(data: dict[str, Any]) -> None:
    for name, value in data.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        if shown not in (None, ""):
            console.print(f"{name.replace('_', ' '):<17} {escape(str(shown))}")


def _seconds(text: str | None) -> int:
    return int(parse_duration(text).total_seconds()) if text else 0
