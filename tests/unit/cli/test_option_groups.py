"""Commands that take their options in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from vestibule.cli.option_groups import in_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    where: Annotated[str | None, typer.Option("--where", help="A place.")] = None
    twice: Annotated[bool, typer.Option("--twice")] = False


@in_groups
def command(
    *,
    first: Annotated[int, typer.Option("--first")] = 1,
    places: Places,
    last: Annotated[list[str] | None, typer.Option("--last")] = None,
) -> None:
    """Say what was given."""
    typer.echo(f"{first} {places} {last}")


def test_fields_of_a_group_are_options_at_its_place() -> None:
    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    said = runner.invoke(app, ["--where", "here", "--last", "a", "--last", "b", "--twice"])
    assert said.output == "1 Places(where='here', twice=True) ['a', 'b']\n"
    assert runner.invoke(app, ["--first", "2"]).output == "2 Places(where=None, twice=False) None\n"
    shown = runner.invoke(app, ["--help"]).output
    assert "Say what was given." in shown
    assert shown.index("--first") < shown.index("--where") < shown.index("--twice") < shown.index("--last")
