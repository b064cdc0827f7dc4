"""``vestibule decisions``: what was decided on this node, by which rule; read, searched and followed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.calls import found_log
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.run_state import STATE_DIRECTORY
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.observe.decisions import SCHEMA

PLACES: Final = (STATE_DIRECTORY / "agent/decisions.jsonl", Path("/var/lib/vestibule/agent/decisions.jsonl"))
LOOK_EVERY: Final = 0.2
MOST: Final = 100
MARKS: Final = {"allowed": "[green]✓[/]", "denied": "[red]✗[/]", "refused": "[red]✗[/]"}


def decisions(
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="LOG", help="An agent's decisions.jsonl. [default: of `up` here, or of this machine]"
        ),
    ] = None,
    caller: Annotated[
        str,
        typer.Option("--caller", help="Only calls from this SPIFFE ID, or from the service of this name."),
    ] = "",
    service: Annotated[str, typer.Option("--service", help="Only calls to this service.")] = "",
    verdict: Annotated[str, typer.Option("--verdict", help="Only allowed, denied or refused.")] = "",
    rule: Annotated[
        str, typer.Option("--rule", help="Only by this rule; break-glass/ for all of those.")
    ] = "",
    request: Annotated[
        str, typer.Option("--request", help="Only the request with this id, or trace id.")
    ] = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only the last 15m, 24h, 7d.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="The newest so many; 0 for all.", min=0)] = MOST,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is decided from now on.")
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what was decided on this node: who called what, whether that was allowed, and by which rule.

    Where the server can be asked and still has the intent that decided, the rule's place in it is told, too.  With
    --follow and --output json each decision is a line of JSON.
    """

    async def main() -> Exit:
        place = found_log(log, PLACES, "decision log")
        places = await _places(server_socket)
        start = datetime.now(UTC) - parse_duration(since) if since else None
        wanted = Wanted(caller, service, verdict, rule, request, start)
        found = [each for each in read(place) if wanted.fits(each)]
        shown = [placed(each, places) for each in (found[-limit:] if limit else found)]
        if not follow:
            answer(output, "decisions", shown, lambda: _show(shown))
            return Exit.FINE if shown else Exit.FINDINGS
        for each in shown:
            _tell(each, output)
        for each in followed(place):
            if wanted.fits(each):
                _tell(placed(each, places), output)
        return Exit.FINE

    run(output, "decisions", main)


async def _places(socket: Path | None) -> Mapping[tuple[str, str], str]:
    """Where the rules of the intent in force are written, by its version and their names; nothing without a server."""
    try:
        from vestibule.cli.intent_places import meant

        found = await meant(None, None, socket)
    except (ModuleNotFoundError, VestibuleError):
        return {}
    assert found.intent is not None
    return {(found.intent.version, rule.name): str(rule.where) for rule in found.intent.rules if rule.where}


def placed(decision: dict[str, Any], places: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """A decision with its rule's file, line and column as ``where``, if they are known."""
    where = places.get((decision.get("intent_version", ""), decision.get("rule", "")))
    return {**decision, "where": where} if where else decision


class Wanted:
    """What was asked for."""

    def __init__(
        self, caller: str, service: str, verdict: str, rule: str, request: str, since: datetime | None
    ) -> None:
        self._caller = caller
        self._rule = rule
        self._request = request
        self._equal = {"service": service, "verdict": verdict}
        self._since = since

    def fits(self, decision: dict[str, Any]) -> bool:
        """Whether a decision is asked for."""
        if any(value and decision.get(name) != value for name, value in self._equal.items()):
            return False
        if self._caller and not _is_from(decision.get("caller", ""), self._caller):
            return False
        if self._request and self._request not in (decision.get("request_id"), decision.get("trace_id")):
            return False
        if self._rule and not _is_by(decision.get("rule", ""), self._rule):
            return False
        return self._since is None or datetime.fromisoformat(decision["time"]) >= self._since


def _is_from(caller: str, asked: str) -> bool:
    return caller == asked if "://" in asked else caller.rpartition("/")[2] == asked


def _is_by(rule: str, asked: str) -> bool:
    return rule.startswith(asked) if asked.endswith("/") else rule == asked


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All decisions that are kept, oldest first; lines that are none are left out."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -_number(file))
    for file in [*(each for each in rotated if _number(each)), path]:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from filter(None, map(_decision, lines))
        except FileNotFoundError:
            continue


def followed(path: Path) -> Generator[dict[str, Any]]:
    """Decisions from now on, over the ends of files."""
    file, partial = _opened(path, at_end=True), ""
    try:
        while True:
            # Looked at before reading: into a file that has another name by then nobody writes any more.
            is_another = _is_another(path, file)
            for text in iter(file.readline, "") if file is not None else ():
                partial += text
                if partial.endswith("\n"):
                    decision, partial = _decision(partial), ""
                    if decision is not None:
                        yield decision
            if is_another:
                if file is not None:
                    file.close()
                file, partial = _opened(path, at_end=False), ""
            else:
                time.sleep(LOOK_EVERY)
    finally:
        if file is not None:
            file.close()


def _opened(path: Path, *, at_end: bool) -> IO[str] | None:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if at_end:
        file.seek(0, 2)
    return file


def _is_another(path: Path, file: IO[str] | None) -> bool:
    """Whether there is another file by now under the name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    if file is None:
        return True

    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def _number(file: Path) -> int:
    suffix = file.suffix.lstrip(".")
    return int(suffix) if suffix.isdecimal() else 0


def _decision(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def _tell(decision: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        typer.echo(json.dumps(decision, separators=(",", ":"), ensure_ascii=False))
    else:
        _show([decision])


def _reason(decision: dict[str, Any]) -> str:
    """Why, where no rule decided."""
    unruled = "[none]" in decision["details"] or decision["details"] == "direct_response"
    if decision["verdict"] == "denied" and (unruled or not decision["details"]):
        return "no rule allows it"
    return str(decision["details"]) or "no rule"


def _show(found: list[dict[str, Any]]) -> None:
    for each in found:
        where = f"{each['service']}/{each['port']}".rstrip("/") or each["authority"] or "-"
        asked = each["mcp_method"] or each["method"]
        what = " ".join(filter(None, (asked, each["mcp_target"] or each["path"]))) or each["layer"]
        why = each["rule"] or _reason(each)
        why += f" ({each['where']})" if each.get("where") else ""
        shadow = (
            f" (shadow: {each['shadow_verdict']} {each['shadow_rule']})" if each["shadow_verdict"] else ""
        )
        caller = each["caller"] or ("plain text" if each["plaintext"] else "unknown")
        console.print(
            f"{each['time'][:23]} {MARKS.get(each['verdict'], '?')} {escape(caller)} → {escape(where)} "
            f"{escape(what)}: {escape(why)}{escape(shadow)} [dim]{escape(each['request_id'])}[/]",
            soft_wrap=True,
        )
