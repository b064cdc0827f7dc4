"""What else differs between two intents: routes, splits, timeouts, limits, gateways, hosts outside; key by key.

The values are walked as they are, so that a part of the language that is added later is compared, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from vestibule.intent.files import MESH
from vestibule.intent.model import Intent, Mesh, Service
from vestibule.intent.outside import External, Gateway, HostPort
from vestibule.intent.secret_groups import SecretGroup
from vestibule.intent.token_changes import NO_SCOPE, how
from vestibule.intent.token_groups import TokenGroup
from vestibule.intent.token_targets import read_pattern
from vestibule.policy import IdentityMatch, Mode, PathPattern, Rule
from vestibule.spiffe import SpiffeId, TrustDomain

_WRITTEN: Final = {
    "circuit": "circuit_limits",
    "outlier": "outlier_detection",
    "permissive": "mtls.permissive",
    "spiffe_id": "identity",
    "identity_template": "identity",
    "callers": "from",
    "made_for": "for",
    "source": "",
}
"""What the language calls a field of the model."""
_NOT_TOLD: Final = frozenset(
    {"where", "name", "allow", "deny", "role_places", "unused_roles", "tree", "central"}
)
"""What is told elsewhere: names by what they name, rules by who gains or loses which call."""

_AS_TEXT: Final = (PathPattern, IdentityMatch, SpiffeId, TrustDomain)


_MOST_SHOWN: Final = 500
"""Characters of a value."""


class What(Enum):
    """What became of a thing."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One key: its value by the old intent and by the new one; None where it is not written."""

    key: str
    old: str | None = None
    new: str | None = None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.key} {self.new}"
        return f"{self.key} {self.old} → {self.new or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A thing of one subject was added, removed or changed.

    ``subject`` is a service's name, ``egress NAME``, ``gateway NAME``, ``secrets NAME``, ``tokens NAME`` or
    ``mesh.yaml``; ``item`` is ``route ID`` and the like, or empty for the subject itself.
    """

    subject: str
    what: What
    item: str = ""
    details: tuple[Detail, ...] = ()

    def __str__(self) -> str:
        item = f"{self.item} " if self.item else ""
        told = ", ".join(map(str, self.details))
        if self.what is What.CHANGED:
            return f"{item.strip()}: {told}" if item else told
        if self.what is What.REMOVED:
            return f"{item}removed"
        return f"{item}added: {told}" if told else f"{item}added"


Items = dict[str, dict[str, str]]
"""By item, its keys with their values."""


def setting_changes(old: Intent | None, new: Intent | None) -> tuple[SettingChange, ...]:
    """Everything but who may call what, by subject."""
    things, others = _things(old), _things(new)
    # In a mesh of a thousand services, of which one changed, only that one is walked.
    same = {name for name, thing in things.items() if others.get(name) == thing}
    before = {name: _items(thing) for name, thing in things.items() if name not in same}
    after = {name: _items(thing) for name, thing in others.items() if name not in same}
    changes: list[SettingChange] = []
    for subject in sorted({*before, *after}, key=lambda name: (name != MESH, name)):
        if subject not in after:
            changes.append(SettingChange(subject=subject, what=What.REMOVED))
        elif subject not in before:
            changes.append(SettingChange(subject=subject, what=What.ADDED))
            changes += _compared(subject, {}, after[subject])
        else:
            changes += _compared(subject, before[subject], after[subject])
    return tuple(changes)


def _compared(subject: str, old: Items, new: Items) -> Iterator[SettingChange]:
    for item in sorted({*old, *new}):
        before, after = old.get(item), new.get(item)
        if before is None or after is None:
            values = (before or {}).items() or (after or {}).items()
            details = () if after is None else tuple(Detail(key=key, new=value) for key, value in values)
            # Of a new subject, its own settings are told like any that were not there before.
            what = What.REMOVED if after is None else What.ADDED if item else What.CHANGED
            if item or details:
                yield SettingChange(subject=subject, what=what, item=item, details=details)
            continue
        keys = [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]
        if keys:
            details = tuple(Detail(key=key, old=before.get(key), new=after.get(key)) for key in keys)
            yield SettingChange(subject=subject, what=What.CHANGED, item=item, details=details)
    routes = [[item for item in items if item.startswith("route ")] for items in (old, new)]
    kept = [[item for item in order if item in routes[0] and item in routes[1]] for order in routes]
    if kept[0] != kept[1]:
        told = [", ".join(item.removeprefix("route ") for item in order) for order in kept]
        order = Detail(key="order of routes", old=told[0], new=told[1])
        yield SettingChange(subject=subject, what=What.CHANGED, details=(order,))


# ------------------------------------------------------------------------------------ what there is to tell


Thing = Mesh | Service | External | Gateway | SecretGroup | TokenGroup


def _things(intent: Intent | None) -> dict[str, Thing]:
    if intent is None:
        return {}
    return {
        MESH: intent.mesh,
        **intent.services,
        **{f"egress {name}": each for name, each in intent.externals.items()},
        **{f"gateway {name}": each for name, each in intent.gateways.items()},
        **{f"secrets {name}": each for name, each in intent.secrets.items()},
        **{f"tokens {name}": each for name, each in intent.tokens.items()},
    }


def _items(subject: Thing) -> Items:
    """A route, a port, a listener, a limit: each an item of its own, so that its change reads as one."""
    items: Items = {}
    if isinstance(subject, Mesh):
        return {"": {"mesh": subject.name, **dict(_flat("", subject))}}
    if isinstance(subject, SecretGroup):
        shadow = (rule for rule in (*subject.allow, *subject.deny) if rule.mode is Mode.SHADOW)
        items.update({_shadow_item(rule): _secret_rule(rule) for rule in shadow})
        return items | {"": dict(_flat("", subject))}
    if isinstance(subject, TokenGroup):
        shadow = (rule for rule in (*subject.allow, *subject.deny) if rule.mode is Mode.SHADOW)
        items.update({_shadow_item(rule): _token_rule(rule) for rule in shadow})
        return items | {"": dict(_flat("", replace(subject, terms={}))) | _terms(subject)}
    routes = subject.routes if isinstance(subject, Gateway) else subject.traffic.routes
    for route in routes:
        items[f"route {route.name.rpartition('/')[2]}"] = dict(_flat("", route))
    if isinstance(subject, Gateway):
        for name, listener in subject.listeners.items():
            items[f"listener {name}"] = dict(_flat("", listener))
        plain: Any = replace(subject, routes=(), listeners={})
    else:
        for number, limit in enumerate(subject.traffic.limits, 1):
            items[f"limit {number}"] = dict(_flat("", limit))
        plain = replace(subject, traffic=replace(subject.traffic, routes=(), limits=()))
    if isinstance(subject, Service):
        for name, port in subject.ports.items():
            items[f"port {name}"] = dict(_flat("", port))
        for rule in (*subject.allow, *subject.deny):
            # What is tried out gives and takes no call, so it is told here.
            if rule.mode is Mode.SHADOW:
                items[_shadow_item(rule)] = dict(_flat("", rule))
        plain = replace(plain, ports={})
    items[""] = dict(_flat("", plain))
    return items


def _shadow_item(rule: Rule) -> str:
    return f"shadow rule {rule.name.rpartition('/')[2]}"


def _secret_rule(rule: Rule) -> dict[str, str]:
    """What are methods inside is written ``may``."""
    return {"may" if key == "methods" else key: value for key, value in _flat("", rule)}


def _token_rule(rule: Rule) -> dict[str, str]:
    """What are methods and paths inside is written ``may`` and ``scopes``."""
    said = dict(_flat("", replace(rule, methods=frozenset(), paths=())))
    scopes = dict.fromkeys(read_pattern(each)[1] for each in rule.paths)
    told = ["any" if each is None else each or NO_SCOPE for each in scopes]
    return {"may": how(sorted(rule.methods)) or "any", "scopes": ", ".join(told), **said}


def _terms(group: TokenGroup) -> dict[str, str]:
    """What tokens are like that a rule gives, by the rule."""
    return {
        f"{name.rpartition('/')[2]}.{key}": value
        for name, terms in group.terms.items()
        for key, value in _flat("", terms)
        if value != "false"
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every leaf below a value, with its dotted key."""
    if value is None or value == () or value == frozenset():
        return
    if is_dataclass(value) and not isinstance(value, (*_AS_TEXT, HostPort)):
        for each in fields(value):
            if each.name not in _NOT_TOLD:
                # What is said of traffic stands at the top of a file.
                name = "" if each.name == "traffic" else _WRITTEN.get(each.name, each.name)
                yield from _flat(_below(key, name), getattr(value, each.name))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(_below(key, str(name)), inner)
    elif isinstance(value, tuple) and any(is_dataclass(each) and not _is_leaf(each) for each in value):
        for number, each in enumerate(value, 1):
            yield from _element(key, number, each)
    else:
        yield key, _text(value)


def _element(key: str, number: int, value: Any) -> Iterator[tuple[str, str]]:
    """A member of a list, by its name where it has one."""
    version, name = getattr(value, "version", None), getattr(value, "name", None)
    if version is not None and hasattr(value, "weight"):
        yield _below(key, version), str(value.weight)
        return
    yield from _flat(_below(key, str(name or number)), value)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key and name else key or name


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (*_AS_TEXT, HostPort))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, HostPort):
        return f"{value.host}:{value.port}"
    if isinstance(value, IdentityMatch) and value.until is not None:
        return f"{value} until {value.until.isoformat()}"
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(_text, value))) or "any"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    text = str(value)
    if "\n" in text or len(text) > _MOST_SHOWN:
        # A certificate or a set of keys, say.
        return f"{len(text)} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text


def _duration(value: timedelta) -> str:
    microseconds = value // timedelta(microseconds=1)
    if microseconds % 1_000_000:
        return f"{microseconds / 1000:g}ms"
    seconds = microseconds // 1_000_000
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
