"""Registration entries: what may be kept, and what becomes of it."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from tests.unit.identity.world import AGENT, SERVER, World, entry, spiffe

from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId
from vestibule.spiffe.codes import MALFORMED_SPIFFE_ID
from vestibule.store import EntryFilter

FOREIGN = SpiffeId.parse("spiffe://evil.org/web")


async def create_one(world: World, wanted: Entry) -> tuple[Entry, bool] | VestibuleError:
    [outcome] = await world.registration.create("test", [wanted])
    return outcome


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (entry("/web", FOREIGN), "VST1204"),
        (entry("/web", SpiffeId.parse("spiffe://example.org")), "VST1205"),
        (Entry(spiffe_id=FOREIGN, parent_id=AGENT, selectors=frozenset({Selector("a", "b")})), "VST1204"),
        (entry("/spire/agent/x", AGENT), "VST1205"),
        (entry("/spire/server", AGENT), "VST1205"),
        (Entry(spiffe_id=spiffe("/web"), parent_id=AGENT, selectors=frozenset()), "VST1203"),
        (
            Entry(spiffe_id=spiffe("/web"), parent_id=AGENT, selectors=frozenset({Selector("a", "")})),
            "VST1203",
        ),
        (entry("/web", AGENT, hint="x" * 1025), "VST1203"),
        (entry("/web", AGENT, x509_svid_ttl=timedelta(seconds=-5)), "VST1209"),
        (entry("/web", AGENT, dns_names=("not a name",)), "VST1011"),
        (entry("/web", AGENT, federates_with=("UPPER CASE",)), "VST1400"),
    ],
)
async def test_an_entry_that_breaks_a_rule_is_refused_and_recorded(
    world: World, wanted: Entry, expected: str
) -> None:
    outcome = await create_one(world, wanted)
    assert isinstance(outcome, VestibuleError)
    assert outcome.code.code == expected
    assert world.audit.events[-1].outcome == expected
    assert await world.store.entries.all() == []


async def test_an_id_that_came_to_nothing_is_on_record_as_such(world: World) -> None:
    await create_one(world, entry("/web", AGENT, id="first"))
    await create_one(world, entry("/web", AGENT, id="second"))
    await create_one(world, entry("/other", AGENT, id="first"))
    events = [each for each in world.audit.events if each.action == "entry.create"]
    outcomes = [(each.details["entry_id"], each.outcome) for each in events]
    assert outcomes[:3] == [("first", "ok"), ("second", "ok"), ("second", "exists")]
    assert outcomes[3:] == [("first", "ok"), ("first", "VST8010")]
    assert events[2].details["existing_id"] == "first"


async def test_a_similar_entry_is_returned_instead_of_a_second_one(world: World) -> None:
    first, again = (
        await create_one(world, entry("/web", AGENT)),
        await create_one(world, entry("/web", AGENT)),
    )
    assert isinstance(first, tuple)
    assert isinstance(again, tuple)
    assert (first[1], again[1]) == (True, False)
    assert first[0] == again[0]


async def test_one_bad_entry_does_not_spoil_the_batch(world: World) -> None:
    unreadable = MALFORMED_SPIFFE_ID.error("the ID is none")
    wanted: list[Entry | VestibuleError] = [
        entry("/a", AGENT),
        unreadable,
        entry("/b", FOREIGN),
        entry("/c", AGENT),
    ]
    outcomes = await world.registration.create("test", wanted)
    codes = [each.code.code if isinstance(each, VestibuleError) else "ok" for each in outcomes]
    assert codes == ["ok", "VST1400", "VST1204", "ok"]


async def test_an_update_changes_what_is_given_and_counts(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT, hint="old"))
    [updated] = await world.registration.update("test", [(web.id, {"hint": "new"})])
    assert isinstance(updated, Entry)
    assert (updated.hint, updated.revision, updated.spiffe_id) == ("new", 1, web.spiffe_id)
    [refused] = await world.registration.update("test", [(web.id, {"parent_id": FOREIGN})])
    assert isinstance(refused, VestibuleError)
    [missing] = await world.registration.update("test", [("nothing", {"hint": "x"})])
    assert isinstance(missing, VestibuleError)
    assert missing.code.code == "VST1206"


async def test_the_record_tells_which_entry_became_which_identity(world: World) -> None:
    [made] = await world.create(entry("/web", AGENT, dns_names=("web.example.org",)))
    assert world.audit.events[-1].details["entry_id"] == made.id
    assert world.audit.events[-1].details["dns_names"] == ["web.example.org"]
    await world.registration.delete("test", [made.id, "unknown"])
    gone, unknown = world.audit.events[-2:]
    assert (gone.subject, gone.details["spiffe_id"]) == (f"entry:{made.id}", str(made.spiffe_id))
    assert unknown.details == {}


async def test_deleting_says_what_was_there(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    outcomes = await world.registration.delete("test", [web.id, web.id, ""])
    assert [each.code.code if each else None for each in outcomes] == [None, "VST1206", "VST1202"]
    assert world.entitlements.entries_for(AGENT) == ()


async def test_patches_of_one_entry_build_on_each_other_and_errors_stand_in_their_place(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    patches: list[tuple[str, dict[str, object]]] = [
        (web.id, {"hint": "x"}),
        ("unknown", {"hint": "x"}),
        (web.id, {"admin": True}),
    ]
    first, unknown, second = await world.registration.update("test", patches)
    assert isinstance(unknown, VestibuleError)
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert (second.hint, second.admin, second.revision) == ("x", True, 2)


async def test_no_record_no_entry(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    world.audit.broken = True
    with pytest.raises(VestibuleError, match="VST8100"):
        await world.registration.create("test", [entry("/new", AGENT)])
    with pytest.raises(VestibuleError, match="VST8100"):
        await world.registration.delete("test", [web.id])
    with pytest.raises(VestibuleError, match="VST8100"):
        await world.registration.update("test", [(web.id, {"hint": "x"})])
    assert await world.store.entries.all() == [web]


async def test_a_parent_that_is_nobody_is_warned_of_but_taken(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await world.create(entry("/node", SERVER), entry("/web", "/node"), entry("/job", "/web"))
    assert caplog.records == []
    await world.create(entry("/lost", "/nobody"))
    assert "/nobody" in caplog.text
    assert await world.registration.count(EntryFilter()) == 4


async def test_a_join_token_that_may_be_unused_is_not_shown(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.create(entry("/web", "/spire/agent/join_token/SECRET"))
    assert "SECRET" not in caplog.text
    assert "join_token" in caplog.text
    assert "SECRET" not in str(world.audit.events)
