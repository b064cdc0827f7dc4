"""``vestibule bundle``: what the trust domain trusts: its own authorities, and those of others."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.cli.bundle_files import (
    FileFormat,
    from_message,
    parse_bundle,
    read_file,
    to_message,
)
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import PAGE, check, every_page, server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_bundle_map, sha256_fingerprint, to_bundle_map, to_jwks, to_pem
from vestibule.records import BundleDeletion
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.wire.gen.spire import bundle_pb2

_MODES: Final = {
    BundleDeletion.RESTRICT: bundle_pb2.BatchDeleteFederatedBundleRequest.RESTRICT,
    BundleDeletion.DISSOCIATE: bundle_pb2.BatchDeleteFederatedBundleRequest.DISSOCIATE,
    BundleDeletion.DELETE: bundle_pb2.BatchDeleteFederatedBundleRequest.DELETE,
}


class BundleFormat(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How a bundle is printed."""

    PEM = "pem"
    SPIFFE = "spiffe"
    SHA256 = "sha256"


class DeletionMode(str, Enum):  # noqa: UP042 - as above
    """What becomes of entries that federate with the trust domain."""

    RESTRICT = "restrict"
    DISSOCIATE = "dissociate"
    DELETE = "delete"


FormatOption = Annotated[
    BundleFormat, typer.Option("--format", help="PEM, the SPIFFE document, or its hash.")
]


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
        bundle = from_message(message)
        answer(output, "bundle", document(bundle), lambda: typer.echo(_text(bundle, form), nl=False))
        return Exit.FINE

    run(output, "bundle", main)


