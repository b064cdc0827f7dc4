"""``vestibule validate``: everything that is wrong with an intent directory, at once."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import (
    EXIT_OF_KIND,
    Exit,
    Output,
    OutputOption,
    answer,
    complain,
    complaints,
    console,
)
from vestibule.errors import VestibuleError

if TYPE_CHECKING:
    from vestibule.cli.intent_checks import Checked
    from vestibule.intent import Problem


class SchemaKind(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The kinds of intent files."""

    MESH = "mesh"
    SERVICE = "service"
    EXTERNAL = "external"
    GATEWAY = "gateway"
    UP = "up"
    LONE = "lone"


PlaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="DIR|COMMIT",
        help="What holds the intent: a directory, or REVISION[:FOLDER] of the repository here.",
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="NAME", help="Only this one of environments/; all of them without it."
    ),
]
SchemaOption = Annotated[
    SchemaKind | None,
    typer.Option("--schema", help="Print the JSON Schema of one kind of file instead, for editors."),
]


def validate(
    place: PlaceArgument = ".",
    environment: EnvironmentOption = None,
    schema: SchemaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check the intent in a directory or a commit: every problem with its place and its fix.

    Exits 1 if there is an error.
    """
    if schema is not None:
        _print_schema(schema)
        return
    try:
        from vestibule.cli import intent_checks
    except ModuleNotFoundError as error:
        complain(MISSING_EXTRA.error(f"validate needs {error.name}, which is not installed"))
        raise typer.Exit(Exit.REFUSED) from error
    try:
        checked = intent_checks.check(place, environment)
    except VestibuleError as error:
        answer(output, "validate", None, lambda: None, errors=[error])
        raise typer.Exit(EXIT_OF_KIND.get(error.code.kind, Exit.REFUSED)) from error
    errors, warnings = intent_checks.told_once(checked)
    answer(
        output,
        "validate",
        intent_checks.data_of(place, checked, errors, warnings),
        lambda: _show(checked, len(errors), warnings),
        errors=[found.error for found in errors],
    )
    raise typer.Exit(Exit.FINDINGS if errors else Exit.FINE)


def _show(checked: list[Checked], errors: int, warnings: list[Problem]) -> None:
    from vestibule.cli.intent_checks import count, summary

    for warning in warnings:
        complaints.print(f"[bold yellow]![/] {escape(str(warning.error))}")
        complaints.print(f"  [dim]fix:[/] {escape(warning.advice)}")
    for each in checked:
        if each.intent:
            console.print(f"[bold green]✓[/] {summary(each.intent, each.environment)}")
        elif len(checked) > 1:
            console.print(f"[bold red]✗[/] {each.environment}")
    if errors:
        console.print(f"[bold red]✗[/] {count(errors, 'problem')}")


def _print_schema(kind: SchemaKind) -> None:
    # The published files, so that this needs no more than the base install.
    from importlib.resources import files

    published = files("vestibule") / "intent" / "schemas" / f"{kind.value}.schema.json"
    sys.stdout.write(published.read_text(encoding="utf-8"))
