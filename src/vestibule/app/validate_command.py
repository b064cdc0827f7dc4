"""``vestibule server validate`` and ``vestibule agent validate``: everything that is wrong with a file, at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.errors import SeveralError, VestibuleError

if TYPE_CHECKING:
    from vestibule.app.configuration.files import Configuration

FileArgument = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="The YAML file that --config will name.")
]
SchemaOption = Annotated[
    bool, typer.Option("--schema", help="Print the JSON Schema of such a file instead, for editors.")
]


def server(
    file: FileArgument = None, schema: SchemaOption = False, output: OutputOption = Output.TEXT
) -> None:
    """Check a server's configuration file: every problem with its place and its fix.  Exits 1 if there is one."""

    def check(path: Path) -> None:
        from vestibule.app.server_settings import server_settings

        # What a file may leave to the command line is filled in, so that the rest is judged.
        server_settings({}, path, {"trust_domain": "example.org", "data_dir": "/", "socket_path": "/"})

    from vestibule.app.configuration.files import server_configuration

    _validate(server_configuration, check, file, schema, output)


def agent(
    file: FileArgument = None, schema: SchemaOption = False, output: OutputOption = Output.TEXT
) -> None:
    """Check an agent's configuration file: every problem with its place and its fix.  Exits 1 if there is one."""

    def check(path: Path) -> None:
        from vestibule.app.agent_settings import agent_settings
        from vestibule.records import Address
        from vestibule.spiffe import TrustDomain

        places = {name: Path("/") for name in ("data_dir", "socket_path", "admin_socket_path")}
        whom = {"trust_domain": TrustDomain.parse("example.org"), "server": Address.parse("localhost:1")}
        agent_settings({**places, **whom}, lambda _: False, path)

    from vestibule.app.configuration.files import agent_configuration

    _validate(agent_configuration, check, file, schema, output)


def _validate(
    configuration: Callable[[], Configuration],
    check: Callable[[Path], None],
    file: Path | None,
    schema: bool,
    output: Output,
) -> None:
    if schema:
        sys.stdout.write(json.dumps(configuration().schema(), indent=2) + "\n")
        return
    if file is None:
        raise typer.BadParameter("name a file, or --schema", param_hint="FILE")

    async def main() -> Exit:
        errors: tuple[VestibuleError, ...] = ()
        try:
            check(file)
        except SeveralError as error:
            errors = error.errors
        except VestibuleError as error:
            errors = (error,)

        def text() -> None:
            many = f"{len(errors)} problem{'s' if len(errors) > 1 else ''}"
            console.print(f"{escape(str(file))}: {many if errors else 'nothing is wrong'}")

        data = {"file": str(file), "valid": not errors}
        answer(output, "configuration", data, text, errors=errors)
        return Exit.FINDINGS if errors else Exit.FINE

    run(output, "configuration", main)
