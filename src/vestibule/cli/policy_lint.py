"""``vestibule policy lint``: rules that hold, and are probably not what was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, error_line, run
from vestibule.cli.sockets import ServerSocketOption
from vestibule.clock import SystemClock

if TYPE_CHECKING:
    from vestibule.intent import Problem


def lint(
    place: Annotated[
        str | None,
        typer.Argument(metavar="DIR|COMMIT", help="The intent that is meant. [default: what runs]"),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say which rules allow nothing or nearly everything, overlap, deny what nobody allows, or have ended.

    Exits 1 if there are any.  What validate warns of is among them.
    """

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import meant
            from vestibule.intent import expired
            from vestibule.intent.lints import hints, weaknesses
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"policy lint needs {error.name}, which is not installed") from error

        found = await meant(place, environment, server_socket)
        if found.intent is None:
            errors = [each.error for each in found.problems]
            answer(output, "policy-lint", {"findings": []}, lambda: None, errors=errors)
            return Exit.FINDINGS
        now = SystemClock().now()
        told = (*expired(found.intent, now), *weaknesses(found.intent, now), *hints(found.intent))
        data = {"findings": [error_line(each.error) for each in told]}
        answer(output, "policy-lint", data, lambda: _show(told))
        return Exit.FINDINGS if told else Exit.FINE

    run(output, "policy-lint", main)


def _show(told: tuple[Problem, ...]) -> None:
    for each in told:
        console.print(f"[bold yellow]![/] {escape(str(each.error))}")
        console.print(f"  [dim]fix:[/] {escape(each.advice)}")
    if not told:
        console.print("[bold green]✓[/] nothing to tell")
