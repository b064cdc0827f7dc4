"""``vestibule secret access-log``: who read which secret, when, by which rule.  From the audit log of this machine."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.audit import RecordFilter, records
from vestibule.cli.audit import find_log
from vestibule.cli.audit_records import SinceOption, UntilOption, instant
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run


def access_log(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Which secret, with * and ?: secret/payments/*. [default: all]"),
    ] = "*",
    caller: Annotated[str, typer.Option("--caller", help="Who: a SPIFFE ID; with * and ?.")] = "*",
    verb: Annotated[str, typer.Option("--verb", help="read, write, list, rotate or use.")] = "*",
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0: all.")] = 50,
    log: Annotated[
        Path | None, typer.Option("--log", help="The audit.jsonl of a server. [default: as for `audit list`]")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say who read, wrote or was refused which secret, when, and by which rule of which commit.

    Every access is recorded before it is answered; `audit verify` checks that no record was changed.
    """

    async def main() -> Exit:
        wanted = RecordFilter(
            since=instant(since),
            until=instant(until),
            actor=caller,
            action=f"secret.{verb}",
            subject=path
            if path == "*" or path.startswith(("secret/", "database/", "transit/"))
            else f"secret/{path}",
            outcome="denied" if denied else "*",
        )
        # What was announced before it was done is on record again once it was.
        found = (
            _access(each) for each in records(log or find_log(), wanted) if each["outcome"] != "requested"
        )
        newest = list(deque(found, limit) if limit else found)
        answer(output, "secret-access-log", {"accesses": newest}, lambda: _show(newest))
        return Exit.FINE

    run(output, "secret-access-log", main)


def _access(record: dict[str, Any]) -> dict[str, Any]:
    details = record["details"]
    return {
        "time": record["time"],
        "caller": record["actor"],
        "via": details.get("via"),
        "verb": record["action"].removeprefix("secret."),
        "secret": record["subject"],
        "version": details.get("version"),
        "outcome": record["outcome"],
        "rule": details.get("rule"),
        "commit": details.get("commit"),
        "code": details.get("code"),
        "request_id": details.get("request_id"),
        "seq": record["seq"],
    }


def _show(found: list[dict[str, Any]]) -> None:
    for each in found:
        version = f" v{each['version']}" if each["version"] else ""
        mark = "[green]✓[/]" if each["outcome"] == "ok" else "[red]✗[/]"
        by = each["rule"] or "no rule"
        commit = f" {each['commit']}" if each["commit"] else ""
        what = f"{each['verb']} {each['secret']}{version}"
        console.print(
            f"{each['time']} {mark} {escape(each['caller'])} {escape(what)}  "
            f"[dim]{escape(by + commit)} {escape(str(each['request_id'] or ''))}[/]"
        )
    console.print(f"Found {len(found)} access{'' if len(found) == 1 else 'es'}")
