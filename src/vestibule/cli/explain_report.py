"""An explanation as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.explanations import Told, is_plain
from vestibule.cli.intent_places import Found
from vestibule.cli.output import console
from vestibule.intent.journeys import Journey
from vestibule.observe.access_record import AccessRecord, Direction
from vestibule.policy import NOT_NORMAL
from vestibule.policy.explaining import Miss, Near
from vestibule.policy.mcp import TARGET_NOT_NORMAL, UNKNOWN_METHOD

_REFUSALS: Final = {
    NOT_NORMAL: "the path is written in another way than its normal one, which could pass rules by",
    UNKNOWN_METHOD: "neither MCP nor a rule of the port knows the method",
    TARGET_NOT_NORMAL: "the target is missing, or could be read in two ways",
}

# ------------------------------------------------------------------------------------------------- JSON


def document(told: Told) -> dict[str, Any]:
    """The answer as the envelope carries it."""
    call, why = told.asked.call, told.explanation
    shadow = why.decision.shadow
    return {
        "caller": {"name": told.asked.caller, "spiffe_id": None if is_plain(call) else str(call.caller)},
        "target": f"{told.asked.service.name}/{told.asked.port.name}",
        "method": call.method,
        "path": call.path,
        "time": call.time.isoformat() if call.time else None,
        "intent": told.found.version,
        "allowed": told.allowed,
        "caller_proxy": None if told.journey is None else _journey(told.journey, told.found),
        "callee_proxy": {
            "allowed": why.decision.allowed,
            "rule": why.decision.rule,
            "where": told.place(why.rule),
            "reason": why.rule.reason or None if why.rule else None,
            "not_judged": why.error or None,
            "decided": {"by": "decision service" if told.central else "proxy", "why": told.central or None},
            "otherwise": why.otherwise.name if why.otherwise else None,
            "shadow": None if shadow is None else {"allowed": shadow.allowed, "rule": shadow.rule},
            "shadow_unjudged": list(told.unjudged),
            "near": [_near(each, told) for each in why.near],
        },
        "records": [_record(each) for each in told.records],
    }


def _journey(travels: Journey, found: Found) -> dict[str, Any]:
    return {
        "sent": travels.sent,
        "route": travels.route or None,
        "where": found.where(travels.written.where) if travels.written else None,
        "versions": dict(travels.versions) or None,
        "path": travels.path or None,
        "host": travels.host or None,
        "redirect": travels.redirect,
        "timeout_seconds": travels.timeout.total_seconds() if travels.timeout else None,
        "attempts": travels.attempts,
        "fault": travels.fault,
    }


def _near(near: Near, told: Told) -> dict[str, Any]:
    return {
        "rule": near.rule.name,
        "where": told.place(near.rule),
        "misses": [
            {"part": each.part.value, "told": each.told, "saw": dict(each.saw)} for each in near.misses
        ],
    }


def _record(each: AccessRecord) -> dict[str, Any]:
    return {
        "direction": each.direction.value,
        "time": each.time.isoformat(),
        "verdict": each.verdict.value,
        "status": each.status,
        "rule": each.rule or None,
        "flags": list(each.flags),
        "details": each.details or None,
        "route": each.route or None,
        "intent": each.intent_version or None,
    }


# ------------------------------------------------------------------------------------------------- text


def show(told: Told) -> None:
    """For people at a terminal."""
    mark = "[bold green]✓[/]" if told.allowed else "[bold red]✗[/]"
    verdict = "allowed" if told.allowed else "denied"
    version = f"  [dim]intent {escape(told.found.version or told.found.name)}[/]"
    console.print(f"{mark} {escape(_headline(told))}: [bold]{verdict}[/]{version}")
    for line in _caller_lines(told):
        console.print(f"  {line}")
    for line in _callee_lines(told):
        console.print(f"  {line}")
    for each in told.records:
        console.print(f"  [dim]recorded[/] {escape(_recorded(each))}")
        if each.intent_version and each.intent_version != told.found.version:
            console.print(
                f"    [yellow]![/] decided by intent {escape(each.intent_version)}, explained by "
                f"{escape(told.found.version or told.found.name)}"
            )


def _headline(told: Told) -> str:
    call, asked = told.asked.call, told.asked
    what = "connects" if call.method is None else f"{call.method} {call.path}"
    if call.mcp is not None and call.mcp.method:
        what = f"{call.mcp.method} {call.mcp.target or ''}".rstrip()
    return f"{asked.caller} → {asked.service.name}/{asked.port.name} {what}"


def _caller_lines(told: Told) -> Iterator[str]:
    travels = told.journey
    if travels is None:
        return
    label = "[dim]caller's proxy[/]"
    if travels.redirect is not None:
        yield f"{label} answers {travels.redirect} itself, by {escape(travels.route)}{_at(told, travels)}"
    elif not travels.sent:
        yield f"{label} answers 403 itself (VST4001): no rule lets this caller make any call to the port"
    else:
        parts = [f"sends it by {travels.route}{_at(told, travels)}"]
        parts += (
            [f"to {', '.join(f'{name} ({weight}%)' for name, weight in travels.versions)}"]
            if travels.versions
            else []
        )
        if travels.path and travels.path != told.asked.call.path:
            parts.append(f"as {travels.path}")
        parts += [f"within {travels.timeout.total_seconds():g} s"] if travels.timeout else []
        parts += [f"tries it up to {travels.attempts} times"] if travels.attempts > 1 else []
        parts += ["with faults on purpose"] if travels.fault else []
        yield f"{label} {escape(', '.join(parts))}"


def _at(told: Told, travels: Journey) -> str:
    place = told.found.where(travels.written.where) if travels.written else None
    return f" ({place})" if place else ""


def _callee_lines(told: Told) -> Iterator[str]:
    why, label = told.explanation, "[dim]callee's proxy[/]"
    place = told.place(why.rule)
    by = f"{why.decision.rule} ({place})" if place else why.decision.rule or ""
    if told.allowed:
        yield f"{label} allows it by [bold]{escape(by)}[/]"
    elif why.decision.rule:
        why_so = f": {_REFUSALS[why.decision.rule]}" if why.decision.rule in _REFUSALS else ""
        yield f"{label} denies it by [bold]{escape(by)}[/]{why_so}"
        if why.error:
            yield f"  [yellow]![/] a denial that cannot be judged counts: {escape(why.error)}"
        if why.otherwise is not None:
            other = told.place(why.otherwise)
            yield f"  but for it, {escape(why.otherwise.name)}{escape(f' ({other})' if other else '')} would allow it"
    else:
        yield f"{label} denies it (VST4001): no rule allows it"
    if told.central:
        yield f"  [dim]asks the decision service what it cannot judge:[/] {escape(told.central)}"
    if why.rule is not None and why.rule.reason:
        yield f"  [dim]reason:[/] {escape(why.rule.reason)}"
    for near in why.near:
        yield from _near_lines(near, told)
    shadow = why.decision.shadow
    if shadow is not None and (shadow.allowed, shadow.rule) != (why.decision.allowed, why.decision.rule):
        word = "allowed" if shadow.allowed else "denied"
        by = f" by {shadow.rule}" if shadow.rule else ""
        yield f"[dim]if rules in shadow mode counted:[/] {word}{escape(by)}"
    for name in told.unjudged:
        yield f"[dim]not judged in shadow mode, as the proxy alone decides here (VST0077):[/] {escape(name)}"


def _near_lines(near: Near, told: Told) -> Iterator[str]:
    place = told.place(near.rule)
    yield f"  near: [bold]{escape(near.rule.name)}[/]{escape(f' ({place})' if place else '')}"
    for miss in near.misses:
        yield f"    [red]✗[/] {escape(_missed(miss))}"
        for name, value in miss.saw:
            yield f"      [dim]{escape(name)} =[/] {escape(value)}"


def _missed(miss: Miss) -> str:
    return f"{miss.part.value}: {miss.told}"


def _recorded(each: AccessRecord) -> str:
    who = "by the callee's proxy" if each.direction is Direction.INBOUND else "by the caller's proxy"
    status = f" with {each.status}" if each.status else ""
    by = f" by {each.rule}" if each.rule else ""
    flags = f" [{','.join(each.flags)}]" if each.flags else ""
    return f"{each.time:%Y-%m-%dT%H:%M:%S.%fZ} {who}: {each.verdict.value}{status}{by}{flags}"
