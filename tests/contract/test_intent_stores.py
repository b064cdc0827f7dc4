"""What every store promises of the history of intents."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from tests.contract.test_stores import NOW, Open, clock, database, kinds, opening, store

from vestibule.records import IntentOutcome, KeptIntent, RolloutRecord
from vestibule.store import Store

__all__ = ["clock", "database", "opening", "store"]


def kept(version: str = "a1", **fields: object) -> KeptIntent:
    known = KeptIntent(
        version=version,
        place="https://example.org/intent.git",
        taken_up_at=NOW,
        commit="a1" * 20,
        author="Ada <ada@example.org>",
        subject="Let orders charge",
        signed_by="SHA256:abc",
        committed_at=NOW - timedelta(minutes=1),
        files=b"\0\xff files",
    )
    return replace(known, **fields)  # type: ignore[arg-type]


def state(revision: int, document: str = "{}") -> RolloutRecord:
    return RolloutRecord(revision=revision, document=document)


async def test_an_intent_is_read_as_it_was_written(store: Store) -> None:
    bare = KeptIntent(version="b2", place="/etc/intent", taken_up_at=NOW)
    assert await store.intents.record(state(1), kept())
    assert await store.intents.record(state(2), bare)
    assert await store.intents.all() == [replace(bare, number=2), kept(number=1, files=b"")]
    assert await store.intents.latest("a1") == kept(number=1)
    assert await store.intents.latest("unknown") is None


async def test_of_a_version_taken_up_twice_the_newest_counts(store: Store) -> None:
    await store.intents.record(state(1), kept(), kept("b2"))
    await store.intents.record(state(2), kept(files=b"again"))
    found = await store.intents.latest("a1")
    assert found is not None
    assert (found.number, found.files) == (3, b"again")


async def test_an_outcome_is_added_later(store: Store) -> None:
    await store.intents.record(state(1), kept())
    ended = kept(number=1, outcome=IntentOutcome.REFUSED, reason="NACK", ended_at=NOW)
    await store.intents.record(state(2), replace(ended, files=b""))
    assert await store.intents.latest("a1") == ended


async def test_the_state_survives_and_of_several_writers_one_is_first(opening: Open) -> None:
    one, other = await opening(), await opening()
    try:
        assert await one.intents.state() is None
        both = await asyncio.gather(
            one.intents.record(state(1, "one"), kept("one")),
            other.intents.record(state(1, "other"), kept("other")),
        )
        assert sorted(both) == [False, True]
        won = ("one", "other")[both.index(True)]
        assert await other.intents.state() == state(1, won)
        assert [each.version for each in await one.intents.all()] == [won]
        assert not await one.intents.record(state(3))
        assert await one.intents.record(state(2, "next"))
        assert await other.intents.state() == state(2, "next")
    finally:
        await one.close()
        await other.close()


async def test_old_intents_are_forgotten_save_those_that_are_needed(store: Store) -> None:
    for number in range(1, 6):
        await store.intents.record(state(number), kept(f"v{number}"))
    assert await store.intents.prune(2, {"v1"}) == 2
    assert [each.version for each in await store.intents.all()] == ["v5", "v4", "v1"]
    assert await store.intents.prune(2, frozenset()) == 1


async def test_a_changed_rollout_is_told(store: Store) -> None:
    subscription = store.changes.subscribe()
    await store.intents.record(state(1), kept())
    assert kinds(subscription) == {"rollout"}
