"""A store, an audit log that remembers, and barriers on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Recording:
    """``audit.Audit`` in memory; ``broken``, it refuses, as a full disk would."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.broken = False

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.broken:
            raise AUDIT_UNAVAILABLE.error("the audit log cannot be written")
        self.events.extend(events)

    def actions(self) -> list[str]:
        return [event.action for event in self.events]


@pytest.fixture
def audit() -> Recording:
    return Recording()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vestibule.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    store = await open_store(path, FakeClock(NOW))
    yield store
    await store.close()
