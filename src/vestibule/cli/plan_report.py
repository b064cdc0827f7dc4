"""A plan as text, as JSON and as Markdown: the same sentences in all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.intent_places import Found
from vestibule.cli.output import console
from vestibule.cli.replay import Group, Replay, read, replay
from vestibule.intent.access_changes import AccessChange
from vestibule.intent.differences import Difference, difference
from vestibule.intent.files import MESH
from vestibule.intent.setting_changes import SettingChange
from vestibule.intent.token_changes import Tokens

MOST_GROUPS: Final = 20
"""Of a replay, in text and Markdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """From one intent to another."""

    old: Found
    new: Found
    difference: Difference
    replayed: Replay | None = None

    @classmethod
    def of(cls, old: Found, new: Found, logs: Sequence[Path] | None) -> Plan:
        """Compare, and judge recorded calls again.  Raises: VST8200."""
        replayed = replay(read(logs), old.intent, new.intent) if logs else None
        return cls(old=old, new=new, difference=difference(old.intent, new.intent), replayed=replayed)

    def rules(self, change: AccessChange) -> str:
        """Which rules give what is gained, or gave what is lost."""
        found = self.new if change.gains else self.old
        told = [
            f"{name} ({place})" if (place := found.where(at)) else name for name, at in change.rules.items()
        ]
        return ", ".join(told)


# ------------------------------------------------------------------------------------------------- text


def show(plan: Plan) -> None:
    """For people at a terminal."""
    console.print(f"[dim]from {escape(plan.old.name)} to {escape(plan.new.name)}[/]")
    if plan.difference.is_empty:
        console.print("[bold green]✓[/] nothing changes")
    for subject in _subjects(plan.difference):
        console.print(f"[bold]{escape(subject)}[/]")
        for change in _access_of(plan.difference, subject):
            mark = "[bold green]+[/]" if change.gains else "[bold red]-[/]"
            console.print(f"  {mark} {escape(str(change))}  [dim]{escape(plan.rules(change))}[/]")
        for each in _settings_of(plan.difference, subject):
            console.print(f"  [bold yellow]~[/] {escape(str(each))}")
    if plan.replayed is not None:
        _show_replay(plan.replayed, plan)
    console.print(_total(plan))


def _show_replay(replayed: Replay, plan: Plan) -> None:
    console.print(f"[bold]replay[/]: {_replayed(replayed)}")
    for mark, group, _, place in _groups(replayed, plan):
        style = "red" if mark == "-" else "green"
        console.print(f"  [bold {style}]{mark}[/] {escape(_told(group))}  [dim]{escape(place)}[/]")


def _replayed(replayed: Replay) -> str:
    """``of 40 requests 12 would be denied, 3 would newly be allowed``."""
    parts = [f"of {_count(replayed.requests, 'request')} {replayed.denials or 'none'} would be denied"]
    if replayed.permissions:
        parts.append(f"{replayed.permissions} would newly be allowed")
    if replayed.elsewhere:
        parts.append(f"{replayed.elsewhere} more went to what neither intent has")
    return ", ".join(parts)


def _groups(replayed: Replay, plan: Plan) -> Iterator[tuple[str, Group, str, str]]:
    """A mark, the group, its verdict, and the rule with its place."""
    for mark, groups, what, found in (
        ("-", replayed.denied, "would be denied", plan.old),
        ("+", replayed.allowed, "would be allowed", plan.new),
    ):
        for group in groups[:MOST_GROUPS]:
            place = found.where(group.where)
            rule = f"{group.rule} ({place})" if place else group.rule or ""
            yield mark, group, what, rule


def _told(group: Group) -> str:
    last = f", the last at {group.last:%Y-%m-%dT%H:%M:%SZ}" if group.last else ""
    return f"{group}: {_count(group.requests, 'request')}{last}"


def _total(plan: Plan) -> str:
    gains = sum(each.gains for each in plan.difference.access)
    losses = len(plan.difference.losses)
    return f"{_count(gains, 'gain')}, {_count(losses, 'loss', 'losses')}, " + _count(
        len(plan.difference.settings), "other change"
    )


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _subjects(found: Difference) -> list[str]:
    """Whatever anything is said of; the mesh first, then by name."""
    names = {each.target.subject for each in found.access}
    names |= {each.subject for each in found.settings}
    return sorted(names, key=lambda name: (name != MESH, name))


