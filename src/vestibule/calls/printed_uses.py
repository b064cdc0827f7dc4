"""What a proxy printed of uses of break-glass, from sidecar to agent (vestibule.node.v1.PrintedUse)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.records import BREAK_GLASS, PrintedUse
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

MOST: Final = 500
"""Calls in one message."""
LONGEST: Final = 2100
"""Characters of a text: a SPIFFE ID may have 2,048."""
_RULE: Final = re.compile(re.escape(BREAK_GLASS) + r"[A-Za-z0-9]{1,64}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def is_permission(rule: str) -> bool:
    """Whether it is the name of a permission of break-glass."""
    return _RULE.fullmatch(rule) is not None


def printed_to_wire(use: PrintedUse) -> wire.PrintedUse:
    """A call as sidecars send it."""
    return wire.PrintedUse(
        rule=use.rule,
        time=(use.time - _EPOCH) // _MICROSECOND,
        caller=use.caller,
        address=use.address,
        port=use.port,
        method=use.method,
        path=use.path,
        request_id=use.request_id,
        count=use.count,
    )


def printed_from_wire(messages: Iterable[wire.PrintedUse]) -> tuple[PrintedUse, ...]:
    """Whatever they say, in bounds.  Raises: ValueError, OverflowError."""
    uses = tuple(map(_use, messages))
    if len(uses) > MOST:
        raise ValueError(f"more than {MOST} calls at once")
    return uses


def _use(message: wire.PrintedUse) -> PrintedUse:
    if not is_permission(message.rule) or not 0 < message.count < 2**53:
        raise ValueError("it names no permission, or no calls")
    return PrintedUse(
        rule=message.rule,
        time=_EPOCH + message.time * _MICROSECOND,
        caller=message.caller[:LONGEST],
        address=message.address[:LONGEST],
        port=message.port[:LONGEST],
        method=message.method[:LONGEST],
        path=message.path[:LONGEST],
        request_id=message.request_id[:LONGEST],
        count=message.count,
    )
