"""``vestibule policy shadow``: what rules in shadow mode would change, from what proxies recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.policy_logs import (
    IntentOption,
    LogArgument,
    ServiceOption,
    SinceOption,
    intent_of,
    names_of,
    records,
)
from vestibule.cli.sockets import ServerSocketOption
from vestibule.observe.access_record import AccessRecord, Verdict


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """What rules in shadow mode would change for one kind of call."""

    caller: str
    target: str
    method: str
    now: str
    then: str
    rule: str


def shadow(
    log: LogArgument = None,
    service: ServiceOption = None,
    since: SinceOption = None,
    intent: IntentOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what would change if rules in shadow mode counted, from what proxies recorded.  Exits 1 if anything would."""

    async def main() -> Exit:
        found = await intent_of(intent, server_socket)
        names = {} if found.intent is None else names_of(found.intent)
        looked, changes = shadow_changes(records(log, service, since), names)
        rows = [
            {
                "caller": each.caller,
                "target": each.target,
                "method": each.method,
                "now": each.now,
                "then": each.then,
                "rule": each.rule or None,
                "calls": number,
            }
            for each, number in sorted(changes.items(), key=lambda item: (-item[1], item[0]))
        ]
        data = {"calls": looked, "changes": rows}
        answer(output, "policy-shadow", data, lambda: _show_shadow(rows, looked))
        return Exit.FINDINGS if rows else Exit.FINE

    run(output, "policy-shadow", main)


def shadow_changes(records: Iterable[AccessRecord], names: Mapping[str, str]) -> tuple[int, Counter[Change]]:
    """How many records have a verdict of the shadow rules, and where it differs."""
    looked, changes = 0, Counter[Change]()
    for each in records:
        if not each.shadow_verdict:
            continue
        looked += 1
        now = "denied" if each.verdict is Verdict.DENIED else "allowed"
        if each.shadow_verdict != now:
            caller = names.get(each.source_spiffe_id, each.source_spiffe_id or "unknown")
            target = f"{each.destination_service}/{each.destination_port}"
            changes[Change(caller, target, each.method, now, each.shadow_verdict, each.shadow_rule)] += 1
    return looked, changes


def _show_shadow(rows: list[dict[str, Any]], looked: int) -> None:
    for row in rows:
        mark = "[bold red]-[/]" if row["then"] == "denied" else "[bold green]+[/]"
        by = f" by {row['rule']}" if row["rule"] else ""
        calls = f"{row['calls']:,} call{'' if row['calls'] == 1 else 's'}"
        what = f"{row['caller']} {row['method']} on {row['target']}: {calls} {row['now']} now, {row['then']} then{by}"
        console.print(f"{mark} {escape(what)}")
    if not looked:
        console.print("no recorded call met a rule in shadow mode")
    elif not rows:
        console.print(f"nothing would change for {looked:,} recorded call{'' if looked == 1 else 's'}")
