"""``vestibule oauth token``, ``exchange``, ``inspect``: tokens of this workload, and what stands in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.cli.oauth_calls import AddressOption, IssuerOption, workload
from vestibule.cli.oauth_claims import actors_of, read_claims, show_claims
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.secret_values import MASK, hides
from vestibule.cli.sockets import AgentSocketOption
from vestibule.cli.token_files import new_file, read_token
from vestibule.sdk.oauth.addresses import EGRESS, TokensAddress
from vestibule.sdk.oauth.answers import Token
from vestibule.sdk.oauth.client import AsyncTokens

TYPES: Final = "urn:ietf:params:oauth:token-type:"

AudienceOption = Annotated[
    list[str],
    typer.Option("--audience", help="Whom the token is for, as the intent's tokens/ has it. Repeatable."),
]
ScopeOption = Annotated[
    list[str] | None, typer.Option("--scope", help="What it is to be good for. Repeatable. [default: none]")
]
RawOption = Annotated[bool, typer.Option("--raw", help="Show the token on a terminal, too.")]
WriteOption = Annotated[
    Path | None,
    typer.Option("--write", metavar="FILE", help="Write it into this new file (mode 0600) instead."),
]
TokenFileOption = Annotated[
    Path, typer.Option("--token-file", metavar="FILE|-", help="Where the token is; - is standard input.")
]


def token(
    audience: AudienceOption,
    scope: ScopeOption = None,
    assertion_file: Annotated[
        Path | None,
        typer.Option(
            "--assertion-file",
            metavar="FILE|-",
            help="Trade an outside issuer's token for it, such as an ID token.",
        ),
    ] = None,
    write: WriteOption = None,
    raw: RawOption = False,
    address: AddressOption = None,
    issuer: IssuerOption = "",
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Get an access token of this workload's own.  It goes to standard output; on a terminal only with --raw."""

    async def got(tokens: AsyncTokens) -> Token:
        if assertion_file is not None:
            return await tokens.admit(read_token(assertion_file), audience, scope or ())
        return await tokens.get(audience, scope or ())

    _give(got, write, raw, address, issuer, agent_socket, output)


def exchange(
    audience: AudienceOption,
    scope: ScopeOption = None,
    token_file: TokenFileOption = Path("-"),
    kind: Annotated[
        str, typer.Option("--type", help="Of the token that is given: access_token or jwt.")
    ] = "access_token",
    write: WriteOption = None,
    raw: RawOption = False,
    address: AddressOption = None,
    issuer: IssuerOption = "",
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Give a token that was made for this workload, to act for whom it is of elsewhere (RFC 8693).

    The new one has no more scopes, lasts no longer, and says who acts.
    """

    async def got(tokens: AsyncTokens) -> Token:
        given = read_token(token_file)
        wanted = kind if ":" in kind else TYPES + kind
        return await tokens.exchange(given, audience, scope or (), subject_type=wanted)

    _give(got, write, raw, address, issuer, agent_socket, output)


def inspect(
    token_file: TokenFileOption = Path("-"),
    address: AddressOption = None,
    issuer: IssuerOption = "",
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what stands in a token, and ask the token service whether it holds.  Exits 1 if it does not.

    It is asked where --address or the sidecar's variables say; it tells only those for whom the token was made.
    """

    async def main() -> Exit:
        text = read_token(token_file)
        header, claims = read_claims(text)
        active = None
        if address is not None or EGRESS in os.environ:
            async with workload(address, agent_socket, issuer) as tokens:
                told = await tokens.inspect(text)
            active = told.get("active") is True
        data = {"active": active, "header": header, "claims": claims, "actors": actors_of(claims)}
        answer(output, "oauth-inspection", data, lambda: _show(data))
        return Exit.FINDINGS if active is False else Exit.FINE

    run(output, "oauth-inspection", main)


def _show(data: dict[str, Any]) -> None:
    console.print(
        {
            True: "[bold green]✓[/] the token holds",
            False: "[bold red]✗[/] the token does not hold, or was not made for who asks",
            None: "[bold yellow]?[/] not verified: --address asks the token service",
        }[data["active"]]
    )
    show_claims(data["claims"])


def _give(
    got: Callable[[AsyncTokens], Awaitable[Token]],
    write: Path | None,
    raw: bool,
    address: str | None,
    issuer: str,
    agent_socket: Path | None,
    output: Output,
) -> None:
    """To the one place that was asked for."""

    async def main() -> Exit:
        TokensAddress.find(address)
        # The file is made first: a token that nobody can read would be lost.
        with nullcontext() if write is None else new_file(write) as file:
            async with workload(address, agent_socket, issuer) as tokens:
                found = await got(tokens)
            if file is not None:
                file.write(found.text + "\n")
        hide = write is not None or hides(raw)
        data = {
            "access_token": MASK if hide else found.text,
            "token_type": "Bearer",
            "audience": list(found.audience),
            "scopes": list(found.scopes),
            "expires_at": found.ends.isoformat(timespec="seconds"),
            "file": None if write is None else str(write),
        }
        answer(output, "oauth-token", data, lambda: _tell(found, hide, write))
        return Exit.FINE

    run(output, "oauth-token", main)


def _tell(found: Token, hide: bool, write: Path | None) -> None:
    if not hide:
        sys.stdout.write(found.text + "\n")
        return
    show_claims(read_claims(found.text)[1])
    console.print(f"  {write}" if write is not None else "[dim]  --raw shows the token[/]")
