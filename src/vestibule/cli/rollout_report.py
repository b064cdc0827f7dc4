"""A rollout for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from vestibule.cli.output import Terminal, complaints, console
from vestibule.cli.server_calls import instant
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2 as wire

WIDE: Final = 1000
BUSY: Final = "no answer yet"
"""How the reason begins of a proxy that has only just been told."""
TRYING: Final = frozenset({"first-wave", "all"})
PHASES: Final[Mapping[str, str]] = {
    "steady": "in force",
    "first-wave": "first wave",
    "all": "with all proxies, watched",
    "refused": "the newest was taken back",
    "pinned": "rolled back",
}
COLOURS: Final[Mapping[str, str]] = {
    "good": "green",
    "refused": "red",
    "rolled-back": "yellow",
    "trying": "cyan",
}


def ended(found: wire.Rollout) -> bool:
    """Whether nothing is being tried, or nothing will go on by itself."""
    return found.phase not in TRYING or bool(found.paused)


def document(found: wire.Rollout) -> dict[str, Any]:
    """The rollout as the envelope carries it; instants as texts."""
    return {
        "phase": found.phase,
        "good": found.good or None,
        "head": found.head or None,
        "trial": found.trial or None,
        "since": instant(found.since),
        "watched_until": instant(found.watched_until),
        "paused": found.paused or None,
        "failed": found.failed or None,
        "reason": found.reason or None,
        "actor": found.actor or None,
        "place": found.place,
        "newest": _intent(found.newest) if found.HasField("newest") else None,
        "proxies": found.proxies,
        "wave": found.wave,
        "acknowledged": found.acknowledged,
        "percent": percent(found),
        "behind": [
            {
                "instance": each.instance_id,
                "service": each.service,
                "wanted": each.wanted,
                "why": each.why,
                "busy": each.why.startswith(BUSY),
            }
            for each in found.behind
        ],
        "behind_total": found.behind_total,
        "errors": [
            {
                "service": each.service,
                "side": each.side,
                "before": {"requests": each.requests_before, "failed": each.failed_before},
                "since": {
                    "requests": each.requests_since,
                    "failed": each.failed_since,
                    "denied": each.denied_since,
                },
            }
            for each in found.errors
        ],
        "warnings": list(found.warnings),
    }


def percent(found: wire.Rollout) -> int:
    """How much of all proxies has acknowledged the newest intent; whole, and 100 only for all of them."""
    return 100 * found.acknowledged // found.proxies if found.proxies else 100


def history_document(found: wire.RolloutHistory) -> list[dict[str, Any]]:
    """The history as the envelope carries it."""
    return [_intent(each) for each in found.intents]


def _intent(each: wire.RolledIntent) -> dict[str, Any]:
    return {
        "version": each.version,
        "place": each.place,
        "commit": each.commit or None,
        "author": each.author or None,
        "subject": each.subject or None,
        "signed_by": each.signed_by or None,
        "committed_at": instant(each.committed_at),
        "taken_up_at": instant(each.taken_up_at),
        "outcome": each.outcome,
        "reason": each.reason or None,
        "ended_at": instant(each.ended_at),
    }


def progress_line(found: wire.Rollout, now: float) -> str:
    """One line of what is under way."""
    left = max(0, round(found.watched_until - now))
    return escape(
        f"{found.trial}  {PHASES[found.phase]}  {percent(found)}% acknowledged "
        f"({found.acknowledged} of {found.proxies})  watched for {left} s more"
    )


def show(data: Mapping[str, Any]) -> None:
    """The rollout for people."""
    newest = data["trial"] or data["good"]
    console.print(f"[bold]{escape(newest or 'no intent')}[/]  {PHASES.get(data['phase'], data['phase'])}")
    if (about := data["newest"]) is not None and about["commit"] and about["version"] == newest:
        console.print(f"  {escape(about['subject'] or '')}  [dim]{escape(about['author'] or '')}[/]")
    console.print(
        f"  {data['percent']}% acknowledged: {data['acknowledged']} of {data['proxies']} proxies"
        + (f", {data['wave']} in this wave" if data["wave"] != data["proxies"] else "")
    )
    if data["trial"] is not None:
        until = datetime.fromisoformat(data["watched_until"]) if data["watched_until"] else datetime.now(UTC)
        left = max(0, round(until.timestamp() - time.time()))
        console.print(f"  back, if anything goes wrong: {escape(data['good'])}; watched for {left} s more")
    for sentence in data["warnings"]:
        complaints.print(f"[bold yellow]![/] {escape(sentence)}")
    for each in data["errors"]:
        before, since = each["before"], each["since"]
        console.print(
            f"  {escape(each['service'])} {each['side']}: {since['failed']} of {since['requests']} requests failed, "
            f"before it {before['failed']} of {before['requests']}"
        )
    _show_behind(data)


def _show_behind(data: Mapping[str, Any]) -> None:
    if not data["behind"]:
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("BEHIND", "SERVICE", "WANTED", "WHY"):
        table.add_column(heading, overflow="fold")
    for each in data["behind"]:
        table.add_row(*(escape(each[name]) for name in ("instance", "service", "wanted", "why")))
    _printer().print(table)
    if (more := data["behind_total"] - len(data["behind"])) > 0:
        console.print(f"and {more} more")


def show_history(data: list[dict[str, Any]]) -> None:
    """The history for people."""
    if not data:
        console.print("no intent was taken up yet")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("VERSION", "TAKEN UP", "OUTCOME", "COMMIT", "WHY"):
        table.add_column(heading, overflow="fold")
    for each in data:
        colour = COLOURS.get(each["outcome"], "dim")
        commit = f"{each['subject']} ({each['author']})" if each["commit"] else each["place"]
        table.add_row(
            f"[bold]{escape(each['version'])}[/]",
            (each["taken_up_at"] or "")[:19],
            f"[{colour}]{each['outcome']}[/]",
            escape(commit),
            escape(each["reason"] or ""),
        )
    _printer().print(table)


def _printer() -> Terminal:
    # Where nobody looks at a terminal, a table is as wide as what it holds.
    return console if console.is_terminal else Terminal(width=WIDE, highlight=False)
