"""``vestibule bundle``: what the trust domain trusts."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from vestibule.cli.output import Exit, Output, OutputOption, answer, run
from vestibule.cli.server_calls import server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.pki.bundles import sha256_fingerprint, to_jwks, to_pem
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import bundle_pb2


class BundleFormat(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How a bundle is printed."""

    PEM = "pem"
    SPIFFE = "spiffe"
    SHA256 = "sha256"


def show(
    form: Annotated[
        BundleFormat,
        typer.Option("--format", help="PEM, the SPIFFE document, or the hash that an agent's flag takes."),
    ] = BundleFormat.PEM,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the trust domain's bundle."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            message = await calls.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
        bundle = TrustBundle(
            trust_domain=TrustDomain.parse(message.trust_domain),
            x509_authorities=tuple(each.asn1 for each in message.x509_authorities),
            sequence=message.sequence_number,
            refresh_hint=message.refresh_hint,
            jwt_authorities=tuple(
                JwtAuthority(key_id=each.key_id, public_key=each.public_key)
                for each in message.jwt_authorities
            ),
        )
        data = {
            "trust_domain": str(bundle.trust_domain),
            "sha256": sha256_fingerprint(bundle),
            "pem": to_pem(bundle).decode(),
            "spiffe": json.loads(to_jwks(bundle)),
        }
        answer(output, "bundle", data, lambda: typer.echo(_text(bundle, form), nl=False))
        return Exit.FINE

    run(output, "bundle", main)


def _text(bundle: TrustBundle, form: BundleFormat) -> str:
    if form is BundleFormat.PEM:
        return to_pem(bundle).decode()
    if form is BundleFormat.SHA256:
        return sha256_fingerprint(bundle) + "\n"
    return json.dumps(json.loads(to_jwks(bundle)), indent=2) + "\n"
