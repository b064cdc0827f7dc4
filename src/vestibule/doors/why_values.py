"""What both sides' answers to "why" have in common, as messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from vestibule.attest.workload import shown
from vestibule.records import Entry
from vestibule.spiffe.nearness import Missing
from vestibule.wire.gen.vestibule.admin.v1 import why_pb2 as wire


def entry_to_wire(entry: Entry) -> wire.WhyEntry:
    """An entry, with the values of environment variables among its selectors left out."""
    return wire.WhyEntry(
        id=entry.id,
        spiffe_id=str(entry.spiffe_id),
        parent_id=str(entry.parent_id),
        selectors=sorted(map(shown, entry.selectors)),
        hint=entry.hint,
        expires_at=unix(entry.expires_at),
        x509_svid_ttl=_seconds(entry.x509_svid_ttl),
        jwt_svid_ttl=_seconds(entry.jwt_svid_ttl),
        admin=entry.admin,
        downstream=entry.downstream,
        store_svid=entry.store_svid,
        path_template=entry.path_template,
        template_id=entry.template_id,
        labels=dict(entry.labels),
        revision=entry.revision,
        federates_with=entry.federates_with,
    )


def missing_to_wire(missing: Iterable[Missing]) -> list[wire.WhyMissing]:
    """Selectors that are wanted, beside those that were found."""
    return [
        wire.WhyMissing(expected=shown(each.expected), found=[shown(found) for found in each.found])
        for each in missing
    ]


def unix(instant: datetime | None) -> int:
    """Unix seconds; 0 for none."""
    return int(instant.timestamp()) if instant else 0


def _seconds(ttl: timedelta | None) -> int:
    return int(ttl.total_seconds()) if ttl else 0
