"""``vestibule secret backup`` and ``restore``: one encrypted file."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.secret_calls import operator_client
from vestibule.cli.secret_seal import share_of
from vestibule.cli.sockets import ServerSocketOption
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire

_PIECE: Final = 256 * 1024
_PATIENCE: Final = 3600.0

FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="The first line of a file is the passphrase; - is standard input."
    ),
]


def backup(
    file: FileArgument,
    passphrase_file: PassphraseOption = None,
    recipient: Annotated[
        str | None,
        typer.Option("--recipient", metavar="HEX", help="For the holder of an X25519 key: its public half."),
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write all secrets into a new file, encrypted: for a passphrase, for a key, or for whoever can unseal.

    What is inside needs the seal as well, whoever can open the file.  Exits 1 if rows were missing.
    """

    async def main() -> Exit:
        request = wire.BackupRequest(
            passphrase=_passphrase(passphrase_file), recipient=_hex(recipient) if recipient else b""
        )
        findings: list[str] = []
        partial = file.with_name(f"{file.name}.partial")
        size = 0
        try:
            partial.unlink(missing_ok=True)  # one that somebody else has made would be theirs to read
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as written:
                async for part in _parts(request, server_socket):
                    size += written.write(part.piece)
                    findings += part.findings
                written.flush()
                os.fsync(written.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        data = {"file": str(file), "bytes": size, "findings": findings}
        answer(output, "secret-backup", data, lambda: _show_backup(data))
        return Exit.FINDINGS if findings else Exit.FINE

    run(output, "secret-backup", main)


def restore(
    file: FileArgument,
    passphrase_file: PassphraseOption = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="An X25519 private key, 32 bytes in hexadecimal.")
    ] = None,
    shares_file: Annotated[
        Path | None,
        typer.Option("--shares-file", help="Shares of the seal in the backup, one a line; - is stdin."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Though there are secrets in the database.")
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Put a backup in place of what there is.  The secret manager is sealed after that, by the seal of the backup."""

    async def main() -> Exit:
        shares = _lines(shares_file) if shares_file else []
        options = wire.RestoreOptions(
            passphrase=_passphrase(passphrase_file),
            private_key=_hex(_lines(key_file)[0]) if key_file else b"",
            shares=[share_of(each) for each in shares],
            overwrite=overwrite,
        )
        restored = await _restored(file, options, server_socket)
        data = {"created_at": restored.created_at, "generation": restored.generation}
        answer(output, "secret-restore", data, lambda: _show_restored(data))
        return Exit.FINE

    run(output, "secret-restore", main)


async def _parts(request: wire.BackupRequest, server_socket: Path | None) -> AsyncIterator[wire.BackupPiece]:
    async with operator_client(server_socket) as client, client.stream("Backup", timeout=_PATIENCE) as stream:
        await stream.send_message(request, end=True)
        async for part in stream:
            yield part


async def _restored(file: Path, options: wire.RestoreOptions, server_socket: Path | None) -> Any:
    async with (
        operator_client(server_socket) as client,
        client.stream("Restore", timeout=_PATIENCE) as stream,
    ):
        await stream.send_message(wire.RestorePiece(options=options))
        for piece in _pieces(file):
            await stream.send_message(wire.RestorePiece(piece=piece))
        await stream.end()
        return await stream.recv_message()


def _pieces(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                yield piece
    except OSError as error:
        raise USAGE.error(f"{file} cannot be read: {error.strerror}") from error


def _passphrase(file: Path | None) -> str:
    return _lines(file)[0] if file is not None else ""


def _lines(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise USAGE.error(f"{file} cannot be read as text") from error
    if not (lines := [each for each in text.splitlines() if each.strip()]):
        raise USAGE.error(f"{file} is empty")
    return lines


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        raise USAGE.error("a key is 32 bytes in hexadecimal") from None


def _show_backup(data: dict[str, Any]) -> None:
    console.print(f"[bold green]✓[/] {escape(data['file'])}: {data['bytes']} bytes")
    for each in data["findings"]:
        console.print(f"  [bold red]✗[/] {escape(each)}: rows are missing, or not the newest")


def _show_restored(data: dict[str, Any]) -> None:
    console.print(f"[bold green]✓[/] restored what was there at {data['created_at']}; unseal it now")
