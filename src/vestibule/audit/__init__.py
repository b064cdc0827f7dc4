"""Who did what, in a log that nobody can quietly edit; where the action demands it, no record means no action."""

from vestibule.audit.ports import Audit, AuditEvent

__all__ = ["Audit", "AuditEvent"]
