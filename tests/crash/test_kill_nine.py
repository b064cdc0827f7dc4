"""A short run of the crash campaign; the long one is a command (``tests/crash/kill_nine.py``)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.journal import Journal
from tests.crash.kill_nine import Campaign, campaign

pytestmark = pytest.mark.e2e
KILLS = 8


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


@pytest.mark.timeout(180)
async def test_what_was_acknowledged_survives_every_kill() -> None:
    # The same operations in every run, at moments that the machine chooses; `make crash SEED=…` tries others.
    seed = 1
    report = await campaign(KILLS, seed)
    assert not report.violations, str(report)
    assert sum(report.kills.values()) == KILLS
    assert report.acknowledged > KILLS, str(report)


class LeftWithout(Campaign):
    """The server takes the request for an entry, and is killed before it has read it."""

    async def _settle(self) -> None:
        await super()._settle()
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGSTOP)
        self.asked = asyncio.create_task(self._clients[0]._create())
        # No answer comes; that is nobody's failure.
        self.asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        await asyncio.sleep(0)
        assert any(fate.there and fate.gone for fate in self._journal.entries.values())


@pytest.mark.timeout(180)
async def test_an_entry_that_was_asked_for_last_need_not_be_on_record_unless_it_is_there() -> None:
    report = await campaign(0, 1, kind=LeftWithout)
    assert not report.violations, str(report)


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


def test_the_journal_holds_against_the_log_what_is_there_not_what_was_asked_for(journal: Journal) -> None:
    for entry_id in ("made", "not-made"):
        journal.creating(entry_id, "")
    journal.audit([])
    assert all(rule.startswith("nobody looked") for rule in journal.violations)
    assert len(journal.violations) == 2
    journal.violations.clear()
    journal.compare({"made": ""})
    journal.audit([])
    assert journal.violations == ["entry made is there and its creation is not in the audit log"]
