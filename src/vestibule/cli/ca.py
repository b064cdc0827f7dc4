"""``vestibule ca``: the offline root and what it signs.  No network, no server: a directory, and a transcript."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.serialization import Encoding
from rich.markup import escape

from vestibule.cli.ca_keys import (
    KeySource,
    ModuleOption,
    PassphraseFdOption,
    PassphraseFileOption,
    PinFdOption,
    PinFileOption,
    RootKeys,
    TokenOption,
)
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.identity.ca.files import make_directory, read_public, refuse_existing, sole_user, write_new
from vestibule.identity.ca.register import Issued, Policy, Register
from vestibule.identity.ca.requests import check_name, read_request
from vestibule.identity.ca.root import CERTIFICATE_FILE, Root
from vestibule.pki.crls import REASONS
from vestibule.pki.profiles import authority_id
from vestibule.spiffe import TrustDomain

DirectoryOption = Annotated[Path, typer.Option("--dir", help="The root's directory.")]
OutOption = Annotated[Path, typer.Option("--out", help="The file to write; it must not exist.")]


def init(
    name: Annotated[
        str, typer.Option("--name", help="What people call the root, such as example-root-2026.")
    ],
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Such as example.org.")],
    directory: DirectoryOption,
    lifetime: Annotated[str, typer.Option("--lifetime", help="Of the root.")] = "3650d",
    max_lifetime: Annotated[
        str, typer.Option("--max-intermediate-lifetime", help="The longest that the root will sign.")
    ] = "100d",
    max_path_length: Annotated[
        int, typer.Option("--max-path-length", min=0, max=4, help="Signers below an intermediate, at most.")
    ] = 1,
    keys: Annotated[RootKeys, typer.Option("--keys", help="Where the key is kept.")] = RootKeys.FILE,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    pkcs11_module: ModuleOption = None,
    pkcs11_token: TokenOption = None,
    pkcs11_pin_file: PinFileOption = None,
    pkcs11_pin_fd: PinFdOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an offline root: its key, under a passphrase or in a token, its certificate, and its transcript."""
    source = KeySource(
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        module=pkcs11_module,
        token=pkcs11_token,
        pin_file=pkcs11_pin_file,
        pin_fd=pkcs11_pin_fd,
    )

    async def main() -> Exit:
        policy = Policy(max_lifetime=parse_duration(max_lifetime), max_path_length=max_path_length)
        domain, ttl, root = TrustDomain.parse(trust_domain), parse_duration(lifetime), Root(directory)
        check_name(name)
        make_directory(directory)
        with sole_user(directory):
            root.refuse_existing()
            manager, where = await source.made(keys, root, name)
            await root.init(name, domain, manager, where, policy, ttl, datetime.now(UTC))
        answer(output, "ca", _document(directory, root.register(), root), lambda: _show(directory, root))
        return Exit.FINE

    run(output, "ca", main)


