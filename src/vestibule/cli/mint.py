"""``vestibule x509 mint`` and ``jwt mint``: an SVID from the operator's hand, without an entry and without an agent.

For what no agent can attest, and for emergencies.  The server records who had what minted.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import instant, server_calls, to_wire
from vestibule.cli.sockets import ServerSocketOption
from vestibule.cli.svid_files import PRIVATE, PUBLIC, pem, replace_file
from vestibule.net.grpc import Client
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import bundle_pb2, svid_pb2

SVID: Final = svid_pb2.DESCRIPTOR.services_by_name["SVID"]

IdOption = Annotated[str, typer.Option("--spiffe-id", help="Of whom it says to be.")]
TtlOption = Annotated[str, typer.Option("--ttl", help="For how long. [default: the server's]")]


def x509(
    spiffe_id: IdOption,
    write: Annotated[
        Path,
        typer.Option("--write", metavar="DIR", help="Where svid.pem, key.pem (mode 0600) and bundle.pem go."),
    ],
    dns: Annotated[list[str] | None, typer.Option("--dns", help="A DNS name in it; may be repeated.")] = None,
    ttl: TtlOption = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Mint an X.509-SVID.  Its key is made here, goes to a file of mode 0600, and is never printed."""

    async def main() -> Exit:
        if not write.is_dir():
            raise USAGE.error(f"{write} is not a directory", advice="Create it first, with mode 0700.")
        key = generate_key()
        csr = make_csr(key, SpiffeId.parse(spiffe_id), dns or ())
        async with server_calls(server_socket) as calls:
            request = svid_pb2.MintX509SVIDRequest(csr=csr, ttl=_seconds(ttl))
            svid = (await Client(calls.channel, SVID).unary("MintX509SVID", request)).svid
            bundle = await calls.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
        files = {
            "bundle.pem": (
                "".join(pem("CERTIFICATE", each.asn1) for each in bundle.x509_authorities),
                PUBLIC,
            ),
            "key.pem": (pem("PRIVATE KEY", key_to_pkcs8(key)), PRIVATE),
            "svid.pem": ("".join(pem("CERTIFICATE", each) for each in svid.cert_chain), PUBLIC),
        }
        for name, (text, mode) in files.items():
            replace_file(write / name, text, mode)
        written = [str(write / name) for name in files]
        data: dict[str, Any] = {
            "spiffe_id": spiffe_id,
            "expires_at": instant(svid.expires_at),
            "files": written,
        }
        answer(output, "x509-svid", data, lambda: console.print(*written, sep="\n"))
        return Exit.FINE

    run(output, "x509-svid", main)


def jwt(
    spiffe_id: IdOption,
    audience: Annotated[
        list[str], typer.Option("--audience", help="Whom it will be shown to; may be repeated.")
    ],
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="A new file of mode 0600. [default: printed]"),
    ] = None,
    ttl: TtlOption = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Mint a JWT-SVID.  It is good for whoever has it, until it ends."""

    async def main() -> Exit:
        request = svid_pb2.MintJWTSVIDRequest(
            id=to_wire(SpiffeId.parse(spiffe_id)), audience=audience, ttl=_seconds(ttl)
        )
        async with server_calls(server_socket) as calls:
            svid = (await Client(calls.channel, SVID).unary("MintJWTSVID", request)).svid
        data: dict[str, Any] = {
            "spiffe_id": spiffe_id,
            "audience": audience,
            "expires_at": instant(svid.expires_at),
        }
        if write is not None:
            replace_file(write, f"{svid.token}\n", PRIVATE)
            answer(output, "jwt-svid", data | {"file": str(write)}, lambda: console.print(str(write)))
        else:
            answer(output, "jwt-svid", data | {"token": svid.token}, lambda: typer.echo(svid.token))
        return Exit.FINE

    run(output, "jwt-svid", main)


def _seconds(ttl: str) -> int:
    return int((parse_duration(ttl) if ttl else timedelta()).total_seconds())
