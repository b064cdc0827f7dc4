"""``vestibule audit``: whether the log of administrative and issuing acts is whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from vestibule.audit import AuditReport, Link, verify
from vestibule.cli.codes import USAGE
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


AnchorOption = Annotated[
    str | None,
    typer.Option(
        "--anchor",
        metavar="FILE|N:HASH",
        help="The end that the log once had, as `audit anchor` printed it: it must still be in the log.",
    ),
]


def check(path: PathArgument = None, output: OutputOption = Output.TEXT, anchor: AnchorOption = None) -> None:
    """Check that no record of an audit log was changed, removed or inserted.  Exits 1 if one was.

    What was cut off at the end leaves no trace in the log itself: keep what `audit anchor` prints somewhere else, and
    give it as --anchor.
    """

    async def main() -> Exit:
        log = path or find_log()
        report = verify(log, None if anchor is None else parse_anchor(anchor))
        answer(output, "audit-verification", document(log, report), lambda: _show(log, report))
        return Exit.FINE if report.ok else Exit.FINDINGS

    run(output, "audit-verification", main)


def anchor(path: PathArgument = None, output: OutputOption = Output.TEXT) -> None:
    """Print the end of a log, to be kept where who can write the log cannot: `audit verify --anchor` looks for it."""

    async def main() -> Exit:
        log = path or find_log()
        report = verify(log)
        if not report.ok:
            answer(output, "audit-verification", document(log, report), lambda: _show(log, report))
            return Exit.FINDINGS
        data = {"path": str(log), "seq": report.last_seq, "hash": report.last_hash}
        answer(output, "audit-anchor", data, lambda: typer.echo(f"{report.last_seq}:{report.last_hash}"))
        return Exit.FINE

    run(output, "audit-anchor", main)


def parse_anchor(text: str) -> Link:
    """``N:HASH``, or a file that holds it.  Raises: VST9100."""
    try:
        line = Path(text).read_text("ascii").strip() if Path(text).is_file() else text
        match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", line)
    except (OSError, ValueError):
        match = None
    if match is None:
        raise USAGE.error(
            f"{text[:100]!r} is no anchor, nor a file that holds one",
            advice="Give what `audit anchor` printed.",
        )
    return Link(seq=int(match[1]), hash=match[2])


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
        "first": report.first,
        "last": report.last_seq,
        "last_hash": report.last_hash,
        "torn_lines": report.torn,
        "unfinished": report.unfinished,
        "problem": {"file": str(report.file), "line": report.line, "message": report.problem}
        if report.problem
        else None,
    }


def _show(log: Path, report: AuditReport) -> None:
    count = f"{report.records} record{'' if report.records == 1 else 's'}"
    if report.ok:
        console.print(f"[bold green]✓[/] {escape(str(log))}: {count}, none changed, removed or inserted")
    else:
        console.print(f"[bold red]✗[/] {escape(str(report.file))}:{report.line}: {escape(report.problem)}")
        console.print(f"  {count} before it are whole; keep the file as it is, for examination")
    if report.first > 1:
        console.print(
            f"  it begins with record {report.first}: those before were removed, which is on record"
        )
    if report.torn:
        console.print(f"  {report.torn} unfinished line(s) of earlier crashes, all accounted for")
    if report.unfinished:
        console.print(
            "  the last line is unfinished: it is being written, or the machine stopped in the middle"
        )
    console.print(f"  last hash {report.last_hash}")
