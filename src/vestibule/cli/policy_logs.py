"""``vestibule policy suggest`` and ``unused``: what access logs say about rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.calls import found_log
from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import ServerSocketOption
from vestibule.observe.access_log import read
from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.policy.suggestions import Seen, Suggestion, suggest
from vestibule.spiffe import SpiffeId

if TYPE_CHECKING:
    from vestibule.cli.intent_places import Found
    from vestibule.intent import Intent
    from vestibule.policy import Rule

MOST_PATHS: Final = 20
"""Of one suggested rule that are written; more of them are better thought about by a person."""

LogArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="LOG", help="An agent's access.jsonl. [default: of `up` here, or of this machine]"
    ),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="DURATION", help="Only the last 15m, 24h, 7d.")
]
IntentOption = Annotated[
    str | None,
    typer.Option("--intent", metavar="DIR|COMMIT", help="The intent that is meant. [default: what runs]"),
]
ServiceOption = Annotated[str | None, typer.Option("--service", help="Only calls to this service.")]


def suggest_rules(
    log: LogArgument = None,
    service: ServiceOption = None,
    since: SinceOption = None,
    include_denied: Annotated[
        bool, typer.Option("--include-denied", help="Also allow what was denied.")
    ] = False,
    intent: IntentOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write the least rules that the calls in an access log need, as YAML to look at and to choose from.

    What was never called is not in them.  Logs are samples: let them run for as long as your rarest job takes.
    """

    async def main() -> None:
        found = await intent_of(intent, server_socket)
        names = {} if found.intent is None else names_of(found.intent)
        wanted = Verdict.DENIED if include_denied else Verdict.ALLOWED
        ports = suggestions(records(log, service, since), names, {Verdict.ALLOWED, Verdict.FAILED, wanted})
        answer(
            output,
            "policy-suggest",
            {
                "services": {
                    f"{name}/{port}": [_data(each) for each in rules] for (name, port), rules in ports.items()
                }
            },
            lambda: _show_suggestions(ports, found.intent),
        )

    run(output, "policy-suggest", main)


def suggestions(
    records: Iterable[AccessRecord], names: Mapping[str, str], verdicts: set[Verdict]
) -> dict[tuple[str, str], tuple[Suggestion, ...]]:
    """What each port would need; callers by the names that people know."""
    seen: defaultdict[tuple[str, str], list[Seen]] = defaultdict(list)
    for each in records:
        if each.verdict in verdicts and each.source_spiffe_id and not each.plaintext:
            http = each.layer is Layer.HTTP
            seen[each.destination_service, each.destination_port].append(
                Seen(
                    caller=names.get(each.source_spiffe_id, each.source_spiffe_id),
                    method=each.method if http else None,
                    path=each.path if http else None,
                )
            )
    return {port: suggest(calls) for port, calls in sorted(seen.items())}


