"""Options of the commands that write SVIDs into files, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.sockets import find_sockets
from vestibule.cli.svid_files import parse_mode, read_password
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.sdk.files.reload import OnFailure, Reload, read_command


@dataclass(frozen=True)
class FileOptions:
    """Which files."""

    cert: Annotated[str, typer.Option("--cert", metavar="NAME", help="The file of the certificates.")] = ""
    key: Annotated[str, typer.Option("--key", metavar="NAME", help="The file of the private key.")] = ""
    bundle: Annotated[str, typer.Option("--bundle", metavar="NAME", help="The file of the trust bundle.")] = (
        ""
    )
    combined: Annotated[
        str, typer.Option("--combined", metavar="NAME", help="One file of key and certificates.")
    ] = ""
    pkcs12: Annotated[
        str, typer.Option("--pkcs12", metavar="NAME", help="A PKCS #12 keystore, with --password-file.")
    ] = ""
    pkcs12_trust: Annotated[
        str, typer.Option("--pkcs12-trust", metavar="NAME", help="A PKCS #12 truststore for Java.")
    ] = ""
    jks: Annotated[str, typer.Option("--jks", metavar="NAME", help="A Java keystore (JKS).")] = ""
    jks_trust: Annotated[
        str, typer.Option("--jks-trust", metavar="NAME", help="A Java truststore (JKS).")
    ] = ""
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Where the password of keystores stands."),
    ] = None
    jwt: Annotated[
        list[str] | None,
        typer.Option(
            "--jwt",
            metavar="AUDIENCE=NAME",
            help="A file of a JWT-SVID; may be repeated, with one NAME for a token of several audiences.",
        ),
    ] = None
    jwt_bundle: Annotated[
        str, typer.Option("--jwt-bundle", metavar="NAME", help="The keys that verify JWT-SVIDs (JWKS).")
    ] = ""
    hint: Annotated[str, typer.Option("--hint", help="Only the identity with this hint.")] = ""
    include_federated: Annotated[
        bool, typer.Option("--include-federated", help="Bundles hold those of federated trust domains, too.")
    ] = False
    chain_in_bundle: Annotated[
        bool,
        typer.Option(
            "--chain-in-bundle", help="Intermediates stand in the bundle, not beside the certificate."
        ),
    ] = False
    omit_expired: Annotated[
        bool, typer.Option("--omit-expired", help="Leave authorities out that have ended.")
    ] = False
    cert_mode: Annotated[str, typer.Option("--cert-mode", help="Of certificates and bundles.")] = "0644"
    key_mode: Annotated[str, typer.Option("--key-mode", help="Of private keys, keystores, tokens.")] = "0600"

    def layout(self) -> Layout:
        """Raises: VST9100, VST2453, VST2456."""
        layout = Layout(
            certificate=self.cert,
            key=self.key,
            bundle=self.bundle,
            combined=self.combined,
            pkcs12=self.pkcs12,
            pkcs12_trust=self.pkcs12_trust,
            jks=self.jks,
            jks_trust=self.jks_trust,
            password=read_password(self.password_file) if self.password_file else "",
            hint=self.hint,
            certificate_mode=parse_mode(self.cert_mode),
            key_mode=parse_mode(self.key_mode),
            federated=self.include_federated,
            chain_in_bundle=self.chain_in_bundle,
            omit_expired=self.omit_expired,
            jwts=_jwts(self.jwt or ()),
            jwt_mode=parse_mode(self.key_mode),
            jwt_bundle=self.jwt_bundle,
            jwt_bundle_mode=parse_mode(self.cert_mode),
        )
        layout.check()
        return layout


class Failure(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """``OnFailure``, as an option."""

    RETRY = "retry"
    CONTINUE = "continue"
    EXIT = "exit"


@dataclass(frozen=True)
class ReloadOptions:
    """Who is told, and how."""

    renew_signal: Annotated[
        str,
        typer.Option("--renew-signal", metavar="SIGHUP", help="Sent after each renewal, with --pid-file."),
    ] = ""
    pid_file: Annotated[
        Path | None, typer.Option("--pid-file", help="Whom to send it to; read each time.")
    ] = None
    renew_command: Annotated[
        str, typer.Option("--renew-command", help="Run after each renewal; words, no shell.")
    ] = ""
    renew_url: Annotated[
        str, typer.Option("--renew-url", metavar="URL", help="Gets a POST after each renewal, answers 2xx.")
    ] = ""
    renew_timeout: Annotated[
        str, typer.Option("--renew-timeout", help="How long a command or an answer may take.")
    ] = "60s"
    on_renew_failure: Annotated[
        Failure, typer.Option("--on-renew-failure", help="With --follow, when a reader cannot be told.")
    ] = Failure.RETRY

    def reload(self) -> Reload:
        """Raises: VST9100, VST2456."""
        reload = Reload(
            signal_name=self.renew_signal,
            pid_file=self.pid_file,
            command=read_command(self.renew_command),
            url=self.renew_url,
            patience=parse_duration(self.renew_timeout).total_seconds(),
            on_failure=OnFailure(self.on_renew_failure.value),
        )
        reload.check()
        return reload


def endpoint_of(agent_socket: Path | None, *, must_exist: bool) -> Endpoint:
    """Where the Workload API is, by the order of search of all commands.  Raises: VST9102, VST2401, VST2310."""
    if agent_socket is not None and str(agent_socket).startswith("tcp:"):
        return Endpoint.parse("tcp://" + str(agent_socket).removeprefix("tcp:").lstrip("/"))
    sockets = find_sockets(agent=agent_socket)
    path = sockets.existing_agent() if must_exist else sockets.agent
    return Endpoint(path=str(path.absolute()))


def _jwts(given: list[str] | tuple[str, ...]) -> tuple[JwtFile, ...]:
    audiences: dict[str, list[str]] = {}
    for each in given:
        audience, sign, name = each.rpartition("=")
        if not (audience and sign and name):
            raise USAGE.error(f"{each!r} is not AUDIENCE=NAME", advice="Such as --jwt vault=vault.token.")
        audiences.setdefault(name, []).append(audience)
    return tuple(JwtFile(name=name, audience=tuple(wanted)) for name, wanted in audiences.items())


@contextmanager
def warnings_shown() -> Iterator[None]:
    """What is logged of the agent and the files goes to standard error, in the form of complaints."""
    import logging

    from vestibule.cli.output import complaints, sentence

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sentence(complaints, "[bold yellow]![/]", record.getMessage().replace("[", "\\["))

    handler, logger = Shown(logging.WARNING), logging.getLogger("vestibule")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