def list_bundles(
    trust_domain: Annotated[str | None, typer.Argument(metavar="[TRUST-DOMAIN]")] = None,
    form: FormatOption = BundleFormat.PEM,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the bundles of other trust domains, or of one; all of them as a SPIFFE bundle map, if asked for."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            if trust_domain is not None:
                request = bundle_pb2.GetFederatedBundleRequest(trust_domain=trust_domain)
                messages = [await calls.bundles.unary("GetFederatedBundle", request)]
            else:
                messages = await every_page(
                    lambda token: calls.bundles.unary(
                        "ListFederatedBundles",
                        bundle_pb2.ListFederatedBundlesRequest(page_size=PAGE, page_token=token),
                    ),
                    lambda page: page.bundles,
                )
        bundles = [from_message(message) for message in messages]
        data = [document(bundle) for bundle in bundles]
        text = _text(bundles[0], form) if trust_domain is not None else _texts(bundles, form)
        answer(output, "bundles", data, lambda: typer.echo(text, nl=False))
        return Exit.FINE

    run(output, "bundles", main)


def set_bundle(
    trust_domain: Annotated[str | None, typer.Argument(metavar="[TRUST-DOMAIN]")] = None,
    path: Annotated[Path, typer.Option("--path", help="The bundle; - reads standard input.")] = Path("-"),
    form: Annotated[
        FileFormat | None, typer.Option("--format", help="Of the bundle. [default: found out]")
    ] = None,
    bundle_map: Annotated[
        Path | None, typer.Option("--map", help="Instead: a SPIFFE bundle map, with all that is in it.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Keep another trust domain's bundle, new or in the place of the one before."""

    async def main() -> Exit:
        bundles = _given(trust_domain, path, form, bundle_map)
        request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[to_message(each) for each in bundles])
        async with server_calls(server_socket) as calls:
            results = (await calls.bundles.unary("BatchSetFederatedBundle", request)).results
        kept, errors = [], []
        for bundle, result in zip(bundles, results, strict=True):
            try:
                check(result.status)
                kept.append(from_message(result.bundle))
            except VestibuleError as error:
                errors.append(VestibuleError(error.code, f"{bundle.trust_domain}: {error.message}"))
        data = [document(each) for each in kept]
        answer(output, "bundles-set", data, lambda: _told(kept), errors=errors)
        return Exit.REFUSED if errors else Exit.FINE

    run(output, "bundles-set", main)


def delete(
    trust_domains: Annotated[list[str], typer.Argument(metavar="TRUST-DOMAIN")],
    mode: Annotated[
        DeletionMode,
        typer.Option(
            "--mode", help="With entries that federate with it: refuse, take it out of them, delete them."
        ),
    ] = DeletionMode.RESTRICT,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete bundles of other trust domains: from now on, nobody of them is believed."""

    async def main() -> Exit:
        request = bundle_pb2.BatchDeleteFederatedBundleRequest(
            trust_domains=trust_domains, mode=_MODES[BundleDeletion(mode.value)]
        )
        async with server_calls(server_socket) as calls:
            results = (await calls.bundles.unary("BatchDeleteFederatedBundle", request)).results
        deleted, errors = outcomes(results)
        answer(
            output,
            "bundles-deleted",
            {"deleted": deleted},
            lambda: console.print(f"Deleted {len(deleted)} of {len(results)}"),
            errors=errors,
        )
        return Exit.REFUSED if errors else Exit.FINE

    run(output, "bundles-deleted", main)


def count(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Count the bundles, the trust domain's own among them."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            number = (await calls.bundles.unary("CountBundles", bundle_pb2.CountBundlesRequest())).count
        answer(output, "bundle-count", {"count": number}, lambda: console.print(str(number)))
        return Exit.FINE

    run(output, "bundle-count", main)


def outcomes(results: Any) -> tuple[list[str], list[VestibuleError]]:
    """Of a batch by trust domain: those that went well, and the errors of the others."""
    fine, errors = [], []
    for result in results:
        try:
            check(result.status)
            fine.append(result.trust_domain)
        except VestibuleError as error:
            errors.append(VestibuleError(error.code, f"{result.trust_domain}: {error.message}"))
    return fine, errors


def document(bundle: TrustBundle) -> dict[str, Any]:
    """A bundle as the envelope carries it."""
    return {
        "trust_domain": str(bundle.trust_domain),
        "sha256": sha256_fingerprint(bundle),
        "pem": to_pem(bundle).decode(),
        "spiffe": json.loads(to_jwks(bundle)),
    }


def _given(
    trust_domain: str | None, path: Path, form: FileFormat | None, bundle_map: Path | None
) -> list[TrustBundle]:
    if (trust_domain is None) == (bundle_map is None):
        raise USAGE.error("give a trust domain with its bundle, or a bundle map (--map)")
    if bundle_map is not None:
        return list(from_bundle_map(read_file(bundle_map)).values())
    assert trust_domain is not None
    return [parse_bundle(TrustDomain.parse(trust_domain), read_file(path), form)]


def _told(bundles: list[TrustBundle]) -> None:
    for bundle in bundles:
        authorities = len(bundle.x509_authorities)
        noun = "authority" if authorities == 1 else "authorities"
        console.print(f"bundle of {bundle.trust_domain} set: {authorities} {noun}")


def _texts(bundles: list[TrustBundle], form: BundleFormat) -> str:
    if form is BundleFormat.SPIFFE:
        return json.dumps(json.loads(to_bundle_map(bundles)), indent=2) + "\n"
    if form is BundleFormat.SHA256:
        return "".join(f"{sha256_fingerprint(each)} {each.trust_domain}\n" for each in bundles)
    # SPIRE's heading, which scripts look for.
    line = "*" * 40
    return "\n".join(f"{line}\n* {each.trust_domain.id}\n{line}\n{_text(each, form)}" for each in bundles)


def _text(bundle: TrustBundle, form: BundleFormat) -> str:
    if form is BundleFormat.PEM:
        return to_pem(bundle).decode()
    if form is BundleFormat.SHA256:
        return sha256_fingerprint(bundle) + "\n"
    return json.dumps(json.loads(to_jwks(bundle)), indent=2) + "\n"
