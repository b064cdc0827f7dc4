"""What the records of one call tell, and whose record of it is the one to believe.

A call is recorded by both its proxies.  What the callee's proxy saw lies nearer to the cause: the caller's often knows
only that nothing, or an error, came back.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestibule.failures import Side, Symptom
from vestibule.observe.access_record import AccessRecord, Direction, Verdict

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


def failed(record: AccessRecord) -> bool:
    """Whether the call did not go well, as this proxy saw it."""
    return record.verdict is not Verdict.ALLOWED or (record.status or 0) >= 400


def decisive(records: Sequence[AccessRecord]) -> AccessRecord | None:
    """Of the records of one call, the one nearest to the cause; None if all went well.

    With several tries, the last one counts.
    """
    bad = [each for each in sorted(records, key=lambda each: each.time) if failed(each)]
    called = [each for each in bad if each.direction is Direction.INBOUND]
    return (called or bad)[-1] if bad else None
