"""``vestibule revoke …``: the emergency plan, over the server's private socket."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.calls.unix import unix_channel
from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, run
from vestibule.cli.revoke_report import entry_document, impact_document, show_entries, show_report
from vestibule.cli.server_calls import CODES
from vestibule.cli.sockets import ServerSocketOption, find_sockets
from vestibule.net.grpc import Client
from vestibule.spiffe import Reason, SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import revocation_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["RevocationAdmin"]
KNOWN_CODES: Final = CODES
PATIENCE: Final = 60.0
_HEX_SERIAL: Final = re.compile(r"(0[xX])?[0-9a-fA-F]{1,40}")
_HEX_NAME: Final = re.compile(r"[0-9a-fA-F:]{16,191}")
_LONGEST_FILE: Final = 64 * 1024

ReasonOption = Annotated[
    Reason,
    typer.Option("--reason", help="Why, in the words of RFC 5280; it stands in CRLs and refusals."),
]
NoteOption = Annotated[
    str, typer.Option("--note", help="For people: the ticket, the incident. Only operators see it.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Change nothing: say what would be cut off, and how soon for each kind of client."
    ),
]


@asynccontextmanager
async def _client(socket: Path | None) -> AsyncIterator[Client]:
    channel = unix_channel(find_sockets(server=socket).existing_server())
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()


def identity(
    spiffe_id: Annotated[str, typer.Argument(metavar="SPIFFE-ID", help="Whose SVIDs no longer count.")],
    allow_new: Annotated[
        bool,
        typer.Option(
            "--allow-new", help="Only what was issued until now: new SVIDs are fine, and agents fetch them."
        ),
    ] = False,
    reason: ReasonOption = Reason.UNSPECIFIED,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke everything that proves an identity; nothing new is issued to it until that is lifted."""

    async def main() -> Exit:
        request = _request(reason, note, dry_run)
        request.identity, request.allow_new = str(SpiffeId.parse(spiffe_id)), allow_new
        return await _revoke(server_socket, output, request)

    run(output, "revocation", main)


def certificate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SERIAL|FILE",
            help="A serial number (decimal, or hex with 0x or colons), or the certificate as PEM.",
        ),
    ],
    authority: Annotated[
        str,
        typer.Option("--authority", help="ID of the authority that signed it, for a serial not on record."),
    ] = "",
    reason: ReasonOption = Reason.UNSPECIFIED,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke one certificate; whoever has the identity gets another one."""

    async def main() -> Exit:
        request = _request(reason, note, dry_run)
        if (serial := serial_of(name)) is not None:
            request.certificate.serial, request.certificate.authority_id = str(serial), authority
        else:
            request.certificate.der = certificate_in(Path(name))
        return await _revoke(server_socket, output, request)

    run(output, "revocation", main)


def agent(
    spiffe_id: Annotated[str, typer.Argument(metavar="SPIFFE-ID", help="The agent.")],
    reason: ReasonOption = Reason.UNSPECIFIED,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Ban an agent, and revoke its own SVIDs and everything that was issued through it."""

    async def main() -> Exit:
        request = _request(reason, note, dry_run)
        request.agent = str(SpiffeId.parse(spiffe_id))
        return await _revoke(server_socket, output, request)

    run(output, "revocation", main)


def authority(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID|FILE",
            help="ID of an authority of this server (X.509 or JWT), SHA-256 of a CA certificate in hex, or the "
            "certificate as PEM.",
        ),
    ],
    grace: Annotated[
        str, typer.Option("--grace", help="How long agents have to replace what it signed; 0s: nobody waits.")
    ] = "15s",
    reason: ReasonOption = Reason.UNSPECIFIED,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke an authority and everything below it; issuing moves to another one first."""

    async def main() -> Exit:
        request = _request(reason, note, dry_run)
        request.grace_seconds = int(parse_duration(grace).total_seconds())
        if _HEX_NAME.fullmatch(name):
            request.authority.id = name.replace(":", "").lower()
        else:
            request.authority.der = certificate_in(Path(name))
        return await _revoke(server_socket, output, request)

    run(output, "revocation", main)


def list_revocations(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """List what is revoked."""

    async def main() -> Exit:
        data = [entry_document(each) for each in await _all(server_socket)]
        answer(output, "revocations", data, lambda: show_entries(data))
        return Exit.FINE

    run(output, "revocations", main)


def show(
    name: Annotated[
        str, typer.Argument(metavar="TEXT", help="Part of what is revoked: an ID, a serial, a path.")
    ],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the revocations whose name contains a text; exit code 1 if there is none."""

    async def main() -> Exit:
        found = [each for each in await _all(server_socket) if name in each.id]
        data = [entry_document(each) for each in found]
        answer(output, "revocations", data, lambda: show_entries(data))
        return Exit.FINE if data else Exit.FINDINGS

    run(output, "revocations", main)