def unused(
    log: LogArgument = None,
    service: ServiceOption = None,
    since: SinceOption = None,
    intent: IntentOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the rules that no call in an access log needed.  Exits 1 if there are any.

    A rule is needed by a call that it alone allows, or denies.  Logs are samples, and some jobs run once a year.
    """

    async def main() -> Exit:
        found = await intent_of(intent, server_socket, required=True)
        assert found.intent is not None
        used = used_rules(records(log, None, since), found.intent)
        rows = [
            {"rule": rule.name, "where": found.where(rule.where), "effect": rule.effect.value}
            for rule in _rules(found.intent, service)
            if not used[rule.name]
        ]
        answer(output, "policy-unused", {"rules": rows}, lambda: _show_unused(rows))
        return Exit.FINDINGS if rows else Exit.FINE

    run(output, "policy-unused", main)


def used_rules(records: Iterable[AccessRecord], intent: Intent) -> Counter[str]:
    """How many recorded calls each rule decides, or would if it were not in shadow mode."""
    from vestibule.cli.replay import judged

    used: Counter[str] = Counter()
    for decision in judged(records, intent):
        shadow = decision.shadow.rule if decision.shadow else None
        used.update({rule for rule in (decision.rule, shadow) if rule})
    return used


# ------------------------------------------------------------------------------------------- what is read


def records(log: Path | None, service: str | None, since: str | None) -> Iterable[AccessRecord]:
    """Calls as they arrived, the callee's proxy being the one that decides."""
    start = datetime.now(UTC) - parse_duration(since) if since else None
    for each in read(found_log(log)):
        if each.direction is not Direction.INBOUND or each.layer is Layer.LISTENER:
            continue
        if service in (None, each.destination_service) and (start is None or each.time >= start):
            yield each


async def intent_of(place: str | None, socket: Path | None, *, required: bool = False) -> Found:
    """The intent that is meant; unless ``required``, nothing where none runs."""
    try:
        from vestibule.cli.intent_places import Found, meant
        from vestibule.errors import VestibuleError
    except ModuleNotFoundError as error:
        raise MISSING_EXTRA.error(f"this needs {error.name}, which is not installed") from error

    try:
        found = await meant(place, None, socket)
    except VestibuleError:
        if required or place is not None:
            raise
        return Found(name="nothing", intent=None)
    return replace(found, intent=found.held)


def names_of(intent: Intent) -> dict[str, str]:
    """What services and gateways are called, by their identities."""
    return {str(spiffe_id): name for name, spiffe_id in intent.identities.items()}


def _rules(intent: Intent, service: str | None) -> Iterable[Rule]:
    for name, each in sorted(intent.services.items()):
        if service in (None, name):
            yield from (*each.allow, *each.deny)


# ------------------------------------------------------------------------------------------- what is shown


def _data(each: Suggestion) -> dict[str, Any]:
    return {
        "from": list(each.callers),
        "methods": list(each.methods),
        "paths": list(map(str, each.paths)),
        "calls": each.count,
    }


def _show_suggestions(ports: Mapping[tuple[str, str], tuple[Suggestion, ...]], intent: Intent | None) -> None:
    if not ports:
        console.print("no call was recorded")
    for name, found in _by_service(ports).items():
        several = intent is not None and name in intent.services and len(intent.services[name].ports) > 1
        console.print(f"# services/{escape(name)}.yaml")
        console.print("allow:")
        number = Counter[str]()
        for port, rules in found:
            for each in rules:
                lines = yaml(each, port if several or len(found) > 1 else None, number)
                console.print("\n".join(map(escape, lines)))


def _by_service(
    ports: Mapping[tuple[str, str], tuple[Suggestion, ...]],
) -> dict[str, list[tuple[str, tuple[Suggestion, ...]]]]:
    services: defaultdict[str, list[tuple[str, tuple[Suggestion, ...]]]] = defaultdict(list)
    for (name, port), rules in ports.items():
        services[name].append((port, rules))
    return dict(services)


def yaml(rule: Suggestion, port: str | None, number: Counter[str]) -> list[str]:
    """A rule as it is written.  ``number`` counts the rules that are named after a caller."""
    first = _last_segment(rule.callers[0])
    number[first] += 1
    lines = [
        f"  - id: {first}-{number[first]}  # {rule.count} call{'' if rule.count == 1 else 's'}",
        f"    from: [{', '.join(map(_quoted, rule.callers))}]",
    ]
    lines += [f"    port: {port}"] if port else []
    lines += [f"    methods: [{', '.join(rule.methods)}]"] if rule.methods else []
    if len(rule.paths) > MOST_PATHS:
        lines.append(f"    # {len(rule.paths)} paths were called; these are the first {MOST_PATHS}")
    shown = rule.paths[:MOST_PATHS]
    lines += [f"    paths: [{', '.join(_quoted(str(each)) for each in shown)}]"] if shown else []
    return lines


def _last_segment(caller: str) -> str:
    if "://" not in caller:
        return caller
    name = SpiffeId.parse(caller).path.rpartition("/")[2].lower()
    return "".join(each if each.isalnum() and each.isascii() else "-" for each in name).strip("-") or "caller"


def _quoted(text: str) -> str:
    """In quotes where YAML, inside a list, would take it for something else."""
    plain = all(each.isalnum() or each in "/._-~" for each in text)
    return text if plain else "'" + text.replace("'", "''") + "'"


def _show_unused(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        console.print(f"[bold yellow]![/] {escape(row['rule'])}  [dim]{escape(row['where'] or '')}[/]")
    many = f"{len(rows)} rule{'' if len(rows) == 1 else 's'}"
    console.print(f"{many} that no recorded call needed" if rows else "every rule was needed")