def _access_of(found: Difference, subject: str) -> list[AccessChange]:
    return [each for each in found.access if each.target.subject == subject]


def _settings_of(found: Difference, subject: str) -> list[SettingChange]:
    return [each for each in found.settings if each.subject == subject]


# --------------------------------------------------------------------------------------------- Markdown


def markdown(plan: Plan) -> str:
    """For a comment below a pull request."""
    losses = len(plan.difference.losses)
    lines = [
        f"### Intent plan: {_total(plan)}",
        "",
        f"From {_code(plan.old.name)} to {_code(plan.new.name)}.",
        "",
    ]
    if plan.difference.is_empty:
        lines += ["Nothing changes.", ""]
    if losses:
        lines += ["> **Calls, secrets or tokens are lost.** Whoever asks for them will be denied.", ""]
    for subject in _subjects(plan.difference):
        lines += [f"**{_plain(subject)}**", ""]
        for change in _access_of(plan.difference, subject):
            mark = "🟢" if change.gains else "🔴"
            lines.append(f"- {mark} {_plain(str(change))} — {_code(plan.rules(change))}")
        lines += [f"- 🟡 {_plain(str(each))}" for each in _settings_of(plan.difference, subject)]
        lines.append("")
    if plan.replayed is not None:
        lines += [f"**Replay**: {_replayed(plan.replayed)}", ""]
        lines += [
            f"- {'🔴' if mark == '-' else '🟢'} {_plain(_told(group))} — {what} ({_code(place)})"
            for mark, group, what, place in _groups(plan.replayed, plan)
        ]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _plain(text: str) -> str:
    """No link, mention, tag or emphasis comes from a path that somebody chose."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#@!~" else each for each in text)


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`" if text else "–"


# ------------------------------------------------------------------------------------------------- JSON


def document(plan: Plan) -> dict[str, Any]:
    """The answer as the envelope carries it."""
    return {
        "from": {"name": plan.old.name, "version": plan.old.version},
        "to": {"name": plan.new.name, "version": plan.new.version},
        "gains": sum(each.gains for each in plan.difference.access),
        "losses": len(plan.difference.losses),
        "access": [_access(each, plan) for each in plan.difference.access],
        "settings": [
            {
                "subject": each.subject,
                "item": each.item or None,
                "what": each.what.value,
                "details": [{"key": it.key, "old": it.old, "new": it.new} for it in each.details],
                "sentence": f"{each.subject}: {each}",
            }
            for each in plan.difference.settings
        ],
        "replay": _replay(plan.replayed, plan),
    }


def _access(change: AccessChange, plan: Plan) -> dict[str, Any]:
    found = plan.new if change.gains else plan.old
    method, path = (None, None) if change.tcp else change.calls.example
    return {
        "gains": change.gains,
        "callers": list(change.callers),
        "target": change.target.name,
        "port": change.target.port or None,
        "secrets": change.target.secrets,
        "tokens": _tokens(change.tokens),
        "methods": {"but" if change.calls.methods.but else "only": sorted(change.calls.methods.names)},
        "path": str(change.calls.paths.pattern),
        "but": list(map(str, change.calls.paths.but)),
        "example": {"method": method, "path": path},
        "rules": [{"name": name, "where": found.where(at)} for name, at in change.rules.items()],
        "sentence": str(change),
    }


def _tokens(tokens: Tokens | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {
        "audience": tokens.audience,
        "verbs": list(tokens.verbs),
        "scopes": None if tokens.scopes is None else list(tokens.scopes),
        "but": list(tokens.but),
    }


def _replay(replayed: Replay | None, plan: Plan) -> dict[str, Any] | None:
    if replayed is None:
        return None

    def told(groups: Sequence[Group], found: Found) -> list[dict[str, Any]]:
        return [
            {
                "caller": each.caller,
                "target": each.target,
                "method": each.method or None,
                "paths": list(each.paths),
                "requests": each.requests,
                "first": each.first.isoformat() if each.first else None,
                "last": each.last.isoformat() if each.last else None,
                "rule": each.rule,
                "where": found.where(each.where),
            }
            for each in groups
        ]

    return {
        "requests": replayed.requests,
        "elsewhere": replayed.elsewhere,
        "would_be_denied": replayed.denials,
        "would_be_allowed": replayed.permissions,
        "denied": told(replayed.denied, plan.old),
        "allowed": told(replayed.allowed, plan.new),
    }
