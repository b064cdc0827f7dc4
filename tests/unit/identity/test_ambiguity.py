"""Which entries make a workload's default identity ambiguous, and which only look alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.identity.world import AGENT, SERVER, entry

from vestibule.identity.ambiguity import Ambiguities
from vestibule.records import Entry

NOW = datetime(2026, 5, 1, tzinfo=UTC)
A = entry("/a", AGENT, "unix:uid:1", id="1")


@pytest.mark.parametrize(
    "other",
    [
        entry("/b", AGENT, "unix:uid:1", id="2"),
        entry("/b", AGENT, "unix:uid:1", "unix:gid:1", id="2"),
        entry("/b", "/node/x", "unix:uid:1", id="2"),
        entry("/b", AGENT, "unix:uid:1", id="2", path_template="/b/{unix:user}"),
    ],
)
def test_two_identities_for_every_process_of_one_entry_are_told(other: Entry) -> None:
    alias = entry("/node/x", AGENT, "spiffe_id:x", id="3")
    [warning] = Ambiguities([A, other, alias], NOW).of(other)
    assert warning.entry_ids == ("1", "2")
    assert "by default it is spiffe://example.org/a" in warning.message
    assert Ambiguities([A, other, alias], NOW).all() == ([warning], 0)


@pytest.mark.parametrize(
    "other",
    [
        entry("/a", AGENT, "unix:uid:1", "unix:gid:1", id="2"),
        entry("/b", AGENT, "unix:gid:1", id="2"),
        entry("/b", AGENT, "unix:uid:2", id="2"),
        entry("/b", "/spire/agent/x/other", "unix:uid:1", id="2"),
        entry("/b", SERVER, "unix:uid:1", id="2"),
        entry("/b", AGENT, "unix:uid:1", id="2", store_svid=True),
        entry("/b", AGENT, "unix:uid:1", id="2", expires_at=NOW - timedelta(seconds=1)),
        entry("/b", AGENT, "unix:uid:1", id="2", template_id="1"),
    ],
)
def test_what_is_no_second_identity_for_sure_is_not_warned_of(other: Entry) -> None:
    assert Ambiguities([A, other], NOW).all() == ([], 0)


def test_circles_of_parents_end() -> None:
    one, two = entry("/x", "/y", "unix:uid:1", id="4"), entry("/y", "/x", "unix:uid:1", id="5")
    [warning], _ = Ambiguities([one, two], NOW).all()
    assert warning.entry_ids == ("4", "5")
