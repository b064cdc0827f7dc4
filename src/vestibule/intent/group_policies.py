"""What the rules of groups say together, as the engine decides by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vestibule.intent.model import Intent
from vestibule.intent.port_policies import labels_of_callers
from vestibule.policy import PortPolicy, Rule


class Group(Protocol):
    """Rules in a file of their own."""

    @property
    def allow(self) -> tuple[Rule, ...]: ...

    @property
    def deny(self) -> tuple[Rule, ...]: ...


def policy_of(service: str, intent: Intent, groups: Mapping[str, Group]) -> PortPolicy:
    """The rules of all groups: what one denies is denied, whatever another allows."""
    ordered = [groups[name] for name in sorted(groups)]
    allow = tuple(rule for each in ordered for rule in each.allow)
    deny = tuple(rule for each in ordered for rule in each.deny)
    return PortPolicy(
        service=service,
        port="",
        allow=allow,
        deny=deny,
        environment=intent.mesh.environment,
        callers=labels_of_callers(intent, (*allow, *deny)),
    )
