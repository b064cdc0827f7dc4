"""``vestibule coverage``: who is called over mutual TLS, who in plain text or around the proxy; before and after."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vestibule.cli.calls import LogsOption, recorded
from vestibule.cli.check import fetch_agent_status
from vestibule.cli.durations import parse_duration
from vestibule.cli.findings import past_sidecars
from vestibule.cli.output import Exit, Output, OutputOption, answer, complaints, console, run
from vestibule.cli.sockets import AdminSocketOption, find_sockets
from vestibule.cli.text_files import read_text, write_text
from vestibule.errors import VestibuleError
from vestibule.observe.coverage import Coverage, as_document, coverage, markdown, percent, read_coverage
from vestibule.processes.listening import tcp_listeners


def show_coverage(
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only calls of the last 15m, 24h, 7d.")
    ] = None,
    log: LogsOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Keep what was seen, to compare with later.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="Say what it was when this was saved.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.md", help="Write it as Markdown, for the ticket.")
    ] = None,
    admin_socket: AdminSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show how services are called: over mutual TLS, in plain text, or past their proxies.

    Exits 1 if any service is not covered. Calls are those of the access log; ways past a proxy are looked for on this
    machine, if its agent can be asked.
    """

    async def main() -> Exit:
        now = datetime.now(UTC)
        earlier = read_coverage(read_text(compare), str(compare)) if compare else None
        found = coverage(
            recorded(log),
            now,
            since=now - parse_duration(since) if since else None,
            around=await _around(admin_socket),
        )
        if save:
            write_text(save, json.dumps(as_document(found), indent=2) + "\n")
        if report:
            write_text(report, markdown(found, earlier))
        answer(output, "coverage", _document(found, earlier), lambda: _show(found, earlier))
        return Exit.FINE if found.covered == len(found.services) else Exit.FINDINGS

    run(output, "coverage", main)


async def _around(admin_socket: Path | None) -> dict[str, list[str]]:
    """Where apps of this machine can be reached without their proxies; nothing where that cannot be known."""
    try:
        status = await fetch_agent_status(find_sockets(admin=admin_socket).existing_admin())
    except VestibuleError as error:
        complaints.print(f"[yellow]![/] ways past the proxies were not looked for: {escape(str(error))}")
        return {}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for service, _, listener in past_sidecars(status, tcp_listeners()):
        found[service].append(str(listener))
    return found


def _document(found: Coverage, earlier: Coverage | None) -> dict[str, Any]:
    document = {name: value for name, value in as_document(found).items() if name != "schema"}
    document |= {"share": found.share, "covered": found.covered}
    if earlier is not None:
        document["before"] = {
            "made": earlier.made.isoformat(),
            "share": earlier.share,
            "covered": earlier.covered,
        }
    return document


def _show(found: Coverage, earlier: Coverage | None) -> None:
    before = {each.service: each for each in earlier.services} if earlier else {}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in (
        "",
        "SERVICE",
        "MTLS",
        *(("BEFORE",) if earlier else ()),
        "CALLERS",
        "PLAINTEXT FROM",
        "AROUND",
    ):
        table.add_column(column, overflow="fold")
    for each in found.services:
        then = before.get(each.service)
        table.add_row(
            "[green]✓[/]" if each.covered else "[red]✗[/]",
            escape(each.service),
            percent(each.share),
            *((percent(then.share) if then else "-",) if earlier else ()),
            escape(", ".join(name.rpartition("/")[2] for name in each.callers)) or "-",
            escape(", ".join(each.plain_callers)) or "-",
            escape(", ".join(each.around)) or "-",
        )
    console.print(table)
    console.print(
        f"{percent(found.share)} of calls over mutual TLS; {found.covered} of {len(found.services)} services covered"
    )
