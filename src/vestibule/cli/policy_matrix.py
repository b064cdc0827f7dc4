"""``vestibule policy matrix``: who may call what, at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import ServerSocketOption

if TYPE_CHECKING:
    from vestibule.intent import Intent
    from vestibule.intent.model import Port, Service
    from vestibule.policy import Rule
    from vestibule.spiffe import SpiffeId


class Access(str, Enum):  # noqa: UP042 - JSON shows the values of str enums
    """How much a caller may do at a port."""

    ALL = "all"
    SOME = "some"
    CONDITIONAL = "conditional"
    NONE = "none"


MARKS: Final = {
    Access.ALL: "[bold green]all[/]",
    Access.SOME: "[green]some[/]",
    Access.CONDITIONAL: "[yellow]if[/]",
    Access.NONE: "[dim]·[/]",
}


def matrix(
    place: Annotated[
        str | None,
        typer.Argument(metavar="DIR|COMMIT", help="The intent that is meant. [default: what runs]"),
    ] = None,
    service: Annotated[str | None, typer.Option("--service", help="Only calls to this service.")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show who may call what: callers across, ports down.

    all: every call; some: some methods or paths; if: under a condition, with a token, for a while, or with exceptions.
    """

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import meant
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"policy matrix needs {error.name}, which is not installed") from error

        found = await meant(place, environment, server_socket)
        if found.intent is None:
            errors = [each.error for each in found.problems]
            answer(output, "policy-matrix", {"ports": []}, lambda: None, errors=errors)
            return Exit.FINDINGS
        intent = found.intent
        rows = [_row(intent, each, port) for each, port in _ports(intent, service)]
        data = {"callers": _callers(intent), "ports": rows}
        answer(output, "policy-matrix", data, lambda: _show(rows, _callers(intent)))
        return Exit.FINE

    run(output, "policy-matrix", main)


def _ports(intent: Intent, service: str | None) -> Iterable[tuple[Service, Port]]:
    for name, each in sorted(intent.services.items()):
        if service in (None, name):
            yield from ((each, port) for _, port in sorted(each.ports.items()))


def _callers(intent: Intent) -> list[str]:
    return sorted(intent.identities)


def _row(intent: Intent, service: Service, port: Port) -> dict[str, Any]:
    identities = intent.identities
    allow, deny = service.rules_for(port.name), service.denials_for(port.name)
    return {
        "port": f"{service.name}/{port.name}",
        "callers": {name: _cell(identities[name], allow, deny) for name in _callers(intent)},
        # Identities below a pattern have no column: they are nobody's service.
        "others": sorted({str(match) for rule in allow for match in rule.callers if match.below}),
        "anyone": [rule.name for rule in allow if rule.anyone],
    }


def _cell(caller: SpiffeId, allow: Iterable[Rule], deny: Iterable[Rule]) -> dict[str, Any]:
    allowing = [rule for rule in _enforced(allow) if rule.calls_from(caller)]
    denying = [rule for rule in _enforced(deny) if rule.calls_from(caller)]
    return {
        "access": access(allowing, denying).value,
        "allow": [rule.name for rule in allowing],
        "deny": [rule.name for rule in denying],
    }


def access(allowing: list[Rule], denying: list[Rule]) -> Access:
    """How much rules that all name one caller let it do."""
    if not allowing or any(_is_whole(rule) and not rule.expires for rule in denying):
        return Access.NONE
    if any(_is_whole(rule) and not rule.expires for rule in allowing) and not denying:
        return Access.ALL
    if denying or all(_asks_more(rule) for rule in allowing):
        return Access.CONDITIONAL
    return Access.SOME


def _enforced(rules: Iterable[Rule]) -> list[Rule]:
    from vestibule.policy import Mode

    return [rule for rule in rules if rule.mode is Mode.ENFORCE]


def _is_whole(rule: Rule) -> bool:
    return not (rule.methods or rule.paths or _asks_more(rule))


def _asks_more(rule: Rule) -> bool:
    return rule.when is not None or rule.token is not None or rule.mcp is not None or rule.expires is not None


def _show(rows: list[dict[str, Any]], callers: list[str]) -> None:
    shown = [name for name in callers if any(row["callers"][name]["access"] != "none" for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("MAY CALL", overflow="fold")
    for name in shown:
        table.add_column(escape(name), justify="center")
    table.add_column("OTHERS", overflow="fold")
    for row in rows:
        marks = [MARKS[Access(row["callers"][name]["access"])] for name in shown]
        others = [*row["others"], *(["anyone"] if row["anyone"] else [])]
        table.add_row(escape(row["port"]), *marks, escape(", ".join(others)) or "[dim]·[/]")
    console.print(table)
    hidden = sorted({*callers} - {*shown})
    if hidden:
        console.print(f"[dim]may call nothing: {escape(', '.join(hidden))}[/]")
