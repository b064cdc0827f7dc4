"""An emergency does not wait for room on a disk, and its record is written before any other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from vestibule.audit import AuditEvent, DeferringAudit
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.audit.deferred import MOST_DEFERRED
from vestibule.errors import VestibuleError
from vestibule.testing import FakeClock


class Log:
    """Has room or not."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.full = False

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.full:
            raise AUDIT_UNAVAILABLE.error("no space left")
        self.written += [each.action for each in events]


def event(action: str) -> AuditEvent:
    return AuditEvent(actor="test", action=action, subject="x")


async def test_while_there_is_room_nothing_is_deferred() -> None:
    log = Log()
    audit = DeferringAudit(log, FakeClock())
    await audit.record_or_defer([event("agent.ban")])
    assert (log.written, audit.deferred) == (["agent.ban"], 0)


async def test_what_waited_is_written_first_or_nothing_is() -> None:
    log = Log()
    audit = DeferringAudit(log, FakeClock())
    log.full = True
    await audit.record_or_defer([event("agent.ban")])
    with pytest.raises(VestibuleError, match="VST8100"):
        await audit.record([event("svid.issue")])
    assert (log.written, audit.deferred) == ([], 1)
    log.full = False
    await audit.record([event("svid.issue")])
    assert (log.written, audit.deferred) == (["agent.ban", "svid.issue"], 0)


async def test_it_is_written_also_where_nothing_else_is() -> None:
    log = Log()
    audit = DeferringAudit(log, FakeClock())
    log.full = True
    await audit.record_or_defer([event("agent.ban")])
    log.full = False
    writing = asyncio.create_task(audit.run())
    async with asyncio.timeout(60):
        while audit.deferred:
            await asyncio.sleep(0.005)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    assert log.written == ["agent.ban"]


async def test_memory_is_no_log_without_an_end() -> None:
    log = Log()
    audit = DeferringAudit(log, FakeClock())
    log.full = True
    for _ in range(MOST_DEFERRED):
        await audit.record_or_defer([event("agent.ban")])
    with pytest.raises(VestibuleError, match="VST8100"):
        await audit.record_or_defer([event("agent.ban")])
