"""``vestibule authz run``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.app.codes import INVALID_SETTING
from vestibule.cli.output import Exit, Output, OutputOption, answer, console
from vestibule.cli.output import run as run_command
from vestibule.processes.hardening import keep_memory_private
from vestibule.records import Address
from vestibule.spiffe import SpiffeId
from vestibule.telemetry.logs import LogFormat, set_up_logs

READY: Final = "authz ready:"


def run(
    intent: Annotated[
        Path | None, typer.Option("--intent", metavar="DIR", help="The intent's directory.")
    ] = None,
    git: Annotated[str, typer.Option("--git", metavar="URL", help="Or the repository that it is in.")] = "",
    ref: Annotated[str, typer.Option("--ref", help="Branch, tag or commit of the repository.")] = "main",
    folder: Annotated[str, typer.Option("--folder", help="Where in the repository the intent is.")] = "",
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Where the repository's mirror is kept.")
    ] = Path("/var/lib/vestibule/authz"),
    environment: Annotated[str, typer.Option("--environment", help="Which environment of the intent.")] = "",
    socket: Annotated[
        Path | None, typer.Option("--socket", help="A Unix socket for gRPC, for this user only.")
    ] = None,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="gRPC over mutual TLS.")] = "",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM: the chain to show there.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM: its key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option("--client-ca", help="PEM: the authorities of clients.")
    ] = None,
    asker: Annotated[
        list[str] | None,
        typer.Option("--asker", metavar="SPIFFE_ID", help="Which client may ask there, repeatable."),
    ] = None,
    http: Annotated[
        str,
        typer.Option(
            "--http", metavar="HOST:PORT", help="HTTP decisions, /live /ready /metrics; this machine."
        ),
    ] = "",
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="Of the log lines.")] = LogFormat.TEXT,
    output: OutputOption = Output.TEXT,
) -> None:
    """Decide about calls for Envoys that are not Vestibule's (ext_authz), by an intent that is followed."""
    set_up_logs(log_level, log_format)
    keep_memory_private()

    import uvloop

    async def main() -> Exit:
        from functools import partial

        from vestibule.app.authz import AuthzService, AuthzSettings, TlsFiles
        from vestibule.app.git_settings import GitIntent
        from vestibule.calls.git import Mirror
        from vestibule.clock import SystemClock
        from vestibule.intent import load, load_tree
        from vestibule.mesh import DirectorySource, Following, GitSource, Source
        from vestibule.processes.signals import Shutdown

        if (intent is None) == (not git):
            raise INVALID_SETTING.error("give either --intent or --git")
        files = (tls_cert, tls_key, client_ca)
        tls = None
        if tls_cert is not None and tls_key is not None and client_ca is not None:
            tls = TlsFiles(certificate=tls_cert, key=tls_key, authorities=client_ca)
        elif any(files):
            raise INVALID_SETTING.error("--tls-cert, --tls-key and --client-ca belong together")
        settings = AuthzSettings(
            socket=socket,
            listen=_address("--listen", listen),
            tls=tls,
            askers=tuple(map(SpiffeId.parse, asker or ())),
            http=_address("--http", http),
        )
        clock = SystemClock()
        chosen = environment or None
        source: Source
        if intent is not None:
            source = DirectorySource(intent, clock, read=partial(load, environment=chosen))
        else:
            where = GitIntent(repository=git, ref=ref, directory=folder)
            mirror = Mirror(
                data_dir / "intent-git",
                where.place,
                where.access,
                max_size=where.max_size,
                environment=os.environ,
            )
            following = Following(ref=where.parsed_ref, folder=where.folder, poll=where.poll, rewrites=False)
            source = GitSource(mirror, following, clock, read=partial(load_tree, environment=chosen))
        service = AuthzService(settings, source, clock)
        await service.load()

        def tell() -> None:
            said = dict(service.status())
            line = f"{READY} intent version {said['version'] or 'none yet'}"
            answer(output, "authz-ready", said, lambda: console.print(line))

        with Shutdown() as shutdown:
            await service.run(tell, shutdown)
        return Exit.FINE

    run_command(output, "authz-ready", main, loop=uvloop.new_event_loop)


def _address(option: str, text: str) -> Address | None:
    try:
        return Address.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
