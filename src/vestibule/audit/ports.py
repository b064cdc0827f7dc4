"""What the rest of the house knows of the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

Detail: TypeAlias = str | int | bool | Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One administrative or issuing action.

    ``actor`` is who did it (a SPIFFE ID, ``local:uid=1000``, ``server``), ``action`` what
    (``svid.issue``, ``entry.create``), ``subject`` to what.  ``details`` hold no secret, key or token.
    """

    actor: str
    action: str
    subject: str
    outcome: str = "ok"
    details: Mapping[str, Detail] = field(default_factory=dict)


class Audit(Protocol):
    """Takes records.  Callers record first and act, or answer, only if that worked."""

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Keep all events, in order and durably, at the cost of one disk flush; or none of them.

        Raises: VST8100 when they can not be kept: the caller then does not act.
        """
        ...


class EmergencyAudit(Protocol):
    """For the few actions that take away, and must not wait for room on a disk."""

    async def record_or_defer(self, events: Sequence[AuditEvent]) -> None:
        """Keep the events, if need be later: the caller acts in any case."""
        ...
