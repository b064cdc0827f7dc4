"""A short run of the crash campaign; the long one is a command (``tests/crash/kill_nine.py``)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.journal import Journal
from tests.crash.kill_nine import campaign

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("crash")]
KILLS = 8


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


@pytest.mark.timeout(180)
async def test_what_was_acknowledged_survives_every_kill() -> None:
    seed = random.SystemRandom().randrange(2**32)
    report = await campaign(KILLS, seed)
    assert not report.violations, str(report)
    assert sum(report.kills.values()) == KILLS
    assert report.acknowledged > KILLS, str(report)


def test_the_journal_notices_what_a_crash_could_do(journal: Journal) -> None:
    for entry_id in ("kept", "lost", "back", "old"):
        journal.creating(entry_id, "1")
        journal.written(entry_id, "1")
    journal.updating("old", "2")
    journal.written("old", "2")
    journal.deleting("back")
    journal.deleted("back")
    journal.creating("maybe", "1")
    journal.compare({"kept": "1", "back": "1", "old": "1", "maybe": "1", "stray": "1"})
    assert [rule.split()[1] for rule in journal.violations] == ["lost", "back", "old", "stray"]
    journal.violations.clear()
    # What turned out to have happened stays.
    journal.compare({"kept": "1", "back": "1", "old": "1"})
    assert [rule.split()[1] for rule in journal.violations] == ["maybe"]


def test_the_journal_notices_what_is_not_on_record(journal: Journal) -> None:
    journal.issued([1, 2])
    journal.creating("a", "")
    journal.written("a", "")
    journal.joined("token")
    journal.joined("token")
    join = {"outcome": "ok", "action": "agent.attest", "subject": "agent", "details": {}}
    svid = {"outcome": "ok", "action": "svid.issue", "subject": "web", "details": {"serial": "1"}}
    journal.audit([join, join, svid])
    assert len(journal.violations) == 4
