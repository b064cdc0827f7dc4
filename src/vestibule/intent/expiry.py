"""What holds until an instant, and does no longer.

It is no part of reading: an intent that was good yesterday must not be refused by a server that starts today.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from vestibule.errors import Where
from vestibule.intent import codes
from vestibule.intent.model import Intent
from vestibule.intent.problems import Problem, Severity


def expired(intent: Intent, now: datetime) -> tuple[Problem, ...]:
    """A warning for everything that has passed."""
    return tuple(
        Problem(
            code=codes.EXPIRED,
            message=f"{what} ended at {until:%Y-%m-%d %H:%M} UTC",
            advice=codes.EXPIRED.advice,
            where=where,
            severity=Severity.WARNING,
        )
        for what, until, where in _ends(intent)
        if where is not None and until <= now
    )


def _ends(intent: Intent) -> Iterator[tuple[str, datetime, Where | None]]:
    for role, members in intent.mesh.roles.items():
        for member in members:
            if member.until is not None:
                place = intent.mesh.role_places.get(role)
                yield f"the membership of {member} in the role {role}", member.until, place
    for rule in intent.rules:
        if rule.expires is not None:
            yield f"the rule {rule.name}", rule.expires, rule.where
    for service in intent.services.values():
        if permissive := service.traffic.permissive:
            yield f"plain text to {service.name}", permissive.until, service.where
        for route in service.traffic.routes:
            if route.fault:
                yield f"the fault of the route {route.name}", route.fault.until, route.where
