"""``vestibule calls``: what the access log of this machine says, counted.

Proxies log every call of a burst and a sample of a lasting load, and what failed from a budget of its own: what is
counted here are records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from vestibule.cli.codes import NO_ACCESS_LOG, USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Output, OutputOption, answer, console, run
from vestibule.cli.run_state import STATE_DIRECTORY
from vestibule.observe.access_log import read
from vestibule.observe.access_record import AccessRecord, Direction, Layer

PLACES: Final = (STATE_DIRECTORY / "agent/access.jsonl", Path("/var/lib/vestibule/agent/access.jsonl"))
COLUMNS: Final[Mapping[str, Callable[[AccessRecord], str]]] = {
    "source": lambda each: each.source_spiffe_id or ("plaintext" if each.plaintext else "unknown"),
    "source-address": lambda each: each.source_address.rpartition(":")[0],
    "destination": lambda each: each.destination_service,
    "port": lambda each: each.destination_port,
    "route": lambda each: each.route,
    "version": lambda each: each.version,
    "rule": lambda each: each.rule,
    "status": lambda each: str(each.status or ""),
    "flags": lambda each: ",".join(each.flags),
    "attempts": lambda each: str(each.attempts or ""),
    "verdict": lambda each: each.verdict.value,
    "transport": lambda each: "plaintext" if each.plaintext else "mtls",
}
LogsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--log",
        help="An agent's access.jsonl; repeatable. [default: of `up` here, or of this machine]",
    ),
]
ONLY_THE_CALLER_KNOWS: Final = frozenset({"route", "version", "attempts"})


def calls(
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="LOG", help="An agent's access.jsonl. [default: of `up` here, or of this machine]"
        ),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMNS", help=f"What to count by: {', '.join(COLUMNS)}.")
    ] = "source,destination,verdict",
    service: Annotated[str | None, typer.Option("--service", help="Only calls to this service.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only the last 15m, 24h, 7d.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Count the calls in an access log: who called what, by which route and version, over mTLS or in plain text.

    Each call is counted once: as its callee's proxy saw it, or as its caller's did if route, version or attempts are
    asked for, which only that one knows.
    """

    async def main() -> None:
        columns = [each.strip() for each in by.split(",")]
        if unknown := [each for each in columns if each not in COLUMNS]:
            raise USAGE.error(
                f"there is no column {unknown[0]!r}", advice=f"Choose from {', '.join(COLUMNS)}."
            )
        start = datetime.now(UTC) - parse_duration(since) if since else None
        counts = count(read(found_log(log)), columns, service=service, since=start)
        rows = [
            {
                **dict(zip(columns, key, strict=True)),
                "calls": number,
                "share": round(number / counts.total(), 4),
            }
            for key, number in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
        ]
        answer(output, "calls", rows, lambda: _show(columns, rows))

    run(output, "calls", main)


def count(
    records: Iterable[AccessRecord],
    columns: list[str],
    *,
    service: str | None = None,
    since: datetime | None = None,
) -> Counter[tuple[str, ...]]:
    """How many calls there are of each kind."""
    seen_by = Direction.OUTBOUND if ONLY_THE_CALLER_KNOWS.intersection(columns) else Direction.INBOUND
    return Counter(
        tuple(COLUMNS[column](each) for column in columns)
        for each in records
        if each.direction is seen_by
        and each.layer is Layer.HTTP
        and service in (None, each.destination_service)
        and (since is None or each.time >= since)
    )


def found_log(log: Path | None, places: Sequence[Path] = PLACES, what: str = "access log") -> Path:
    """The log that is meant: the one that is named, else the first that is there.  Raises: VST9106."""
    found = next((each for each in ((log,) if log is not None else places) if each.exists()), None)
    if found is None or found.is_dir():
        raise NO_ACCESS_LOG.error(f"there is no {what} {log if log is not None else 'here'}")
    return found


def recorded(logs: Sequence[Path] | None) -> Iterator[AccessRecord]:
    """What stands in these access logs, or in the one that is found.  Raises: VST9106, VST8200."""
    return chain.from_iterable(map(read, found_logs(logs)))


def found_logs(logs: Sequence[Path] | None) -> list[Path]:
    """These access logs, or the one that is found.  Raises: VST9106."""
    return [found_log(each) for each in logs] if logs else [found_log(None)]


def _show(columns: list[str], rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    table.add_column("CALLS", justify="right")
    table.add_column("SHARE", justify="right")
    for row in rows:
        share = f"{row['share'] * 100:.1f}%"
        table.add_row(*(row[column] or "-" for column in columns), str(row["calls"]), share)
    console.print(table)
