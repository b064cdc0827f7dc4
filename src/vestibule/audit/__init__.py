"""Who did what, in a log that nobody can quietly edit; where the action demands it, no record means no action."""

from vestibule.audit.chain import Link
from vestibule.audit.deferred import DeferringAudit
from vestibule.audit.log import AuditLog
from vestibule.audit.ports import Audit, AuditEvent, Detail, EmergencyAudit
from vestibule.audit.reading import RecordFilter, latest, records
from vestibule.audit.verification import AuditReport, verify

__all__ = [
    "Audit",
    "AuditEvent",
    "AuditLog",
    "AuditReport",
    "DeferringAudit",
    "Detail",
    "EmergencyAudit",
    "Link",
    "RecordFilter",
    "latest",
    "records",
    "verify",
]
