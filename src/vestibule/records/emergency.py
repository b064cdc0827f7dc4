"""Permissions that an emergency asked for: what they are, and what was done by them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

BREAK_GLASS: Final = "break-glass/"
"""How the names of such permissions begin where otherwise a rule's name stands."""

LONGEST_EMERGENCY: Final = timedelta(hours=4)

OTHERS: Final = "(others)"
"""What stands for methods and paths of uses that came in a flood."""

LONGEST_TOLD: Final = 1000
"""Characters of each text of a use that servers are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emergency:
    """A permission that no rule gives, for a while, on somebody's responsibility.

    ``callers`` are patterns of SPIFFE IDs, as rules have them.  Without ``port`` every port of the service is meant,
    without ``method`` or ``path`` any.  ``opener`` is who asked the server for it, as audit records name callers;
    ``approver`` is who agreed, as the opener says.  It ends at ``expires_at``, or before, at ``closed_at``.
    """

    id: str
    callers: tuple[str, ...]
    service: str
    port: str = ""
    method: str = ""
    path: str = ""
    reason: str
    ticket: str
    approver: str
    opener: str
    opened_at: datetime
    expires_at: datetime
    closed_at: datetime | None = None
    closed_by: str = ""
    uses: int = 0

    @property
    def rule(self) -> str:
        """What logs name in place of a rule."""
        return f"{BREAK_GLASS}{self.id}"

    @property
    def ends_at(self) -> datetime:
        """When it ends by itself, or was ended."""
        return self.expires_at if self.closed_at is None else min(self.closed_at, self.expires_at)

    def holds(self, now: datetime) -> bool:
        """Whether it still allows anything."""
        return self.closed_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedUse:
    """A call that was let through by one permission, as its proxy printed it.

    ``address`` is where it came from.  Of ``count`` greater than 1 nothing else is known, the last having been at
    ``time``.
    """

    rule: str
    time: datetime
    caller: str
    address: str
    port: str
    method: str = ""
    path: str = ""
    request_id: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyUse:
    """Calls that were let through by one permission, of one kind: ``count`` of them from ``first`` to ``last``.

    ``rule`` is the permission's name.  ``request_ids`` are of some of the calls.
    """

    rule: str
    service: str
    spiffe_id: str
    instance_id: str
    caller: str
    port: str
    method: str
    path: str
    count: int
    first: datetime
    last: datetime
    request_ids: tuple[str, ...] = ()
