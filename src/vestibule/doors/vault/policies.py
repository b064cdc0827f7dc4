"""The intent's rules for secrets as Vault shows policies: to be read, never to be written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from vestibule.intent import Intent
from vestibule.intent.secret_groups import SecretGroup
from vestibule.policy import Rule


def policies_of(intent: Intent) -> Mapping[str, str]:
    """The text of each group, by its name; a line of JSON for each rule."""
    return {name: "\n".join(_lines(group)) for name, group in sorted(intent.secrets.items())}


def _lines(group: SecretGroup) -> Iterator[str]:
    for effect, rules in (("deny", group.deny), ("allow", group.allow)):
        for rule in rules:
            yield json.dumps({effect: _told(rule)})


def _told(rule: Rule) -> dict[str, object]:
    told: dict[str, object] = {
        "id": rule.name,
        "from": ["anyone"] if rule.anyone else [str(each) for each in rule.callers],
        "may": sorted(rule.methods),
        "paths": [str(each).removeprefix("/") for each in rule.paths],
        "mode": rule.mode.value,
    }
    if rule.expires is not None:
        told["expires"] = rule.expires.isoformat()
    return told
