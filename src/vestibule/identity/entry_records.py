"""How the registration of entries stands in the audit log."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final

from vestibule.attest.node.join_token import NAME as JOIN_TOKEN
from vestibule.audit import AuditEvent, Detail
from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId

_MAX_RECORDED: Final = 300


def shown_parent(parent: SpiffeId) -> str:
    """A parent as logs may show it: an agent's ID can hold a join token that is not used up yet."""
    prefix, slash, token = str(parent).rpartition(f"/{JOIN_TOKEN}/")
    if not slash:
        return str(parent)
    return f"{prefix}{slash}sha256:{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def entry_event(actor: str, action: str, entry: Entry | VestibuleError) -> AuditEvent:
    if isinstance(entry, VestibuleError):
        return AuditEvent(
            actor=actor,
            action=action,
            subject="entry",
            outcome=entry.code.code,
            details={"error": entry.message},
        )
    return AuditEvent(
        actor=actor,
        action=action,
        subject=str(entry.spiffe_id),
        details={
            "entry_id": entry.id,
            "parent_id": shown_parent(entry.parent_id),
            "selectors": sorted(str(selector) for selector in entry.selectors),
            "admin": entry.admin,
            "downstream": entry.downstream,
            # Whom its workloads will believe beside their own.
            **({"federates_with": list(entry.federates_with)} if entry.federates_with else {}),
            # What else of an entry comes into certificates.
            **({"dns_names": list(entry.dns_names)} if entry.dns_names else {}),
            **({"x509_svid_ttl": _seconds(entry.x509_svid_ttl)} if entry.x509_svid_ttl else {}),
            **({"jwt_svid_ttl": _seconds(entry.jwt_svid_ttl)} if entry.jwt_svid_ttl else {}),
            **({"expires_at": entry.expires_at.isoformat()} if entry.expires_at else {}),
            **({"jwt_claims": entry.jwt_claims} if entry.jwt_claims else {}),
            **({"path_template": entry.path_template} if entry.path_template else {}),
            **({"dns_templates": list(entry.dns_templates)} if entry.dns_templates else {}),
            **({"template_id": entry.template_id} if entry.template_id else {}),
        },
    )


def deletion_event(actor: str, entry_id: str, entry: Entry | None) -> AuditEvent:
    details: dict[str, Detail] = {}
    if entry is not None:
        details = {"spiffe_id": str(entry.spiffe_id), "parent_id": shown_parent(entry.parent_id)}
    return AuditEvent(
        actor=actor, action="entry.delete", subject=f"entry:{entry_id[:_MAX_RECORDED]}", details=details
    )


def _seconds(ttl: timedelta) -> int:
    return int(ttl.total_seconds())


def not_created_event(actor: str, entry: Entry, refusal: VestibuleError | None, existing: str) -> AuditEvent:
    """An entry was recorded under an ID that came to nothing: refused by the store, or there as ``existing``."""
    details: dict[str, Detail] = {"entry_id": entry.id}
    if refusal is not None:
        outcome, details["error"] = refusal.code.code, refusal.message
    else:
        outcome, details["existing_id"] = "exists", existing
    return AuditEvent(
        actor=actor, action="entry.create", subject=str(entry.spiffe_id), outcome=outcome, details=details
    )