def lift(
    spiffe_id: Annotated[str, typer.Argument(metavar="SPIFFE-ID", help="A revoked identity.")],
    note: NoteOption = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let a revoked identity have new SVIDs; what it was issued before stays revoked."""

    async def main() -> Exit:
        request = wire.LiftRequest(identity=str(SpiffeId.parse(spiffe_id)), note=note)
        async with _client(server_socket) as client:
            data = entry_document((await client.unary("Lift", request)).revocation)
        answer(output, "revocation", data, lambda: show_entries([data]))
        return Exit.FINE

    run(output, "revocation", main)


def crl(
    authority_id: Annotated[
        str, typer.Argument(metavar="[AUTHORITY-ID]", help="By default the authority that signs now.")
    ] = "",
    der: Annotated[bool, typer.Option("--der", help="DER instead of PEM; redirect it to a file.")] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the newest certificate revocation list (RFC 5280) of an authority."""

    async def main() -> Exit:
        async with _client(server_socket) as client:
            found = await client.unary("GetCrl", wire.GetCrlRequest(authority_id=authority_id))
        pem = x509.load_der_x509_crl(found.der).public_bytes(Encoding.PEM).decode()
        data = {
            "authority_id": found.authority_id,
            "number": found.number,
            "this_update": found.this_update,
            "next_update": found.next_update,
            "revoked": found.revoked,
            "pem": pem,
        }
        shown: bytes | str = found.der if der else pem
        answer(output, "crl", data, lambda: typer.echo(shown, nl=False))
        return Exit.FINE

    run(output, "crl", main)


def _request(reason: Reason, note: str, dry_run: bool) -> Any:
    return wire.RevokeRequest(reason=reason.value, note=note, dry_run=dry_run)


async def _revoke(socket: Path | None, output: Output, request: Any) -> Exit:
    patience = PATIENCE + 3 * request.grace_seconds
    async with _client(socket) as client:
        response = await client.unary("Revoke", request, timeout=patience)
    data = {
        "dry_run": request.dry_run,
        "version": response.version or None,
        "revocations": [entry_document(each) for each in response.revocations],
        "impact": impact_document(response.impact),
    }
    answer(output, "revocation", data, lambda: show_report(data))
    return Exit.FINE


async def _all(socket: Path | None) -> list[Any]:
    found: list[Any] = []
    since = 0
    async with _client(socket) as client:
        while True:
            page = await client.unary("List", wire.ListRevocationsRequest(since=since))
            found += page.revocations
            if not page.next_since:
                return found
            since = page.next_since


def serial_of(text: str) -> int | None:
    """A serial number as people have it: decimal, or hexadecimal with ``0x``, colons or letters.

    ``None`` for what is none, and then is the name of a file.
    """
    plain = text.replace(":", "")
    if plain.isascii() and plain.isdecimal() and plain == text:
        return int(plain)
    if not _HEX_SERIAL.fullmatch(plain):
        return None
    return int(plain, 16)


def certificate_in(path: Path) -> bytes:
    """The first certificate of a PEM file, or the one of a DER file.  Raises: VST9100."""
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE)
    except OSError as error:
        raise USAGE.error(
            f"{str(path)!r} is neither a serial number or ID nor a file that can be read: {error.strerror}",
            advice="Give a serial number, the ID of an authority, or the path of a certificate.",
        ) from error
    try:
        parsed = (
            x509.load_pem_x509_certificate(data)
            if b"-----BEGIN" in data
            else x509.load_der_x509_certificate(data)
        )
    except ValueError as error:
        raise USAGE.error(f"{path} holds no certificate", advice="Give a PEM or DER certificate.") from error
    return parsed.public_bytes(Encoding.DER)
