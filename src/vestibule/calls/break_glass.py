"""What an agent tells the server of uses of break-glass (vestibule.node.v1.BreakGlassReports)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.net.grpc import Client
from vestibule.records import LONGEST_TOLD, EmergencyUse
from vestibule.wire.gen.vestibule.node.v1 import break_glass_pb2 as wire

REPORTS: Final = wire.DESCRIPTOR.services_by_name["BreakGlassReports"]
TIMEOUT: Final = 10.0
MOST_USES: Final = 100
"""Kinds of calls in one report: each is a record of the audit log."""
LONGEST_BATCH: Final = 64
"""Characters of a report's name."""
MOST_IDS: Final = 16
"""Requests that are named of one kind."""
LONGEST_ID: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class BreakGlassReports:
    """A client of the server's service.  Raises the server's errors, and VST2300."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def report(self, batch: str, uses: Sequence[EmergencyUse]) -> None:
        """Returns when all of it is on record."""
        request = wire.ReportUsesRequest(batch=batch, uses=map(use_to_wire, uses))
        await self._client.unary("Report", request, timeout=TIMEOUT)


def use_to_wire(use: EmergencyUse) -> wire.EmergencyUse:
    """A use as agents send it."""
    return wire.EmergencyUse(
        rule=use.rule,
        service=use.service,
        spiffe_id=use.spiffe_id,
        instance_id=use.instance_id,
        caller=use.caller,
        port=use.port,
        method=use.method,
        path=use.path[:LONGEST_TOLD],
        count=use.count,
        first=(use.first - _EPOCH) // _MICROSECOND,
        last=(use.last - _EPOCH) // _MICROSECOND,
        request_ids=use.request_ids[:MOST_IDS],
    )


def use_from_wire(message: wire.EmergencyUse) -> EmergencyUse:
    """Whatever the message says, cut to what is put on record.  Raises: ValueError, OverflowError."""
    if not message.rule or not 0 < message.count < 2**53:
        raise ValueError("it names no permission, or no calls")
    return EmergencyUse(
        rule=_text(message.rule),
        service=_text(message.service),
        spiffe_id=_text(message.spiffe_id),
        instance_id=_text(message.instance_id),
        caller=_text(message.caller),
        port=_text(message.port),
        method=_text(message.method),
        path=_text(message.path),
        count=message.count,
        first=_EPOCH + message.first * _MICROSECOND,
        last=_EPOCH + message.last * _MICROSECOND,
        request_ids=tuple(_text(each[:LONGEST_ID]) for each in message.request_ids[:MOST_IDS]),
    )


def _text(text: str) -> str:
    # It is shown on terminals and written to logs.
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:LONGEST_TOLD])
