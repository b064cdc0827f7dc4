"""``vestibule validate``: everything that is wrong with an intent directory, at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import Exit, Output, OutputOption, answer, complain, complaints, console, error_line
from vestibule.errors import Where

if TYPE_CHECKING:
    from vestibule.intent import Intent, Problem


class SchemaKind(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The kinds of intent files."""

    MESH = "mesh"
    SERVICE = "service"
    UP = "up"


DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The directory that holds mesh.yaml and services/.")
]
SchemaOption = Annotated[
    SchemaKind | None,
    typer.Option("--schema", help="Print the JSON Schema of one kind of file instead, for editors."),
]


def validate(
    directory: DirectoryArgument = Path(),
    schema: SchemaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check the intent in DIR: every problem with its place and its fix.  Exits 1 if there is an error."""
    if schema is not None:
        _print_schema(schema)
        return
    intent, errors, warnings = _checked(directory)
    data = {
        "directory": str(directory),
        "valid": intent is not None,
        "version": intent.version if intent else None,
        "services": sorted(intent.services) if intent else [],
        "rules": [rule.name for service in intent.services.values() for rule in service.allow]
        if intent
        else [],
        "warnings": [error_line(warning.error) for warning in warnings],
    }
    answer(
        output,
        "validate",
        data,
        lambda: _show(intent, len(errors), warnings),
        errors=[found.error for found in errors],
    )
    raise typer.Exit(Exit.FINDINGS if errors else Exit.FINE)


def _checked(directory: Path) -> tuple[Intent | None, list[Problem], list[Problem]]:
    """The intent, if it and its ``up.yaml`` hold; the errors; the warnings."""
    try:
        from vestibule.intent import Severity, load, load_up
    except ModuleNotFoundError as error:
        complain(MISSING_EXTRA.error(f"validate needs {error.name}, which is not installed"))
        raise typer.Exit(Exit.REFUSED) from error
    loaded = load(directory)
    problems = list(loaded.problems)
    if (directory / "up.yaml").is_symlink() or (directory / "up.yaml").exists():
        problems += load_up(directory, loaded.intent).problems
    placed = [replace(found, where=_from_here(directory, found.where)) for found in problems]
    errors = [found for found in placed if found.severity is Severity.ERROR]
    warnings = [found for found in placed if found.severity is Severity.WARNING]
    return (None if errors else loaded.intent), errors, warnings


def _from_here(directory: Path, where: Where) -> Where:
    """The place as a path that an editor or a terminal can open from the current directory."""
    return replace(where, file=str(directory / where.file))


def _show(intent: Intent | None, errors: int, warnings: list[Problem]) -> None:
    for warning in warnings:
        complaints.print(f"[bold yellow]![/] {escape(str(warning.error))}")
        complaints.print(f"  [dim]fix:[/] {escape(warning.advice)}")
    if intent:
        rules = sum(len(service.allow) for service in intent.services.values())
        console.print(
            f"[bold green]✓[/] {intent.mesh.name}: {_count(len(intent.services), 'service')}, "
            f"{_count(rules, 'rule')}, version {intent.version}"
        )
    else:
        console.print(f"[bold red]✗[/] {_count(errors, 'problem')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_schema(kind: SchemaKind) -> None:
    # The published files, so that this needs no more than the base install.
    from importlib.resources import files

    published = files("vestibule") / "intent" / "schemas" / f"{kind.value}.schema.json"
    sys.stdout.write(published.read_text(encoding="utf-8"))
