"""``vestibule oauth keys``, ``clients``, ``revoke``: what operators do with the token service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.oauth_calls import AddressOption, IssuerOption, operator, workload
from vestibule.cli.oauth_claims import instant, read_claims
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import AgentSocketOption, ServerSocketOption
from vestibule.cli.token_files import read_token
from vestibule.wire.gen.vestibule.admin.v1 import tokens_pb2 as wire

ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; it stands in the list and in the audit log.")
]


def keys(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Sign with the next key as soon as verifiers know it.")
    ] = False,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the keys that sign tokens.  With --address those that the token service shows to verifiers."""

    async def main() -> Exit:
        if address is not None and server_socket is None and not rotate:
            return await _public(address, output)
        async with operator(server_socket) as client:
            request = wire.RotateTokenKeysRequest() if rotate else wire.ListTokenKeysRequest()
            found = await client.unary("RotateKeys" if rotate else "ListKeys", request)
        listed = [
            {
                "key_id": each.key_id,
                "state": each.state,
                "published_at": instant(each.published_at),
                "begins_at": instant(each.begins_at),
                "until": instant(each.until),
                "ended_at": instant(each.ended_at),
            }
            for each in found.keys
        ]
        data = {"issuer": found.issuer, "keys": listed}
        answer(output, "oauth-keys", data, lambda: _show_keys(data))
        return Exit.FINE if listed else Exit.FINDINGS

    run(output, "oauth-keys", main)


def clients(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show who has had tokens from this server since it started, and who was refused."""

    async def main() -> Exit:
        async with operator(server_socket) as client:
            found = await client.unary("ListClients", wire.ListTokenClientsRequest())
        listed = [
            {
                "client": each.client,
                "tokens": each.tokens,
                "refusals": each.refusals,
                "last_at": instant(each.last_at),
            }
            for each in found.clients
        ]
        answer(output, "oauth-clients", {"clients": listed}, lambda: _show_clients(listed))
        return Exit.FINE

    run(output, "oauth-clients", main)


def revoke(
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE|-", help="This token, and what was got for it."),
    ] = None,
    token_id: Annotated[str, typer.Option("--token", metavar="JTI", help="The same, by its ID.")] = "",
    client: Annotated[
        str, typer.Option("--client", metavar="SPIFFE-ID", help="All that a client got, or acts with.")
    ] = "",
    subject: Annotated[str, typer.Option("--subject", help="All that act for somebody.")] = "",
    key: Annotated[
        str,
        typer.Option("--key", metavar="KID", help="All that a key signed; another one signs from now on."),
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="Change nothing: show what is revoked.")] = False,
    reason: ReasonOption = "",
    address: AddressOption = None,
    issuer: IssuerOption = "",
    agent_socket: AgentSocketOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have tokens count no longer, those until now; every proxy knows within a second.

    With --address as a workload: only --token-file, and only tokens of its own.
    """

    async def main() -> Exit:
        _check_one(token_file is not None, bool(token_id), bool(client), bool(subject), bool(key), listed)
        if token_file is not None and address is not None and server_socket is None:
            return await _own(token_file, address, issuer, agent_socket, output)
        if listed:
            return await _show_list(server_socket, output)
        values = {"token": token_id, "client": client, "subject": subject, "key": key}
        if token_file is not None:
            values["token"] = str(read_claims(read_token(token_file))[1].get("jti", ""))
        by, value = next((item for item in values.items() if item[1]), ("token", ""))
        return await _revoke(by, value, reason, server_socket, output)

    run(output, "oauth-revocation", main)


def _check_one(*given: bool) -> None:
    if sum(given) != 1:
        raise USAGE.error(
            "revoke wants exactly one of --token-file, --token, --client, --subject, --key and --list"
        )


async def _own(
    token_file: Path, address: str, issuer: str, agent_socket: Path | None, output: Output
) -> Exit:
    text = read_token(token_file)
    async with workload(address, agent_socket, issuer) as tokens:
        await tokens.revoke(text)
    data = {"revoked": [{"by": "token", "value": str(read_claims(text)[1].get("jti", ""))}]}
    answer(output, "oauth-revocation", data, lambda: console.print("the token counts no longer"))
    return Exit.FINE


async def _revoke(by: str, value: str, reason: str, server_socket: Path | None, output: Output) -> Exit:
    async with operator(server_socket) as client:
        if by == "key":
            found = await client.unary("RevokeKey", wire.RevokeTokenKeyRequest(key_id=value, reason=reason))
        else:
            request = wire.RevokeTokensRequest(by=by, value=value, reason=reason)
            found = await client.unary("Revoke", request)
    data = {"revoked": [_revoked(found)]}
    answer(output, "oauth-revocation", data, lambda: _show_revoked(data["revoked"]))
    return Exit.FINE


async def _show_list(server_socket: Path | None, output: Output) -> Exit:
    async with operator(server_socket) as client:
        found = await client.unary("ListRevoked", wire.ListRevokedTokensRequest())
    data = {"revoked": [_revoked(each) for each in found.revoked]}
    answer(output, "oauth-revocation", data, lambda: _show_revoked(data["revoked"]))
    return Exit.FINE


async def _public(address: str, output: Output) -> Exit:
    async with workload(address) as tokens:
        found = (await tokens.keys()).get("keys") or []
        issuer = (await tokens.metadata()).get("issuer", "")
    listed = [
        {"key_id": each.get("kid"), "state": "published", "algorithm": each.get("alg")} for each in found
    ]
    data = {"issuer": issuer, "keys": listed}
    answer(output, "oauth-keys", data, lambda: _show_keys(data))
    return Exit.FINE if listed else Exit.FINDINGS


def _revoked(found: Any) -> dict[str, Any]:
    return {
        "by": found.by,
        "value": found.value,
        "before": instant(found.before),
        "until": instant(found.until),
        "reason": found.reason,
    }


def _show_keys(data: dict[str, Any]) -> None:
    console.print(f"issuer {escape(str(data['issuer']))}")
    for each in data["keys"]:
        told = [
            f"{word} {each[name]}"
            for word, name in (("signs from", "begins_at"), ("until", "until"), ("ended", "ended_at"))
            if each.get(name)
        ]
        console.print(f"  {each['state']:<9} {escape(str(each['key_id']))}  [dim]{'  '.join(told)}[/]")
    if not data["keys"]:
        console.print("  none: is the secret manager sealed? (vestibule secret status)")


def _show_clients(listed: list[dict[str, Any]]) -> None:
    for each in listed:
        refused = f"  refused {each['refusals']}" if each["refusals"] else ""
        console.print(
            f"{escape(each['client'])}  tokens {each['tokens']}{refused}  [dim]last {each['last_at']}[/]"
        )
    if not listed:
        console.print("nobody has asked this server for a token since it started")


def _show_revoked(listed: list[dict[str, Any]]) -> None:
    for each in listed:
        what = f"{each['by']} {each['value']}"
        told = {"token": "it counts no longer", "key": "nothing that it signed counts any more"}.get(
            each["by"], f"tokens from before {each['before']} count no longer"
        )
        console.print(f"{escape(what)}: {told}  [dim]{escape(each['reason'])}[/]".rstrip())
    if not listed:
        console.print("no tokens are revoked")
