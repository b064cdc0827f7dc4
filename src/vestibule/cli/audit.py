"""``vestibule audit``: whether the log of administrative and issuing acts is whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from vestibule.audit import AuditReport, Link, verify
from vestibule.audit.checkpoints import SUFFIX
from vestibule.audit.checkpoints import read as read_checkpoints
from vestibule.audit.notes import NoteVerifier
from vestibule.audit.signed_verification import SignedReport, verify_signed
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


KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="FILE|KEY",
        help="The key that signs checkpoints, as `audit key` printed it and you kept it; without it, the one beside "
        "the log, which who can write the log can replace, too.",
    ),
]
CheckpointOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="Checkpoints that were kept elsewhere; may be repeated."
    ),
]


def check(
    path: PathArgument = None,
    output: OutputOption = Output.TEXT,
    anchor: AnchorOption = None,
    key: KeyOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Check that no record of an audit log was changed, removed or inserted.  Exits 1 if one was.

    The chain shows what was edited, removed or put in another order; the signed checkpoints show, too, that the log was
    written anew by somebody who has not the key.  What was cut off after the last checkpoint leaves no trace in the log
    itself: keep checkpoints, or what `audit anchor` prints, somewhere else, and give them.
    """

    async def main() -> Exit:
        log = path or find_log()
        report = verify(log, None if anchor is None else parse_anchor(anchor))
        signed = _signed(log, key, checkpoint or []) if report.ok else None
        data = document(log, report) | {"checkpoints": None if signed is None else _signed_document(signed)}
        answer(
            output, "audit-verification", data, lambda: _show_all(log, report, signed, given=key is not None)
        )
        return Exit.FINE if report.ok and (signed is None or signed.ok) else Exit.FINDINGS

    run(output, "audit-verification", main)


def _signed(log: Path, key: str | None, kept: list[Path]) -> SignedReport | None:
    """What the checkpoints say; None where there are none and nobody asks for any."""
    beside = log.with_name(f"{log.name}{SUFFIX}").exists()
    if not beside and key is None and not kept:
        return None
    return verify_signed(log, find_key(log, key), [each for file in kept for each in read_checkpoints(file)])


def find_key(log: Path, key: str | None) -> NoteVerifier:
    """The key that was given, as text or in a file; else the one beside the log.  Raises: VST9100."""
    text, beside = key or "", log.parent / f"{log.name}.pub"
    try:
        if key is None:
            text = beside.read_text("utf-8")
        elif "+" not in key or Path(key).is_file():
            text = Path(key).read_text("utf-8")
        return NoteVerifier.parse(text)
    except (OSError, ValueError) as error:
        where = str(beside) if key is None else key[:100]
        raise USAGE.error(f"{where} is no key: {error}", advice="Give what `audit key` printed.") from error


def _signed_document(signed: SignedReport) -> dict[str, object]:
    return {
        "whole": signed.ok,
        "count": signed.checkpoints,
        "records": signed.covered,
        "at": None if signed.at is None else signed.at.isoformat(),
        "problem": signed.problem or None,
    }


def _show_all(log: Path, report: AuditReport, signed: SignedReport | None, *, given: bool) -> None:
    _show(log, report)
    if signed is None:
        return
    if not signed.ok:
        console.print(f"[bold red]✗[/] {escape(signed.problem)}")
        return
    at = "" if signed.at is None else f", the newest of {signed.at:%Y-%m-%d %H:%M:%S}Z"
    console.print(
        f"[bold green]✓[/] {signed.checkpoints} signed checkpoint(s) of up to {signed.covered} records{at}"
    )
    if not given:
        console.print(
            "  by the key beside the log: compare it with the one you noted (`audit key`), or give --key"
        )


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
