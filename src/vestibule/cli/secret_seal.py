"""``vestibule secret status``, ``init``, ``unseal``, ``seal``, ``rotate-keys``, ``rekey``: the keys around all."""

from __future__ import annotations

import base64
import sys
from binascii import Error as BinasciiError
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, complaints, console, run
from vestibule.cli.secret_calls import operator_client
from vestibule.cli.sockets import ServerSocketOption
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire

SharesOption = Annotated[
    int, typer.Option("--shares", min=1, max=255, help="How many shares there are, for a seal that has any.")
]
ThresholdOption = Annotated[
    int, typer.Option("--threshold", min=1, max=255, help="How many of them are needed.")
]


def status(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Say whether the secret manager is sealed, and how.  Exits 1 while it is."""

    async def do(client: Client) -> Any:
        return await client.unary("GetSeal", wire.GetSealRequest())

    _run("secret-status", do, server_socket, output)


def init(
    shares: SharesOption = 5,
    threshold: ThresholdOption = 3,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make the keys of a secret manager that has none, and print the shares, once.

    Give each share to somebody else; nobody can print them again.  A seal without shares makes its keys by itself.
    """

    async def main() -> Exit:
        async with operator_client(server_socket) as client:
            before = await client.unary("GetSeal", wire.GetSealRequest())
            plain = before.kind != "shamir"
            request = wire.InitSealRequest(shares=1 if plain else shares, threshold=1 if plain else threshold)
            made = await client.unary("Init", request)
        data = {**document(made.status), "keys": [each.hex() for each in made.shares]}
        answer(output, "secret-init", data, lambda: _show_shares(data))
        return Exit.FINE

    run(output, "secret-init", main)


def unseal(
    reset: Annotated[bool, typer.Option("--reset", help="Forget the shares that were given.")] = False,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="Though the database is older than it should be.")
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Give one share, asked for without echo; from a pipe, one a line until it is unsealed.  Exits 1 while sealed."""

    async def do(client: Client) -> Any:
        if reset:
            return await client.unary("Unseal", wire.UnsealRequest(reset=True))
        now = await client.unary("GetSeal", wire.GetSealRequest())
        if not now.threshold or not now.sealed:
            return await client.unary("Unseal", wire.UnsealRequest(accept_rollback=accept_rollback))
        async for share in _shares("share"):
            now = await client.unary(
                "Unseal", wire.UnsealRequest(share=share, accept_rollback=accept_rollback)
            )
            if not now.sealed or sys.stdin.isatty():
                break
        return now

    _run("secret-unseal", do, server_socket, output)


def seal(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Have this server forget all keys, so that nobody gets a secret until it is unsealed."""

    async def do(client: Client) -> Any:
        return await client.unary("Seal", wire.SealRequest())

    _run("secret-seal", do, server_socket, output, lambda _: Exit.FINE)


def rotate_keys(
    root: Annotated[
        bool, typer.Option("--root", help="A new root key, too; not for a seal with shares.")
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Encrypt with a new data key from now on; what there is is encrypted anew meanwhile."""

    async def do(client: Client) -> Any:
        return await client.unary("RotateKeys", wire.RotateKeysRequest(root=root))

    _run("secret-rotate-keys", do, server_socket, output)


def rekey(
    shares: SharesOption = 5,
    threshold: ThresholdOption = 3,
    verify: Annotated[
        bool, typer.Option("--verify", help="The new shares count once enough of them were given back.")
    ] = False,
    rotate_root: Annotated[bool, typer.Option("--rotate-root", help="With a new root key.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End a rekey that is under way.")] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Replace the seal by one of the configured kind: other shares, or another kind of seal.

    Asks for shares of the present seal without echo (from a pipe: one a line), and prints the new ones, once.
    """

    async def main() -> Exit:
        async with operator_client(server_socket) as client:
            if cancel:
                now = document(await client.unary("CancelRekey", wire.CancelRekeyRequest()))
                answer(output, "secret-rekey", now, lambda: _show(now))
                return Exit.FINE
            request = wire.RekeyRequest(
                shares=shares, threshold=threshold, verification=verify, rotate_root=rotate_root
            )
            data = await _rekeyed(client, await client.unary("Rekey", request), output)
        answer(output, "secret-rekey", data, lambda: _show_shares(data))
        return Exit.FINE if data["complete"] else Exit.FINDINGS

    run(output, "secret-rekey", main)


async def _rekeyed(client: Client, now: Any, output: Output) -> dict[str, Any]:
    new: list[str] = [each.hex() for each in now.new_shares]
    nonce, shares = now.nonce, _shares("share")
    while not now.complete:
        if now.verifying and new and output is Output.TEXT:
            _show_shares({"keys": new})
            complaints.print("give the new shares back: they count then")
        share = await anext(shares, None)
        if share is None:
            complaints.print("the rekey waits for more shares; --cancel ends it")
            break
        request = wire.GiveShareRequest(nonce=nonce, share=share, verifying=now.verifying)
        now = await client.unary("GiveShare", request)
        new = [each.hex() for each in now.new_shares] or new
    return {"complete": now.complete, "shares": now.shares, "threshold": now.threshold, "keys": new}


async def _shares(what: str) -> AsyncIterator[bytes]:
    """From the terminal without echo, or line by line."""
    if sys.stdin.isatty():
        while True:
            yield share_of(typer.prompt(what, hide_input=True, err=True))
    for line in sys.stdin:
        if line.strip():
            yield share_of(line)


def share_of(text: str) -> bytes:
    """A share as it was printed, in hexadecimal; or in base64, as other tools print it.  Raises: VST9100."""
    plain = text.strip()
    try:
        return bytes.fromhex(plain)
    except ValueError:
        pass
    try:
        return base64.b64decode(plain, validate=True)
    except (BinasciiError, ValueError):
        # What it is instead is not quoted: it may be a share with a typing error.
        raise USAGE.error("what was given is no share: it is neither hexadecimal nor base64") from None


def document(found: wire.SealStatus) -> dict[str, Any]:
    """How things are, as the envelope carries it."""
    return {
        "kind": found.kind,
        "initialised": found.initialised,
        "sealed": found.sealed,
        "automatic": found.automatic,
        "shares": found.shares or None,
        "threshold": found.threshold or None,
        "progress": found.progress,
        "data_key": found.key_id or None,
        "reencrypting": found.reencrypting,
        "generation": found.generation or None,
        "problem": found.problem or None,
        "damaged": list(found.damaged),
    }


def _run(
    schema: str,
    do: Callable[[Client], Awaitable[Any]],
    server_socket: Any,
    output: Output,
    code: Callable[[dict[str, Any]], Exit] = lambda data: Exit.FINDINGS if data["sealed"] else Exit.FINE,
) -> None:
    async def main() -> Exit:
        async with operator_client(server_socket) as client:
            data = document(await do(client))
        answer(output, schema, data, lambda: _show(data))
        return code(data)

    run(output, schema, main)


def _show(data: dict[str, Any]) -> None:
    if not data["initialised"]:
        console.print(f"[bold yellow]![/] not initialised ({data['kind']} seal)")
        return
    mark = "[bold red]✗[/] sealed" if data["sealed"] else "[bold green]✓[/] unsealed"
    plan = f", {data['threshold']} of {data['shares']} shares" if data["shares"] else ""
    console.print(f"{mark}  [dim]{data['kind']} seal{plan}[/]")
    if data["sealed"] and data["shares"]:
        console.print(f"  {data['progress']} of {data['threshold']} shares were given")
    if not data["sealed"]:
        anew = ", what older ones encrypted is being encrypted anew" if data["reencrypting"] else ""
        console.print(f"  data key {data['data_key']}{anew}, generation {data['generation']}")
    if data["damaged"]:
        console.print(f"  [red]rows were tampered with: {escape(', '.join(data['damaged']))}[/]")
    if data["problem"]:
        console.print(f"  [red]{escape(data['problem'])}[/]")


def _show_shares(data: dict[str, Any]) -> None:
    for number, each in enumerate(data["keys"], 1):
        console.print(f"share {number}: {each}")
    if data["keys"]:
        complaints.print("[dim]These are shown once. Give each to somebody else.[/]")
    else:
        console.print("[bold green]✓[/] done; this seal has no shares")
