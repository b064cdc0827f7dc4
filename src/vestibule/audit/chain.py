"""The records of the audit log as lines of JSON, each sealed by a hash over itself and its predecessor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final

from vestibule.audit.ports import AuditEvent, Detail

GENESIS: Final = "0" * 64
"""What the first record has for its predecessor's hash."""

TORN: Final = "audit.torn-line"
"""The action of the record that follows, and accounts for, a line that a crash left unfinished."""

DISCARDED: Final = "audit.discard"
"""The action of the record that accounts for old records that were removed to bound the disk."""

_FIELDS: Final = {"seq", "time", "actor", "action", "subject", "outcome", "details", "prev", "hash"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The end of a chain: the last record's number and hash."""

    seq: int = 0
    hash: str = GENESIS


def encode(events: Iterable[AuditEvent], after: Link, now: datetime) -> tuple[bytes, Link]:
    """The lines for ``events``, and the new end of the chain."""
    lines, seq, end = [], after.seq, after.hash
    time = now.isoformat(timespec="microseconds")
    for event in events:
        seq += 1
        # The fields before "hash" in order, and those after it: so the line is written once, not twice.
        action, actor = _quoted(event.action), _quoted(event.actor)
        outcome, subject = _quoted(event.outcome), _quoted(event.subject)
        before = f'{{"action":{action},"actor":{actor},"details":{_encode(dict(event.details))}'
        behind = f'"outcome":{outcome},"prev":"{end}","seq":{seq},"subject":{subject},"time":"{time}"}}'
        end = hashlib.sha256(f"{before},{behind}".encode("ascii")).hexdigest()
        lines.append(f'{before},"hash":"{end}",{behind}\n')
    return "".join(lines).encode("ascii"), Link(seq=seq, hash=end)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record in a line without its end, or ``None`` if it is not one whose own hash fits."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or record.keys() != _FIELDS or not isinstance(record["seq"], int):
            return None
        body = {name: value for name, value in record.items() if name != "hash"}
        # Written anew, the bytes must be the same: nothing may hide in spaces or in names that stand twice.
        whole = record["hash"] == _digest(body) and _canonical(record) == line
    except (ValueError, RecursionError):
        return None
    return record if whole else None


def follows(record: dict[str, Any], link: Link) -> bool:
    """Whether ``record`` is the one after ``link``."""
    return bool(record["seq"] == link.seq + 1 and record["prev"] == link.hash)


def torn_event(fragment: bytes) -> AuditEvent:
    """What to record about an unfinished line."""
    digest = hashlib.sha256(fragment).hexdigest()
    details: dict[str, Detail] = {"bytes": len(fragment), "sha256": digest}
    return AuditEvent(actor="audit", action=TORN, subject="the line before", details=details)


def accounts_for(record: dict[str, Any], fragment: bytes) -> bool:
    """Whether ``record`` was written for this unfinished line."""
    event = torn_event(fragment)
    return bool(record["action"] == TORN and record["details"] == event.details)


def discarded_event(end: Link) -> AuditEvent:
    """What to record about old records that are removed: up to which, and what its hash was."""
    details: dict[str, Detail] = {"last_seq": end.seq, "last_hash": end.hash}
    return AuditEvent(actor="audit", action=DISCARDED, subject=f"records up to {end.seq}", details=details)


def discards(record: dict[str, Any], end: Link) -> bool:
    """Whether ``record`` says that the records up to ``end`` were removed."""
    return bool(record["action"] == DISCARDED and record["details"] == discarded_event(end).details)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(record)).hexdigest()


def _canonical(record: dict[str, Any]) -> bytes:
    # ASCII only, so that no text can contain the end of a line.
    return _encode(record).encode("ascii")


_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
