"""``vestibule audit list``, ``show`` and ``export``: finding who did what."""

from __future__ import annotations

import csv
import json
import sys
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.audit import RecordFilter, records
from vestibule.cli.audit import PathArgument, find_log
from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.errors import VestibuleError

_COLUMNS: Final = ("seq", "time", "actor", "action", "subject", "outcome", "details", "prev", "hash")


class Form(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The forms of an export."""

    JSONL = "jsonl"
    CSV = "csv"


SinceOption = Annotated[
    str,
    typer.Option("--since", metavar="TIME|DURATION", help="From then on: 2026-05-01T12:00:00Z, or 24h ago."),
]
UntilOption = Annotated[str, typer.Option("--until", metavar="TIME|DURATION", help="Before then.")]
ActorOption = Annotated[str, typer.Option("--actor", help="Who acted; with * and ?.")]
ActionOption = Annotated[str, typer.Option("--action", help="What was done, such as 'entry.*'.")]
SubjectOption = Annotated[str, typer.Option("--subject", help="To whom or what; with * and ?.")]
OutcomeOption = Annotated[str, typer.Option("--outcome", help="ok, or an error code; with * and ?.")]


def list_records(
    path: PathArgument = None,
    since: SinceOption = "",
    until: UntilOption = "",
    actor: ActorOption = "*",
    action: ActionOption = "*",
    subject: SubjectOption = "*",
    outcome: OutcomeOption = "*",
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0: all.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """List records of the audit log, oldest first, those that are asked for."""

    async def main() -> Exit:
        found = records(path or find_log(), _filter(since, until, actor, action, subject, outcome))
        newest = list(deque(found, limit) if limit else found)

        def text() -> None:
            for each in newest:
                console.print(escape(line(each)))
            console.print(f"Found {len(newest)} record{'' if len(newest) == 1 else 's'}")

        answer(output, "audit-records", {"records": newest}, text)
        return Exit.FINE

    run(output, "audit-records", main)


def show(
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The record's number.")],
    path: PathArgument = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one record whole."""

    async def main() -> Exit:
        found = next(islice((each for each in records(path or find_log()) if each["seq"] == number), 1), None)
        if found is None:
            raise USAGE.error(
                f"there is no record {number}", advice="`vestibule audit list` shows which there are."
            )
        answer(output, "audit-record", found, lambda: _show(found))
        return Exit.FINE

    run(output, "audit-record", main)


def export(
    path: PathArgument = None,
    since: SinceOption = "",
    until: UntilOption = "",
    actor: ActorOption = "*",
    action: ActionOption = "*",
    subject: SubjectOption = "*",
    outcome: OutcomeOption = "*",
    form: Annotated[Form, typer.Option("--format", help="jsonl: as it stands in the log.")] = Form.JSONL,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write records to standard output, for other programs; with `--output json`, all of them in one answer."""

    async def main() -> Exit:
        wanted = _filter(since, until, actor, action, subject, outcome)
        found = records(path or find_log(), wanted)
        if output is Output.TEXT:
            _export(form, found)  # one by one: a log may be longer than memory
        else:
            answer(output, "audit-export", list(found), lambda: None)
        return Exit.FINE

    run(output, "audit-export", main)


def _export(form: Form, found: Iterator[dict[str, Any]]) -> None:
    if form is Form.JSONL:
        for each in found:
            sys.stdout.write(json.dumps(each, sort_keys=True, separators=(",", ":")) + "\n")
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(_COLUMNS)
    for each in found:
        table.writerow([_cell(each[name]) for name in _COLUMNS])


def _cell(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    # A spreadsheet must not take what somebody put into a name for a formula.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def _filter(since: str, until: str, actor: str, action: str, subject: str, outcome: str) -> RecordFilter:
    return RecordFilter(
        since=instant(since),
        until=instant(until),
        actor=actor,
        action=action,
        subject=subject,
        outcome=outcome,
    )


def instant(text: str) -> datetime | None:
    """An instant, or so long ago; None for nothing.  Raises: VST9100."""
    if not text:
        return None
    try:
        return datetime.now(UTC) - parse_duration(text)
    except VestibuleError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise USAGE.error(
            f"{text[:100]!r} is neither a time nor a duration", advice="Write 2026-05-01T12:00:00Z, or 24h."
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def line(record: dict[str, Any]) -> str:
    """One record in one line."""
    outcome = "" if record["outcome"] == "ok" else f" {record['outcome']}"
    return f"{record['seq']} {record['time'][:19]}Z {record['actor']} {record['action']} {record['subject']}{outcome}"


def _show(record: dict[str, Any]) -> None:
    for name in _COLUMNS:
        if name != "details":
            console.print(escape(f"{name} {record[name]}"))
    for name, value in sorted(record["details"].items()):
        console.print(escape(f"details.{name} {value}"))
