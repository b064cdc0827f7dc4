"""``vestibule ca request`` and ``install``: the side of whoever will hold the intermediate's key.

That is a running server (``--server``), whose key stays where its other keys are, or a directory, whose files then
go to servers with the upstream ``disk``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.x509.oid import NameOID
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.identity.ca import codes as _codes
from vestibule.identity.ca.files import (
    Transcript,
    make_directory,
    read,
    read_public,
    refuse_existing,
    sole_user,
    write_new,
)
from vestibule.identity.ca.requests import (
    Request,
    check_name,
    make_request,
    read_answer,
    read_request,
    record_install,
)
from vestibule.keys import MemoryKeyManager
from vestibule.pki.certificates import load_certificate
from vestibule.pki.keys import generate_key, key_from_pkcs8, key_to_pkcs8
from vestibule.pki.pem import CERTIFICATE, pem_block, pem_blocks
from vestibule.spiffe import TrustDomain

_KEY: str = "PRIVATE KEY"
CODES = _codes  # so that the catalogue knows what the server answers with

ServerFlag = Annotated[
    bool, typer.Option("--server", help="Of the server that runs here, over its private socket.")
]
DirectoryOption = Annotated[
    Path | None, typer.Option("--dir", help="Or in this directory, for a server with the upstream disk.")
]


def request(
    out: Annotated[Path, typer.Option("--out", help="The file for the root; it must not exist.")],
    server: ServerFlag = False,
    directory: DirectoryOption = None,
    name: Annotated[
        str,
        typer.Option("--name", help="Such as prod-2026-Q4. [default with --server: environment and quarter]"),
    ] = "",
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", help="With --dir: such as example.org.")
    ] = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask an offline root for an intermediate: makes the key where it will be used, and the file with the request."""

    async def main() -> Exit:
        refuse_existing(out)
        if _of_server(server, directory):
            file = await _server_request(server_socket, name)
        else:
            assert directory is not None
            file = await _directory_request(directory, name, TrustDomain.parse(trust_domain))
        write_new(out, file)
        made = read_request(file)
        answer(output, "ca-request", _document(made, out), lambda: _tell(made, out))
        return Exit.FINE

    run(output, "ca-request", main)


def install(
    answered: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file that `vestibule ca sign` wrote.")
    ],
    server: ServerFlag = False,
    directory: DirectoryOption = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="With --dir: the root's certificate, from elsewhere.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take the root's answer, after checking that it is for our key, our name and our trust domain, and the root's."""

    async def main() -> Exit:
        file = read_public(answered)
        if _of_server(server, directory):
            data = await _server_install(server_socket, file)
        else:
            assert directory is not None
            data = await _directory_install(directory, file, root)
        answer(
            output,
            "ca-installation",
            data,
            lambda: console.print(f"installed [bold]{escape(data['name'])}[/] until {data['not_after']}"),
        )
        return Exit.FINE

    run(output, "ca-installation", main)


def _of_server(server: bool, directory: Path | None) -> bool:
    if server is (directory is not None):
        raise USAGE.error("say where the key is: --server, or --dir with a directory")
    return server


# --------------------------------------------------------------------------------------------- a server


async def _server_request(socket: Path | None, name: str) -> bytes:
    # Imported here: whoever holds a ceremony on a machine without a network needs none of it.
    from vestibule.wire.gen.vestibule.admin.v1 import ceremony_pb2

    status = await _asked(socket, "MakeRequest", ceremony_pb2.MakeCeremonyRequest(name=name))
    if name and status.request_name != name:
        raise USAGE.error(f"the request for {status.request_name} waits already; it has to be answered first")
    return bytes(status.request)


async def _server_install(socket: Path | None, file: bytes) -> dict[str, Any]:
    from vestibule.wire.gen.vestibule.admin.v1 import ceremony_pb2

    status = await _asked(socket, "Deliver", ceremony_pb2.DeliverRequest(answer=file))
    return {
        "name": status.name,
        "key_id": status.key_id,
        "serial": status.serial,
        "not_after": datetime.fromtimestamp(status.not_after, UTC).isoformat(),
    }


async def _asked(socket: Path | None, method: str, request: Any) -> Any:
    from vestibule.cli.server_calls import server_calls
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import ceremony_pb2

    async with server_calls(socket) as calls:
        client = Client(calls.channel, ceremony_pb2.DESCRIPTOR.services_by_name["Ceremony"])
        return await client.unary(method, request)


# ------------------------------------------------------------------------------------------ a directory


async def _directory_request(directory: Path, name: str, trust_domain: TrustDomain) -> bytes:
    check_name(name)
    make_directory(directory)
    with sole_user(directory):
        key_file, request_file = directory / f"{name}.key", directory / f"{name}.csr"
        refuse_existing(key_file, request_file, directory / f"{name}.pem")
        key, keys = generate_key(), MemoryKeyManager()
        keys.hold(name, key)
        write_new(key_file, pem_block(_KEY, key_to_pkcs8(key)))
        file = await make_request(Transcript(directory), keys, name, name, trust_domain, datetime.now(UTC))
        write_new(request_file, file)
        return file


async def _directory_install(directory: Path, file: bytes, root: Path | None) -> dict[str, Any]:
    if root is None:
        raise USAGE.error(
            "give the root's certificate with --root, as you have it from the root's own people"
        )
    with sole_user(directory):
        name = _name_in(file)
        asked = read_request(read(directory / f"{name}.csr"))
        (key,) = pem_blocks(read(directory / f"{name}.key"), _KEY)
        keys, now = MemoryKeyManager(), datetime.now(UTC)
        keys.hold(name, key_from_pkcs8(key))
        roots = pem_blocks(read_public(root), CERTIFICATE)
        taken = read_answer(file, name, asked.public_key, roots, asked.trust_domain, now, signers_below=0)
        target = directory / f"{name}.pem"
        refuse_existing(target)
        await record_install(Transcript(directory), keys, name, taken, now)
        write_new(target, file)
    return {
        "name": name,
        "key_id": asked.key_id,
        "serial": f"{taken.certificate.serial_number:x}",
        "not_after": taken.not_after.isoformat(),
        "certificate": str(target),
        "key": str(directory / f"{name}.key"),
    }


def _name_in(file: bytes) -> str:
    """Which of the directory's requests is answered; nothing is believed of it yet."""
    subject: x509.Name = load_certificate(pem_blocks(file, CERTIFICATE)[0]).subject
    names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        return check_name(names[0] if names else "")
    except VestibuleError as error:
        raise _codes.DELIVERY_REFUSED.error("the certificate names no authority") from error


def _document(made: Request, out: Path) -> dict[str, Any]:
    return {
        "name": made.name,
        "trust_domain": str(made.trust_domain),
        "key_id": made.key_id,
        "sha256": made.sha256,
        "file": str(out),
    }


def _tell(made: Request, out: Path) -> None:
    console.print(f"request for [bold]{escape(made.name)}[/] of {made.trust_domain}, in {escape(str(out))}")
    console.print(f"  key {made.key_id}")
