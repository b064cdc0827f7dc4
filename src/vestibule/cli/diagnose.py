"""``vestibule diagnose``: which layer broke a call, and what to do about it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from vestibule.cli.calls import found_log
from vestibule.cli.codes import NO_SUCH_RECORD, UNREADABLE_TEXT, USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.diagnose.diagnosis import (
    Diagnosis,
    diagnose_records,
    diagnose_text,
    document,
)
from vestibule.failures import Failure
from vestibule.observe.access_log import read
from vestibule.observe.access_record import AccessRecord

_CALL: Final = "CALLER SERVICE METHOD PATH"
_NAMES: Final = "CALLER NAME"
LARGEST: Final = 1024 * 1024
"""Bytes of a text."""


def diagnose(
    request: Annotated[
        str | None,
        typer.Option(
            "--request", metavar="ID", help="A call, by its x-request-id, in this machine's access log."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE|-", help="An error page, an exception, lines of an access log: as seen."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="An agent's access.jsonl. [default: of `up` here, or of this machine]"),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say which layer a failed call broke at, what that means, how to make sure and what to do.

    Exits 0 if the call went well, 1 if nobody has seen such a failure before, and with a status of the layer's own
    (10 and more, see docs/diagnose.md) if it is known.
    """

    async def main() -> Exit | int:
        if (request is None) == (text is None):
            raise USAGE.error("say either --request ID or --text FILE")
        found = _of_request(request, log) if request is not None else diagnose_text(_text(text or Path("-")))
        if found is None:
            answer(output, "diagnosis", None, lambda: console.print("[green]✓[/] the call went well"))
            return Exit.FINE
        answer(output, "diagnosis", document(found), lambda: _show(found))
        return found.exit_status

    run(output, "diagnosis", main)


def _of_request(request: str, log: Path | None) -> Diagnosis | None:
    """Raises: VST9106 (no log), VST9115 (nothing of this call in it), VST8200 (the log is damaged)."""
    place = found_log(log)
    records = [each for each in read(place) if each.request_id == request]
    if not records:
        raise NO_SUCH_RECORD.error(f"{place} has no record of a request {request[:100]!r}")
    return diagnose_records(records)


def _text(place: Path) -> str:
    """Raises: VST9116."""
    try:
        if str(place) == "-":
            data = sys.stdin.buffer.read(LARGEST)
        else:
            with place.open("rb") as file:
                data = file.read(LARGEST)
    except OSError as error:
        raise UNREADABLE_TEXT.error(f"{place} cannot be read: {error.strerror}") from error
    return data.decode("utf-8", errors="replace")


def _show(diagnosis: Diagnosis) -> None:
    if not diagnosis.failures:
        console.print("[yellow]![/] nothing in it is known to us: no layer can be named")
        _evidence(diagnosis)
        return
    first, *others = diagnosis.failures
    console.print(f"[red]✗[/] [bold]{first.layer.value}[/]: {escape(first.title)}  [dim]({first.name})[/]")
    console.print(f"  {escape(first.meaning)}")
    _evidence(diagnosis)
    for each in first.confirm:
        console.print(f"  make sure: {_commands(filled(each, diagnosis.record))}")
    console.print(f"  fix: {_commands(filled(first.fix, diagnosis.record))}")
    if others:
        console.print(f"  [dim]it may also be: {', '.join(map(_short, others))}[/]")


def filled(text: str, record: AccessRecord | None) -> str:
    """A command with what is known of the call, to be copied."""
    called = record and (record.destination_service or record.authority)
    if record is None or not record.source_spiffe_id or not called:
        return text
    call = (record.source_spiffe_id, called, record.method or "GET", record.path or "/")
    words = list(map(shlex.quote, call))
    return text.replace(_CALL, " ".join(words)).replace(_NAMES, " ".join(words[:2]))


def _evidence(diagnosis: Diagnosis) -> None:
    facts = document(diagnosis)["evidence"]
    shown = [name for name in _SHOWN if name in facts]
    if shown:
        console.print("  seen: " + escape(", ".join(f"{name} {_word(facts[name])}" for name in shown)))


_SHOWN: Final = (
    "time",
    "reporter_service",
    "direction",
    "source_spiffe_id",
    "destination_service",
    "authority",
    "method",
    "path",
    "status",
    "flags",
    "details",
    "transport_failure",
    "rule",
    "code",
    "where",
    "intent_commit",
    "duration_ms",
)


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _short(failure: Failure) -> str:
    return f"{failure.name} ({failure.layer.value})"


def _commands(text: str) -> str:
    """Commands stand out."""
    parts = text.split("`")
    return "".join(
        f"[bold]{escape(each)}[/]" if place % 2 else escape(each) for place, each in enumerate(parts)
    )
