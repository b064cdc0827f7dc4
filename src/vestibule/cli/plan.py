"""``vestibule plan``: what a change of the intent means, before it is in force."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import Exit, Output, answer, run
from vestibule.cli.sockets import ServerSocketOption, find_sockets

if TYPE_CHECKING:
    from vestibule.cli.intent_places import Found
    from vestibule.cli.plan_report import Plan


class PlanOutput(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The forms of a plan."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def plan(
    place: Annotated[
        str,
        typer.Argument(
            metavar="DIR|COMMIT",
            help="What would be in force: a directory, or REVISION[:FOLDER] of its repository.",
        ),
    ] = ".",
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="DIR|COMMIT", help="With what it is compared. [default: what runs]"
        ),
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            "--replay", metavar="FILE", help="An access log whose calls are judged again. Repeatable."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
    ] = None,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="Exit 0 though calls are lost.")] = False,
    server_socket: ServerSocketOption = None,
    output: Annotated[
        PlanOutput,
        typer.Option(
            "--output", "-o", help="text for people, json for programs, markdown for pull requests."
        ),
    ] = PlanOutput.TEXT,
) -> None:
    """Say who gains or loses which call by a change of the intent, and what else it changes.

    Exits 1 if somebody loses a call (unless --allow-loss), or if the intent does not hold.
    """

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import find, running
            from vestibule.cli.plan_report import Plan
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"plan needs {error.name}, which is not installed") from error

        new = find(place, environment)
        if against is not None:
            old = find(against, environment, around)
        else:
            old = await running(find_sockets(server=server_socket).existing_server())
        broken = [found for found in (old, new) if found.intent is None]
        if broken:
            return _refuse(output, broken)
        made = Plan.of(old, new, replay)
        _answer(output, made)
        return Exit.FINDINGS if made.difference.losses and not allow_loss else Exit.FINE

    around = Path(place) if Path(place).is_dir() else Path()
    form = Output.JSON if output is PlanOutput.JSON else Output.TEXT
    run(form, "plan", main)


def _refuse(output: PlanOutput, broken: list[Found]) -> Exit:
    from vestibule.intent import Severity

    errors = [each.error for found in broken for each in found.problems if each.severity is Severity.ERROR]
    if output is PlanOutput.MARKDOWN:
        lines = [f"- `{each.where}`: {each.code.code} {each.message}. {each.advice}" for each in errors]
        sys.stdout.write("### The intent does not hold\n\n" + "\n".join(lines) + "\n")
        return Exit.FINDINGS
    form = Output.JSON if output is PlanOutput.JSON else Output.TEXT
    answer(form, "plan", {"valid": False}, lambda: None, errors=errors)
    return Exit.FINDINGS


def _answer(output: PlanOutput, made: Plan) -> None:
    from vestibule.cli import plan_report

    if output is PlanOutput.MARKDOWN:
        sys.stdout.write(plan_report.markdown(made))
        return
    form = Output.JSON if output is PlanOutput.JSON else Output.TEXT
    answer(form, "plan", plan_report.document(made), lambda: plan_report.show(made))