def sign(
    request: Annotated[Path, typer.Argument(help="The file that `vestibule ca request` wrote.")],
    directory: DirectoryOption,
    out: OutOption,
    lifetime: Annotated[
        str | None, typer.Option("--lifetime", help="Such as 95d. [default: the policy's longest]")
    ] = None,
    path_length: Annotated[
        int,
        typer.Option("--path-length", min=0, help="Signers below it: 1 for a server's own, 0 for none."),
    ] = 1,
    expect_key: Annotated[
        str, typer.Option("--expect-key", metavar="HEX", help="The key's ID as it was read out aloud.")
    ] = "",
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    pkcs11_module: ModuleOption = None,
    pkcs11_token: TokenOption = None,
    pkcs11_pin_file: PinFileOption = None,
    pkcs11_pin_fd: PinFdOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Sign a request for an intermediate, after checking all of it against the root's policy."""
    source = KeySource(
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        module=pkcs11_module,
        token=pkcs11_token,
        pin_file=pkcs11_pin_file,
        pin_fd=pkcs11_pin_fd,
    )

    async def main() -> Exit:
        ttl = None if lifetime is None else parse_duration(lifetime)
        asked, root, now = read_request(read_public(request)), Root(directory), datetime.now(UTC)
        refuse_existing(out)
        with sole_user(directory):
            root.check(asked, ttl, path_length, now, expect_key)  # before anybody types a passphrase
            keys = source.opened(root)
            issued, written = await root.sign(
                asked, keys, now, ttl=ttl, path_length=path_length, expected_key=expect_key
            )
        write_new(out, written)
        answer(output, "ca-certificate", _issued(issued) | {"file": str(out)}, lambda: _tell(issued, out))
        return Exit.FINE

    run(output, "ca-certificate", main)


def show(directory: DirectoryOption, output: OutputOption = Output.TEXT) -> None:
    """Show the root and what it has signed; its transcript is checked from the first step."""

    async def main() -> Exit:
        root = Root(directory)
        answer(output, "ca", _document(directory, root.register(), root), lambda: _show(directory, root))
        return Exit.FINE

    run(output, "ca", main)


def revoke(
    intermediate: Annotated[str, typer.Argument(metavar="NAME|SERIAL", help="As `ca show` lists it.")],
    directory: DirectoryOption,
    reason: Annotated[
        str, typer.Option("--reason", help=f"One of {', '.join(sorted(REASONS))}.")
    ] = "unspecified",
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    pkcs11_module: ModuleOption = None,
    pkcs11_token: TokenOption = None,
    pkcs11_pin_file: PinFileOption = None,
    pkcs11_pin_fd: PinFdOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take an intermediate back, for good.  Others learn of it by the list that `ca crl` makes next."""
    source = KeySource(
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        module=pkcs11_module,
        token=pkcs11_token,
        pin_file=pkcs11_pin_file,
        pin_fd=pkcs11_pin_fd,
    )

    async def main() -> Exit:
        root = Root(directory)
        with sole_user(directory):
            root.register().find(intermediate)
            revoked = await root.revoke(intermediate, reason, source.opened(root), datetime.now(UTC))
        answer(output, "ca-certificate", _issued(revoked), lambda: _tell_revoked(revoked))
        return Exit.FINE

    run(output, "ca-certificate", main)


def crl(
    directory: DirectoryOption,
    out: OutOption,
    valid_for: Annotated[
        str, typer.Option("--valid-for", help="Until when the next list is promised.")
    ] = "100d",
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    pkcs11_module: ModuleOption = None,
    pkcs11_token: TokenOption = None,
    pkcs11_pin_file: PinFileOption = None,
    pkcs11_pin_fd: PinFdOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make the root's next certificate revocation list."""
    source = KeySource(
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        module=pkcs11_module,
        token=pkcs11_token,
        pin_file=pkcs11_pin_file,
        pin_fd=pkcs11_pin_fd,
    )

    async def main() -> Exit:
        root, promised = Root(directory), parse_duration(valid_for)
        refuse_existing(out)
        with sole_user(directory):
            number, pem = await root.crl(source.opened(root), datetime.now(UTC), promised)
        write_new(out, pem)
        revoked = [f"{each.serial:x}" for each in root.register().revoked]
        data = {"file": str(out), "number": number, "revoked": revoked}
        count = f"{len(revoked)} revoked intermediate{'' if len(revoked) == 1 else 's'}"
        answer(
            output, "ca-crl", data, lambda: console.print(f"list {number}: {count}, in {escape(str(out))}")
        )
        return Exit.FINE

    run(output, "ca-crl", main)


def _document(directory: Path, register: Register, root: Root) -> dict[str, Any]:
    certificate = root.certificate()
    return {
        "directory": str(directory),
        "name": register.name,
        "trust_domain": str(register.trust_domain),
        "keys": register.keys,
        "key_id": authority_id(certificate.public_key()),  # type: ignore[arg-type]  # a signer's
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "max_intermediate_seconds": int(register.policy.max_lifetime.total_seconds()),
        "max_path_length": register.policy.max_path_length,
        "crl_number": register.crl_number,
        "steps": len(register.steps),
        "last_hash": register.steps[-1].step.hash,
        "certificate": certificate.public_bytes(Encoding.PEM).decode(),
        "intermediates": [_issued(each) for each in register.issued],
    }


def _issued(issued: Issued) -> dict[str, Any]:
    revoked = issued.revoked
    return {
        "name": issued.name,
        "serial": f"{issued.serial:x}",
        "key_id": issued.key_id,
        "sha256": issued.sha256,
        "not_before": issued.not_before.isoformat(),
        "not_after": issued.not_after.isoformat(),
        "path_length": issued.path_length,
        "revoked": None if revoked is None else {"at": revoked.at.isoformat(), "reason": revoked.reason},
    }


def _show(directory: Path, root: Root) -> None:
    register, certificate = root.register(), root.certificate()
    where = "an encrypted file" if register.keys == "file" else register.keys
    console.print(
        f"[bold]{escape(register.name)}[/], root of {register.trust_domain}, key in {escape(where)}"
    )
    console.print(f"  key {authority_id(certificate.public_key())}")  # type: ignore[arg-type]  # a signer's
    console.print(
        f"  until {certificate.not_valid_after_utc.date()}; signs for at most {register.policy.max_lifetime.days} days"
    )
    console.print(f"  certificate {escape(str(directory / CERTIFICATE_FILE))}")
    for each in _by_end(register.issued):
        state = "" if each.revoked is None else f", revoked {each.revoked.at.date()} ({each.revoked.reason})"
        console.print(f"  {escape(each.name)} until {each.not_after.date()}, serial {each.serial:x}{state}")
    console.print(f"  transcript: {len(register.steps)} steps, last hash {register.steps[-1].step.hash}")


def _by_end(issued: Sequence[Issued]) -> list[Issued]:
    return sorted(issued, key=lambda each: each.not_after)


def _tell(issued: Issued, out: Path) -> None:
    console.print(
        f"signed [bold]{escape(issued.name)}[/] until {issued.not_after.date()}, in {escape(str(out))}"
    )
    console.print(f"  key {issued.key_id}, serial {issued.serial:x}")


def _tell_revoked(issued: Issued) -> None:
    console.print(f"revoked [bold]{escape(issued.name)}[/], serial {issued.serial:x}")
    console.print("  nobody knows yet: make and publish the root's list with `vestibule ca crl`")
