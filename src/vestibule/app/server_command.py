"""``vestibule server run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestibule.app.server_options import (
    AboveOptions,
    AgentsOptions,
    FederatingOptions,
    IntentOptions,
    IssuingOptions,
    KeysOptions,
    PlacesOptions,
    SecretsOptions,
    TokensOptions,
    given,
)
from vestibule.app.server_settings import server_settings
from vestibule.cli.option_groups import in_groups
from vestibule.cli.output import Exit, Output, OutputOption, answer
from vestibule.cli.output import run as run_command
from vestibule.cli.sockets import SERVER_SOCKET, runtime_directory
from vestibule.processes.hardening import keep_memory_private
from vestibule.telemetry.logs import LogFormat, set_up_logs


@in_groups
def run(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", help="Where the settings not given here are; YAML.")
    ] = None,
    places: PlacesOptions,
    intent: IntentOptions,
    issuing: IssuingOptions,
    federating: FederatingOptions,
    agents: AgentsOptions,
    keys: KeysOptions,
    above: AboveOptions,
    secrets: SecretsOptions,
    tokens: TokensOptions,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="Of the log lines.")] = LogFormat.TEXT,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the server until it is told to stop: the first SIGTERM or SIGINT drains it, the second stops it."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    set_up_logs(log_level, log_format)
    keep_memory_private()

    import uvloop

    async def main() -> Exit:
        told = given(places, intent, issuing, federating, agents, keys, above, secrets, tokens)
        defaults = {
            "data_dir": Path("/var/lib/vestibule/server"),
            "socket_path": runtime_directory() / SERVER_SOCKET,
        }
        settings = server_settings(
            told, config, defaults
        )  # a mistake is told before all of the server is loaded

        from vestibule.app.server import Ready, run_server

        def tell(ready: Ready) -> None:
            answer(output, "server-ready", ready.document, lambda: typer.echo(str(ready)))

        await run_server(settings, on_ready=tell)
        return Exit.FINE

    run_command(output, "server-ready", main, loop=uvloop.new_event_loop)
