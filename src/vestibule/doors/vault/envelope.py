"""Vault's envelope around what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestibule.doors.vault.operations import Answer


def is_empty(answer: Answer) -> bool:
    """Whether there is nothing to answer: 204, or 404 without a word."""
    told = (answer.data, answer.top, answer.auth, answer.lease, answer.warnings or None)
    return all(each is None for each in told)


def envelope(answer: Answer, request_id: str) -> dict[str, Any]:
    """What every answer of Vault's looks like."""
    lease = answer.lease
    return {
        "request_id": request_id,
        "lease_id": lease.lease_id if lease else "",
        "renewable": lease.renewable if lease else False,
        "lease_duration": int(lease.duration.total_seconds()) if lease else 0,
        "data": answer.data,
        "wrap_info": None,
        "warnings": list(answer.warnings) or None,
        "auth": answer.auth,
    }


def wrapped_envelope(wrap_info: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """The same, with what opens it in the place of what is in it."""
    return {**envelope(Answer(), request_id), "wrap_info": wrap_info}
