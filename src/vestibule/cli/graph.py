"""``vestibule graph``: who calls whom, as text, for Graphviz, or as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from vestibule.cli.calls import LogsOption, recorded
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Output, OutputOption, answer, console, plain, run
from vestibule.observe.graph import Graph, Link, graph
from vestibule.observe.graph_drawing import dot, svg


class Form(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How a graph is shown."""

    TEXT = "text"
    DOT = "dot"
    SVG = "svg"


_DRAWN: Final[Mapping[Form, Callable[[Graph], str]]] = {Form.DOT: dot, Form.SVG: svg}


def show_graph(
    form: Annotated[
        Form, typer.Option("--as", help="text, dot for Graphviz, or svg, a picture.")
    ] = Form.TEXT,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only the last 15m, 24h, 7d.")
    ] = None,
    service: Annotated[
        str | None, typer.Option("--service", help="Only who calls this service, and whom it calls.")
    ] = None,
    log: LogsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Draw who calls whom, from the access log: how many calls, how they went, how long they took, over mTLS or not.

    Of a lasting load a sample of what goes well is recorded, and nearly all that does not.
    """

    async def main() -> None:
        start = datetime.now(UTC) - parse_duration(since) if since else None
        found = _around(graph(recorded(log), since=start), service)
        data = {
            "nodes": [{"name": each.name, "kind": each.kind.value} for each in found.nodes],
            "links": [asdict(each) for each in found.links],
        }
        answer(output, "graph", data, lambda: _show(found, form))

    run(output, "graph", main)


def _around(found: Graph, service: str | None) -> Graph:
    if service is None:
        return found
    links = tuple(each for each in found.links if service in (each.source, each.destination))
    names = {name for each in links for name in (each.source, each.destination)}
    return Graph(nodes=tuple(each for each in found.nodes if each.name in names), links=links)


def _show(found: Graph, form: Form) -> None:
    if form in _DRAWN:
        typer.echo(plain(_DRAWN[form](found)), nl=False)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("FROM", "", "TO"):
        table.add_column(column, overflow="fold")
    for column in ("CALLS", "WELL", "DENIED", "FAILED", "P50", "P95"):
        table.add_column(column, justify="right")
    for link in found.links:
        table.add_row(
            escape(link.source),
            _arrow(link),
            escape(link.destination),
            str(link.calls),
            f"{link.well * 100:.1f}%",
            str(link.denied or "-"),
            str(link.failed or "-"),
            _milliseconds(link.p50),
            _milliseconds(link.p95),
        )
    console.print(table)


def _arrow(link: Link) -> str:
    """A line for mutual TLS, dots for plain text."""
    if not link.plaintext:
        return "[green]━━▶[/]"
    return "[yellow]┅┅▶ plaintext[/]" if link.plaintext == link.calls else "[yellow]━┅▶ some plaintext[/]"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
