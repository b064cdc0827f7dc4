"""The records of one request, joined: who called whom, in which order, and where the time went.

Both proxies of a call record it.  A call belongs to the one during which its caller made it: that is the call which
came in at the caller at that time, with the same request id or trace.  Clocks of machines differ, so where only one
call is possible, no clock is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict

SLACK: Final = timedelta(milliseconds=50)
"""By how much the clocks of two machines may differ before calls of the same service are told apart wrongly."""

_LEFT_FLAGS: Final = frozenset({"DC", "DR"})
_LEFT_DETAILS: Final = frozenset({"http2.remote_reset", "downstream_remote_disconnect"})


@dataclass(slots=True, kw_only=True)
class Hop:
    """One call from one service to another, and the calls that were made for it.

    ``outbound`` is the caller's record, ``inbound`` those of the callee: one for each try that arrived there.  At least
    one of them is there.
    """

    outbound: AccessRecord | None = None
    inbound: list[AccessRecord] = field(default_factory=list)
    calls: list[Hop] = field(default_factory=list)

    @property
    def first(self) -> AccessRecord:
        """The record that begins first: the caller's, if there is one."""
        return self.outbound or self.inbound[0]

    @property
    def answered(self) -> AccessRecord | None:
        """The callee's record of the try that counts, the last one."""
        return self.inbound[-1] if self.inbound else None

    @property
    def source(self) -> str:
        """Who called: a SPIFFE ID, or an address where there is none."""
        return self.first.source_spiffe_id or self.first.source_address

    @property
    def destination(self) -> str:
        """The service that was called."""
        return self.first.destination_service or self.first.authority

    @property
    def failed(self) -> bool:
        """Whether it did not go well."""
        return failed(self.first)

    @property
    def telling(self) -> AccessRecord:
        """The record that lies nearest to how it ended.

        The callee's proxy knows more than the caller's, which often saw only that an error came, or nothing.  But what
        the caller gave up, it alone knows why; and a try that went well says nothing of the call.
        """
        answered = self.answered
        if answered is None or not self.failed or not failed(answered):
            return self.first
        return self.first if _was_left(answered) else answered

    @property
    def cause(self) -> Hop:
        """Of a call that failed: itself, or what failed of the calls made for it, and so on; the last of several."""
        below = [each for each in self.calls if each.failed]
        return below[-1].cause if self.failed and below else self

    @property
    def total_ms(self) -> float | None:
        """From the first byte of the request to the last of the answer, as the caller's proxy saw it."""
        return self.first.duration_ms

    @property
    def between_ms(self) -> float | None:
        """Of that: proxies, network, and tries that came to nothing."""
        if self.outbound is None or self.answered is None:
            return None
        if self.outbound.duration_ms is None or self.answered.duration_ms is None:
            return None
        return max(0.0, self.outbound.duration_ms - self.answered.duration_ms)

    @property
    def own_ms(self) -> float | None:
        """Of that: the called app itself, less the time in which it waited for calls of its own."""
        if self.answered is None or self.answered.duration_ms is None:
            return None
        return max(0.0, self.answered.duration_ms - _union(self.calls))


def failed(record: AccessRecord) -> bool:
    """Whether the call did not go well, as this proxy saw it."""
    return record.verdict is not Verdict.ALLOWED or (record.status or 0) >= 400


def _was_left(record: AccessRecord) -> bool:
    """Whether the caller's side ended it before there was an answer."""
    return bool(_LEFT_FLAGS & set(record.flags)) or record.details in _LEFT_DETAILS


def join(records: Iterable[AccessRecord]) -> tuple[Hop, ...]:
    """The calls that nobody here made for another call, in order; those made for them stand in them."""
    ordered = sorted((each for each in records if each.layer is Layer.HTTP), key=lambda each: each.time)
    hops = [Hop(outbound=each) for each in ordered if each.direction is Direction.OUTBOUND]
    for each in ordered:
        if each.direction is Direction.INBOUND:
            _take(hops, each)
    hops.sort(key=lambda hop: hop.first.time)
    roots: list[Hop] = []
    for hop in hops:
        parent = _parent(hop, hops)
        (roots if parent is None else parent.calls).append(hop)
    return tuple(roots)


def _take(hops: list[Hop], record: AccessRecord) -> None:
    """Find the call that this is the other side of; a caller without a proxy here has none."""
    candidates = [hop for hop in hops if hop.outbound is not None and _same_call(hop.outbound, record)]
    during = [hop for hop in candidates if hop.outbound and _during(record.time, hop.outbound)]
    if found := during or (candidates if len(candidates) == 1 else []):
        min(found, key=lambda hop: abs(hop.first.time - record.time)).inbound.append(record)
    else:
        hops.append(Hop(inbound=[record]))


def _same_call(outbound: AccessRecord, inbound: AccessRecord) -> bool:
    return (
        outbound.request_id == inbound.request_id
        and outbound.source_spiffe_id == inbound.source_spiffe_id
        and outbound.destination_service == inbound.destination_service
    )


def _parent(hop: Hop, hops: Sequence[Hop]) -> Hop | None:
    if hop.outbound is None:
        return None
    possible = [
        each
        for each in hops
        if each is not hop
        and (came := each.answered) is not None
        and came.reporter_spiffe_id == hop.outbound.source_spiffe_id
        and _related(came, hop.outbound)
        and not _below(each, hop)
    ]
    during = [each for each in possible if each.answered and _during(hop.first.time, each.answered)]
    if found := during or (possible if len(possible) == 1 else []):
        return min(found, key=lambda each: abs(each.first.time - hop.first.time))
    return None


def _related(came: AccessRecord, went: AccessRecord) -> bool:
    return came.request_id == went.request_id or bool(came.trace_id and came.trace_id == went.trace_id)


def _below(one: Hop, other: Hop) -> bool:
    """Whether a call was made for the other one; so that nothing is its own cause."""
    return any(each is one or _below(one, each) for each in other.calls)


def _during(moment: datetime, record: AccessRecord) -> bool:
    end = record.time + timedelta(milliseconds=record.duration_ms or 0.0)
    return record.time - SLACK <= moment <= end + SLACK


def _union(calls: Sequence[Hop]) -> float:
    """For how many milliseconds at least one of these was under way."""
    spans = sorted(
        (each.first.time, each.first.time + timedelta(milliseconds=each.total_ms or 0.0)) for each in calls
    )
    covered = timedelta()
    reached: datetime | None = None
    for start, end in spans:
        begin = start if reached is None else max(start, reached)
        if end > begin:
            covered += end - begin
        reached = end if reached is None else max(reached, end)
    return covered / timedelta(milliseconds=1)
