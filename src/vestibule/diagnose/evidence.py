"""What the records of one request tell, and which of them lies nearest to the cause."""

from __future__ import annotations

from collections.abc import Sequence

from vestibule.failures import Side, Symptom
from vestibule.observe.access_record import AccessRecord, Direction, Layer
from vestibule.observe.hops import failed, join

_SIDES = {Direction.INBOUND: Side.CALLEE, Direction.OUTBOUND: Side.CALLER}


def symptom_of(record: AccessRecord) -> Symptom:
    """A record as the failure map wants it."""
    return Symptom(
        side=_SIDES[record.direction],
        status=record.status,
        flags=frozenset(record.flags),
        details=record.details,
        transport=record.transport_failure,
        code=record.code,
        rule=record.rule,
        verdict=record.verdict.value,
        layer=record.layer.value,
        encrypted=not record.plaintext,
    )


def decisive(records: Sequence[AccessRecord]) -> AccessRecord | None:
    """Of the records of one request, the one nearest to the cause; None if all went well.

    A call that failed because one that was made for it failed is not the cause.  Of several, the last one counts.
    """
    calls = [each for each in join(records) if each.failed]
    if calls:
        return calls[-1].cause.telling
    others = [each for each in records if each.layer is not Layer.HTTP and failed(each)]
    return max(others, key=lambda each: each.time, default=None)
