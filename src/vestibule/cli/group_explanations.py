"""Why the rules of a group, for secrets or for tokens, let somebody do something or not: as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape

from vestibule.cli.intent_places import Found
from vestibule.cli.output import console
from vestibule.policy import Rule
from vestibule.policy.explaining import Explanation, Miss, Near, Part


def _plain_path(miss: Miss, rule: Rule) -> str:
    """A path is written without the slash that it begins with inside."""
    return miss.told.removeprefix("/") if miss.part is Part.PATH else miss.told


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What people call things: who decides, what is said where no rule matches, the parts of a rule, what is missed."""

    service: str
    unmatched: str
    parts: Mapping[Part, str] = field(default_factory=dict)
    missed: Callable[[Miss, Rule], str] = _plain_path

    def part(self, miss: Miss) -> str:
        """Of a rule."""
        return self.parts.get(miss.part, miss.part.value)


def why(found: Found, explanation: Explanation, words: Words) -> dict[str, Any]:
    """The reasons as the envelope carries them."""
    shadow, rule = explanation.decision.shadow, explanation.rule
    return {
        "rule": explanation.decision.rule,
        "where": _place(found, rule),
        "reason": rule.reason or None if rule else None,
        "not_judged": explanation.error or None,
        "otherwise": explanation.otherwise.name if explanation.otherwise else None,
        "shadow": None if shadow is None else {"allowed": shadow.allowed, "rule": shadow.rule},
        "near": [
            {
                "rule": near.rule.name,
                "where": _place(found, near.rule),
                "misses": [
                    {"part": words.part(each), "told": words.missed(each, near.rule), "saw": dict(each.saw)}
                    for each in near.misses
                ],
            }
            for near in explanation.near
        ],
    }


def headline(said: str, found: Found, *, allowed: bool) -> None:
    """The verdict, for people at a terminal."""
    mark = "[bold green]✓[/]" if allowed else "[bold red]✗[/]"
    version = f"  [dim]intent {escape(found.version or found.name)}[/]"
    console.print(f"{mark} {escape(said)}: [bold]{'allowed' if allowed else 'denied'}[/]{version}")


def lines(found: Found, explanation: Explanation, words: Words) -> Iterator[str]:
    """The reasons, with markup."""
    decision, rule, label = explanation.decision, explanation.rule, f"[dim]{words.service}[/]"
    if decision.allowed:
        yield f"{label} allows it by [bold]{escape(_by(found, rule, decision.rule))}[/]"
    elif decision.rule:
        yield f"{label} denies it by [bold]{escape(_by(found, rule, decision.rule))}[/]"
        if explanation.error:
            yield f"  [yellow]![/] a denial that cannot be judged counts: {escape(explanation.error)}"
        if explanation.otherwise is not None:
            yield f"  but for it, {escape(_by(found, explanation.otherwise, None))} would allow it"
    else:
        yield f"{label} {escape(words.unmatched)}"
    if rule is not None and rule.reason:
        yield f"  [dim]reason:[/] {escape(rule.reason)}"
    for near in explanation.near:
        yield from _near(found, near, words)
    shadow = decision.shadow
    if shadow is not None and (shadow.allowed, shadow.rule) != (decision.allowed, decision.rule):
        word = "allowed" if shadow.allowed else "denied"
        by = f" by {shadow.rule}" if shadow.rule else ""
        yield f"[dim]if rules in shadow mode counted:[/] {word}{escape(by)}"


def _near(found: Found, near: Near, words: Words) -> Iterator[str]:
    yield f"  near: [bold]{escape(_by(found, near.rule, None))}[/]"
    for miss in near.misses:
        yield f"    [red]✗[/] {escape(f'{words.part(miss)}: {words.missed(miss, near.rule)}')}"
        for name, value in miss.saw:
            yield f"      [dim]{escape(name)} =[/] {escape(value)}"


def _by(found: Found, rule: Rule | None, name: str | None) -> str:
    place = _place(found, rule)
    known = rule.name if rule is not None else name or ""
    return f"{known} ({place})" if place else known


def _place(found: Found, rule: Rule | None) -> str | None:
    return None if rule is None else found.where(rule.where)
