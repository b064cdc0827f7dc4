"""``vestibule audit``: whether the log of administrative and issuing acts is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from vestibule.audit import AuditReport, verify
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.run_state import STATE_DIRECTORY, RunState

SYSTEM_LOG: Final = Path("/var/lib/vestibule/server/audit.jsonl")

PathArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PATH",
        help="The audit.jsonl of a server's data directory; without it, that of the `vestibule up` that runs here, "
        f"else {SYSTEM_LOG}.",
    ),
]


def check(path: PathArgument = None, output: OutputOption = Output.TEXT) -> None:
    """Check that no record of an audit log was changed, removed or inserted.  Exits 1 if one was.

    What was cut off at the end leaves no trace in the log itself: note the last hash somewhere else, and look for it.
    """

    async def main() -> Exit:
        log = path or find_log()
        report = verify(log)
        answer(output, "audit-verification", document(log, report), lambda: _show(log, report))
        return Exit.FINE if report.ok else Exit.FINDINGS

    run(output, "audit-verification", main)


def find_log(state: Path = STATE_DIRECTORY) -> Path:
    """The audit log of the server that commands talk to when they are not told otherwise."""
    note = RunState.read(state)
    return state / "server" / SYSTEM_LOG.name if note is not None and note.is_running else SYSTEM_LOG


def document(log: Path, report: AuditReport) -> dict[str, object]:
    """The answer as the envelope carries it."""
    return {
        "path": str(log),
        "whole": report.ok,
        "records": report.records,
        "last_hash": report.last_hash,
        "torn_lines": report.torn,
        "unfinished": report.unfinished,
        "problem": {"line": report.line, "message": report.problem} if report.problem else None,
    }


def _show(log: Path, report: AuditReport) -> None:
    count = f"{report.records} record{'' if report.records == 1 else 's'}"
    if report.ok:
        console.print(f"[bold green]✓[/] {escape(str(log))}: {count}, none changed, removed or inserted")
    else:
        console.print(f"[bold red]✗[/] {escape(str(log))}:{report.line}: {escape(report.problem)}")
        console.print(f"  {count} before it are whole; keep the file as it is, for examination")
    if report.torn:
        console.print(f"  {report.torn} unfinished line(s) of earlier crashes, all accounted for")
    if report.unfinished:
        console.print(
            "  the last line is unfinished: it is being written, or the machine stopped in the middle"
        )
    console.print(f"  last hash {report.last_hash}")
