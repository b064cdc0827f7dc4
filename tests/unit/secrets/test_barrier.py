"""Encrypted storage: what it keeps, what it notices, how its keys change."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.secrets.conftest import Recording

from vestibule.errors import VestibuleError
from vestibule.records import SealedRow
from vestibule.secrets.barrier import SPACE, SealedBarrier
from vestibule.secrets.keyring import RowCipher, new_key
from vestibule.store import Store
from vestibule.store.barrier import Item, Put, Remove

ROOT = bytes(range(32))
SEAL = b"a seal"


def barrier_on(store: Store, audit: Recording, max_sealed: int = 2**31) -> SealedBarrier:
    return SealedBarrier(store.sealed_rows, store.changes, audit, max_sealed=max_sealed)


@pytest.fixture
async def barrier(store: Store, audit: Recording) -> SealedBarrier:
    barrier = barrier_on(store, audit)
    assert await barrier.create(ROOT, SEAL)
    return barrier


async def other_server(store: Store, audit: Recording) -> SealedBarrier:
    other = barrier_on(store, audit)
    await other.unlock(ROOT)
    return other


def put(key: str, value: bytes = b"value", expected: int | None = None) -> Put:
    return Put(space="kv", key=key, value=value, expected=expected)


def remove(key: str, expected: int | None = None) -> Remove:
    return Remove(space="kv", key=key, expected=expected)


def tamper(path: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        assert connection.execute(statement, parameters).rowcount > 0


def row_of(path: Path, key: str, space: str = "kv") -> tuple[int, int, bytes]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        query = "SELECT revision, key_id, body FROM sealed_rows WHERE space = ? AND key = ?"
        row: tuple[int, int, bytes] = connection.execute(query, (space, key)).fetchone()
        return row


def put_back(path: Path, key: str, row: tuple[int, int, bytes], space: str = "kv") -> None:
    tamper(
        path,
        "UPDATE sealed_rows SET revision = ?, key_id = ?, body = ? WHERE space = ? AND key = ?",
        *row,
        space,
        key,
    )


def refused(error: pytest.ExceptionInfo[VestibuleError]) -> str:
    return error.value.code.code


# ------------------------------------------------------------------------------------------------ keeping


async def test_what_is_put_is_there(barrier: SealedBarrier) -> None:
    (revision,) = await barrier.apply([put("a", b"one")])
    assert await barrier.get("kv", "a") == Item(value=b"one", revision=revision)
    assert await barrier.get("kv", "b") is None
    assert await barrier.get("other", "a") is None


async def test_nothing_can_be_done_while_sealed(barrier: SealedBarrier) -> None:
    await barrier.apply([put("a")])
    barrier.lock()
    assert barrier.is_sealed
    for attempt in (
        barrier.get("kv", "a"),
        barrier.keys("kv"),
        barrier.children("kv", ""),
        barrier.apply([put("b")]),
    ):
        with pytest.raises(VestibuleError) as error:
            await attempt
        assert refused(error) == "VST5000"
    with pytest.raises(VestibuleError):
        barrier.mac("audit", b"data")
    await barrier.unlock(ROOT)
    assert await barrier.get("kv", "a") is not None


async def test_changes_are_made_together_or_not_at_all(barrier: SealedBarrier) -> None:
    (revision,) = await barrier.apply([put("a", expected=0)])
    for wrong in (
        put("a", expected=0),
        put("a", expected=revision + 1),
        remove("a", expected=0),
        put("c", expected=1),
    ):
        with pytest.raises(VestibuleError) as error:
            await barrier.apply([put("b"), wrong])
        assert refused(error) == "VST5001"
    assert await barrier.keys("kv") == ["a"]
    assert await barrier.apply([put("b", expected=0), remove("a", expected=revision)]) == (revision + 1, 0)
    assert await barrier.keys("kv") == ["b"]


async def test_no_revision_is_used_twice(barrier: SealedBarrier) -> None:
    seen: list[int] = []
    for _ in range(3):
        seen += await barrier.apply([put("a")])
        await barrier.apply([remove("a")])
    assert seen == sorted(set(seen))


async def test_listing_is_by_prefix_and_by_segment(barrier: SealedBarrier) -> None:
    await barrier.apply([put(key) for key in ("a/b", "a/c/d", "e")])
    assert await barrier.keys("kv", "a/") == ["a/b", "a/c/d"]
    assert await barrier.children("kv", "") == ["a/", "e"]


async def test_the_barriers_own_rows_are_nobody_elses(barrier: SealedBarrier) -> None:
    with pytest.raises(ValueError, match="own"):
        await barrier.get(SPACE, "keyring")
    with pytest.raises(ValueError, match="own"):
        await barrier.apply([Put(space=SPACE, key="head", value=b"")])


async def test_one_key_changes_once_in_one_step(barrier: SealedBarrier) -> None:
    with pytest.raises(ValueError, match="one key"):
        await barrier.apply([put("a"), remove("a")])


async def test_many_changes_at_the_same_time_are_all_made(barrier: SealedBarrier) -> None:
    revisions = await asyncio.gather(*(barrier.apply([put(f"{number}")]) for number in range(20)))
    assert len(set(revisions)) == 20
    assert len(await barrier.keys("kv")) == 20
    assert await barrier.verify(values=True) == ([], [])


async def test_macs_last_and_differ_by_purpose(barrier: SealedBarrier) -> None:
    before = barrier.mac("audit", b"data")
    assert barrier.mac("tokens", b"data") != before
    await barrier.rotate()
    barrier.lock()
    await barrier.unlock(ROOT)
    assert barrier.mac("audit", b"data") == before


async def test_only_the_first_creates(store: Store, audit: Recording, barrier: SealedBarrier) -> None:
    second = barrier_on(store, audit)
    assert not await second.create(new_key(), b"another seal")
    assert second.is_sealed
    seal = await second.seal_row()
    assert seal is not None
    assert seal.body == SEAL


async def test_no_value_is_in_the_database(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a", b"canary-in-the-mine")])
    await barrier.rotate()
    for file in path.parent.iterdir():
        assert b"canary-in-the-mine" not in file.read_bytes()
        assert ROOT not in file.read_bytes()


# ------------------------------------------------------------------------------------------------ noticing


async def test_a_changed_row_is_refused_and_on_record(
    barrier: SealedBarrier, path: Path, audit: Recording
) -> None:
    await barrier.apply([put("team/a", b"secret-value")])
    revision, key_id, body = row_of(path, "team/a")
    for changed in (
        (revision, key_id, body[:-1] + bytes([body[-1] ^ 1])),
        (revision, key_id, b"\x02" + body[1:]),
        (revision, key_id, body[:20]),
        (revision, key_id, b""),
        (revision + 1, key_id, body),
        (-1, key_id, body),
        (revision, 0, body),
        (revision, 99, body),
    ):
        put_back(path, "team/a", changed)
        with pytest.raises(VestibuleError) as error:
            await barrier.get("kv", "team/a")
        assert refused(error) == "VST5002"
        assert "'team/a' of 'kv'" in str(error.value)
        assert audit.events[-1].subject == "kv/team/a"
        assert "secret-value" not in str(error.value) + repr(audit.events)
    put_back(path, "team/a", (revision, key_id, body))
    assert await barrier.get("kv", "team/a") == Item(value=b"secret-value", revision=revision)


async def test_values_of_other_types_are_refused(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a")])
    for column, value in (
        ("body", "text"),
        ("body", 7),
        ("revision", "text"),
        ("revision", b"\x00"),
        ("key_id", "x"),
    ):
        row = row_of(path, "a")
        tamper(path, f"UPDATE sealed_rows SET {column} = ? WHERE space = 'kv'", value)
        with pytest.raises(VestibuleError) as error:
            await barrier.get("kv", "a")
        assert refused(error) == "VST5002"
        put_back(path, "a", row)


async def test_exchanged_rows_are_refused(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a", b"one"), put("b", b"two"), Put(space="other", key="a", value=b"three")])
    first, second, third = row_of(path, "a"), row_of(path, "b"), row_of(path, "a", "other")
    put_back(path, "a", second)
    put_back(path, "b", first)
    put_back(path, "a", first, "other")
    for space, key in (("kv", "a"), ("kv", "b"), ("other", "a")):
        with pytest.raises(VestibuleError) as error:
            await barrier.get(space, key)
        assert refused(error) == "VST5002"
    put_back(path, "a", third, "other")
    assert await barrier.get("other", "a") is not None


async def test_an_older_state_of_a_row_is_found(barrier: SealedBarrier, path: Path, audit: Recording) -> None:
    await barrier.apply([put("a", b"old"), put("b")])
    old = row_of(path, "a")
    await barrier.apply([put("a", b"new")])
    assert await barrier.verify() == ([], [])
    put_back(path, "a", old)
    assert await barrier.verify() == (["kv"], [])
    assert audit.actions() == ["secrets.tampering"]


async def test_a_removed_row_that_is_put_back_is_found(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a")])
    revision, key_id, body = row_of(path, "a")
    await barrier.apply([remove("a")])
    tamper(path, "INSERT INTO sealed_rows VALUES ('kv', 'a', ?, ?, ?)", revision, key_id, body)
    assert await barrier.verify() == (["kv"], [])


async def test_a_row_that_somebody_deleted_is_found(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a"), Put(space="other", key="a", value=b"")])
    tamper(path, "DELETE FROM sealed_rows WHERE space = 'other'")
    assert await barrier.verify() == (["other"], [])


async def test_what_cannot_be_read_is_found_by_name(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a"), put("b")])
    tamper(path, "UPDATE sealed_rows SET body = zeroblob(40) WHERE key = 'b'")
    assert await barrier.verify(values=True) == ([], [("kv", "b")])


async def test_a_damaged_row_is_mended_by_writing_it_anew(barrier: SealedBarrier, path: Path) -> None:
    await barrier.apply([put("a")])
    tamper(path, "UPDATE sealed_rows SET body = zeroblob(40) WHERE key = 'a'")
    await barrier.apply([put("a", b"new")])
    assert await barrier.verify(values=True) == ([], [])


async def test_a_database_that_goes_back_is_noticed_by_the_next_change(
    barrier: SealedBarrier, path: Path, audit: Recording
) -> None:
    await barrier.apply([put("a", b"old")])
    old = row_of(path, "a"), row_of(path, "head", SPACE)
    await barrier.apply([put("a", b"new")])
    put_back(path, "a", old[0])
    put_back(path, "head", old[1], SPACE)
    with pytest.raises(VestibuleError) as error:
        await barrier.apply([put("b")])
    assert refused(error) == "VST5003"
    assert barrier.is_sealed
    assert audit.actions() == ["secrets.tampering"]


async def test_an_older_database_is_not_unlocked(
    barrier: SealedBarrier, store: Store, audit: Recording
) -> None:
    await barrier.apply([put("a")])
    generation = barrier.generation
    other = barrier_on(store, audit)
    with pytest.raises(VestibuleError) as error:
        await other.unlock(ROOT, at_least=generation + 1)
    assert refused(error) == "VST5003"
    assert other.is_sealed
    await other.unlock(ROOT, at_least=generation)
    assert other.generation == generation


async def test_an_older_seal_or_keyring_is_not_accepted(
    barrier: SealedBarrier, store: Store, path: Path, audit: Recording
) -> None:
    seal, keyring = row_of(path, "seal", SPACE), row_of(path, "keyring", SPACE)
    await barrier.reseal(b"another seal")
    await barrier.rotate()
    other = barrier_on(store, audit)
    for key, old in (("seal", seal), ("keyring", keyring)):
        new = row_of(path, key, SPACE)
        put_back(path, key, old, SPACE)
        with pytest.raises(VestibuleError) as error:
            await other.unlock(ROOT)
        assert refused(error) == "VST5002"
        put_back(path, key, new, SPACE)
    await other.unlock(ROOT)


async def test_a_wrong_root_key_opens_nothing(barrier: SealedBarrier, store: Store, audit: Recording) -> None:
    with pytest.raises(VestibuleError) as error:
        await barrier_on(store, audit).unlock(new_key())
    assert refused(error) == "VST5004"


# ---------------------------------------------------------------------------------------------------- keys


async def drained(barrier: SealedBarrier) -> None:
    left: frozenset[tuple[str, str]] | None = frozenset()
    while left is not None:
        left = await barrier.reencrypt(left)


async def test_a_new_data_key_is_used_at_once_and_the_old_one_ends_when_nothing_needs_it(
    barrier: SealedBarrier, path: Path
) -> None:
    await barrier.apply([put(f"{number}") for number in range(100)])
    assert await barrier.rotate() == 2
    assert row_of(path, "head", SPACE)[1] == 2
    assert row_of(path, "7")[1] == 1
    assert await barrier.get("kv", "7") is not None
    await barrier.reencrypt()
    assert list(barrier.key_ids) == [1, 2]
    await drained(barrier)
    assert list(barrier.key_ids) == [2]
    assert row_of(path, "7")[1] == 2
    assert await barrier.verify(values=True) == ([], [])


async def test_a_row_that_cannot_be_read_keeps_the_old_key_and_stops_nothing(
    barrier: SealedBarrier, path: Path, audit: Recording
) -> None:
    await barrier.apply([put(f"{number}") for number in range(40)])
    tamper(path, "UPDATE sealed_rows SET body = zeroblob(40) WHERE key = '7'")
    await barrier.rotate()
    await drained(barrier)
    assert list(barrier.key_ids) == [1, 2]
    assert [event.subject for event in audit.events] == ["kv/7"]


async def test_servers_learn_of_each_others_keys(
    store: Store, audit: Recording, barrier: SealedBarrier
) -> None:
    other = await other_server(store, audit)
    await barrier.rotate()
    await barrier.apply([put("a", b"under two")])
    assert (await other.get("kv", "a")) is not None
    assert [other.key_id] == [2]
    await other.rotate()
    await barrier.apply([put("b", b"under three")])
    assert [barrier.key_id] == [3]
    await drained(other)
    assert (await barrier.get("kv", "a")) is not None
    assert await barrier.verify(values=True) == ([], [])


async def test_the_change_feed_tells_of_new_keys(
    store: Store, audit: Recording, barrier: SealedBarrier
) -> None:
    other = await other_server(store, audit)
    following = asyncio.create_task(other.run())
    await asyncio.sleep(0)
    await barrier.rotate()
    async with asyncio.timeout(60):
        while other.key_id != 2:
            await asyncio.sleep(0.01)
    store.changes.close()
    await following


async def test_another_root_key_seals_the_other_servers(
    store: Store, audit: Recording, barrier: SealedBarrier
) -> None:
    other = await other_server(store, audit)
    root = new_key()
    await barrier.reseal(b"another seal", root)
    await barrier.rotate()
    await barrier.apply([put("a")])
    with pytest.raises(VestibuleError) as error:
        await other.get("kv", "a")
    assert refused(error) == "VST5000"
    assert other.is_sealed
    await other.unlock(root)
    assert await other.get("kv", "a") is not None
    barrier.lock()
    with pytest.raises(VestibuleError):
        await barrier.unlock(ROOT)


async def test_a_data_key_seals_no_more_than_it_may(store: Store, audit: Recording) -> None:
    barrier = barrier_on(store, audit, max_sealed=6)
    await barrier.create(ROOT, SEAL)
    await barrier.apply([put("a")])
    wanted = [barrier.wants_rotation]
    await barrier.apply([put("b")])
    assert [*wanted, barrier.wants_rotation] == [False, True]
    with pytest.raises(VestibuleError) as error:
        await barrier.apply([put("c"), put("d")])
    assert refused(error) == "VST5005"
    assert await barrier.keys("kv") == ["a", "b"]
    await barrier.rotate()
    await barrier.apply([put("c"), put("d")])


# --------------------------------------------------------------------------------------------- row parsing


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_no_row_that_we_did_not_write_opens(body: bytes, revision: int, key_id: int) -> None:
    cipher = RowCipher({1: ROOT})
    with pytest.raises(VestibuleError) as error:
        cipher.open(SealedRow(space="kv", key="a", revision=revision, key_id=key_id, body=body))
    assert refused(error) == "VST5002"


@settings(max_examples=200, deadline=None)
@given(st.data(), st.binary(max_size=40))
def test_no_row_opens_anywhere_else(data: st.DataObject, value: bytes) -> None:
    cipher = RowCipher({1: ROOT})
    places = st.tuples(st.text("ab/", max_size=3), st.text("ab/", max_size=3), st.integers(1, 3))
    mine, theirs = data.draw(places), data.draw(places)
    row = cipher.seal(*mine, value)
    moved = SealedRow(space=theirs[0], key=theirs[1], revision=theirs[2], key_id=1, body=row.body)
    if mine == theirs:
        assert cipher.open(moved) == value
    else:
        with pytest.raises(VestibuleError):
            cipher.open(moved)
