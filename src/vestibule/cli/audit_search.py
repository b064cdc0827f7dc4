"""``vestibule audit search``: one word, in every field of the records, through the logs of all servers."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.audit import RecordFilter, records
from vestibule.cli.audit import find_log
from vestibule.cli.audit_records import SinceOption, UntilOption, instant, line
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run

WordArgument = Annotated[
    str,
    typer.Argument(
        metavar="WORD",
        help="What a field or a detail is, or has in it; * and ? for anything. A keyed hash, from "
        "sys/audit-hash, finds where a value was used without telling it.",
    ),
]
LogOption = Annotated[
    list[Path] | None,
    typer.Option("--log", metavar="FILE", help="The audit.jsonl of a server; repeat it for several servers."),
]


def search(
    word: WordArgument,
    log: LogOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0: all.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """Find records by a word in any field: an identity, a path, a request's ID, a rule.  Several logs are one story."""

    async def main() -> Exit:
        wanted = RecordFilter(since=instant(since), until=instant(until))
        found = merged(log or [find_log()], wanted, word)
        newest = list(deque(found, limit) if limit else found)

        def text() -> None:
            for place, each in newest:
                prefix = f"{place}: " if log and len(log) > 1 else ""
                console.print(escape(f"{prefix}{line(each)}"))
            console.print(f"Found {len(newest)} record{'' if len(newest) == 1 else 's'}")

        data = [{"log": str(place), **each} for place, each in newest]
        answer(output, "audit-search", {"records": data}, text)
        return Exit.FINE

    run(output, "audit-search", main)


def merged(logs: list[Path], wanted: RecordFilter, word: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of several logs that have the word, in the order of their times."""
    found = ([(place, each) for each in records(place, wanted) if has(each, word)] for place in logs)
    return heapq.merge(*found, key=lambda pair: pair[1]["time"])


def has(record: dict[str, Any], word: str) -> bool:
    """Whether one of the record's values is, or has in it, the word."""
    pattern = word if "*" in word or "?" in word else f"*{word}*"
    return any(fnmatchcase(value, pattern) for value in _values(record))


def _values(record: dict[str, Any]) -> Iterator[str]:
    for name in ("actor", "action", "subject", "outcome"):
        yield record[name]
    for value in record["details"].values():
        if isinstance(value, list):
            yield from map(str, value)
        else:
            yield str(value)
