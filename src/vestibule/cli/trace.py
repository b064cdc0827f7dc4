"""``vestibule trace``: one request through all services, from the access logs of their proxies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.calls import LogsOption, found_logs, recorded
from vestibule.cli.codes import NO_SUCH_RECORD
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.observe.access_record import AccessRecord
from vestibule.observe.hops import Hop, join


def trace(
    request: Annotated[
        str, typer.Argument(metavar="ID", help="An x-request-id, or the trace id of a traceparent.")
    ],
    log: LogsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a request's way: every call made for it, who called whom, the answer, the tries, and where the time went.

    Services that pass `x-request-id` or `traceparent` on to those that they call are joined. Exits 1 if a call failed.
    """

    async def main() -> Exit:
        hops = join(_of(request, log))
        answer(
            output,
            "trace",
            {"id": request, "calls": [_document(each) for each in hops]},
            lambda: _show(request, hops),
        )
        return Exit.FINDINGS if any(map(_any_failed, hops)) else Exit.FINE

    run(output, "trace", main)


def _of(request: str, logs: Sequence[Path] | None) -> list[AccessRecord]:
    """Every record of a request: those with its id, and those of the same traces.

    Raises: VST9106 (no log), VST9115 (nothing of it there), VST8200 (a log is damaged).
    """
    named = [each for each in recorded(logs) if request in (each.request_id, each.trace_id)]
    if not named:
        shown = ", ".join(map(str, found_logs(logs)))
        raise NO_SUCH_RECORD.error(f"{shown} has no record of a request {request[:100]!r}")
    traces = {each.trace_id for each in named if each.trace_id}
    if not traces:
        return named
    return [each for each in recorded(logs) if each.trace_id in traces or request == each.request_id]


def _any_failed(hop: Hop) -> bool:
    return hop.failed or any(map(_any_failed, hop.calls))


def _document(hop: Hop) -> dict[str, Any]:
    first = hop.first
    return {
        "time": first.time.isoformat(),
        "source": hop.source,
        "destination": hop.destination,
        "destination_spiffe_id": first.destination_spiffe_id,
        "method": first.method,
        "path": first.path,
        "status": first.status,
        "verdict": first.verdict.value,
        "flags": list(first.flags),
        "details": first.details,
        "rule": hop.telling.rule,
        "request_id": first.request_id,
        "attempts": first.attempts,
        "seen_by": [each for each, there in (("caller", hop.outbound), ("callee", hop.inbound)) if there],
        "total_ms": hop.total_ms,
        "between_ms": hop.between_ms,
        "own_ms": hop.own_ms,
        "calls": [_document(each) for each in hop.calls],
    }


def _show(request: str, hops: Sequence[Hop]) -> None:
    console.print(f"[dim]request {escape(request)}[/]")
    _grow(hops, "")


def _grow(hops: Sequence[Hop], indent: str) -> None:
    """One line for each call, and below it those that were made for it; nothing is cut off, however wide it is."""
    for place, hop in enumerate(hops, start=1):
        last = place == len(hops)
        console.print(f"[dim]{indent}{'└──' if last else '├──'}[/] {_line(hop)}")
        _grow(hop.calls, indent + ("    " if last else "│   "))


def _line(hop: Hop) -> str:
    first = hop.first
    mark = "[red]✗[/]" if hop.failed else "[green]✓[/]"
    call = f"[bold]{escape(_name(hop.source))}[/] → [bold]{escape(hop.destination)}[/]"
    asked = f"{escape(first.method)} {escape(first.path)} {first.status or '-'} {_milliseconds(hop.total_ms)}"
    return f"{mark} {call} {asked}{_time(hop)}{escape(_more(hop))}"


def _time(hop: Hop) -> str:
    if hop.own_ms is None or hop.between_ms is None:
        return ""
    return f" [dim](app {_milliseconds(hop.own_ms)}, between {_milliseconds(hop.between_ms)})[/]"


def _more(hop: Hop) -> str:
    first = hop.first
    facts = []
    if (first.attempts or 1) > 1:
        facts.append(f"{first.attempts} tries")
    if hop.failed:
        facts += [",".join(hop.telling.flags)] if hop.telling.flags else []
        facts.append(hop.telling.details or hop.telling.verdict.value)
    if hop.outbound is None and not first.plaintext and first.source_spiffe_id:
        facts.append("no record of the caller")
    if first.plaintext:
        facts.append("in plain text")
    if not hop.inbound:
        facts.append("no record of the callee")
    return f"  [{'; '.join(facts)}]" if facts else ""


def _name(source: str) -> str:
    """The last part of a SPIFFE ID, as services are called."""
    return source.rpartition("/")[2] if source.startswith("spiffe://") else source or "somebody"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
