"""What every store promises about what the secret manager keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres import Postgres

from vestibule.records import Place, SealedRow
from vestibule.store import Store
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    name = postgres.new_database()
    prepare(PostgresAddress.parse(postgres.conninfo(name)))
    return name


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        store: Store = await open_store(tmp_path / "vestibule.db", FakeClock(NOW))
    else:
        name, postgres = request.getfixturevalue("database"), request.getfixturevalue("postgres")
        postgres.execute("TRUNCATE sealed_rows", name)
        store = await open_postgres(PostgresAddress.parse(postgres.conninfo(name)), FakeClock(NOW))
    yield store
    await store.close()


def row(
    key: str, *, space: str = "kv", revision: int = 1, key_id: int = 1, body: bytes = b"body"
) -> SealedRow:
    return SealedRow(space=space, key=key, revision=revision, key_id=key_id, body=body)


async def keep(store: Store, *rows: SealedRow) -> None:
    await store.sealed_rows.revise([each.place for each in rows], lambda _there: rows)


async def snapshot(store: Store, *, bodies_of: str | None = None) -> list[SealedRow]:
    async with aclosing(store.sealed_rows.snapshot(bodies_of=bodies_of)) as rows:
        return [each async for each in rows]


async def given_rows(*rows: SealedRow) -> AsyncIterator[SealedRow]:
    for each in rows:
        yield each


async def test_a_row_is_kept_as_it_is(store: Store) -> None:
    kept = row("payments/db", revision=2**40, key_id=7, body=bytes(range(256)) * 4096)
    await keep(store, kept)
    assert await store.sealed_rows.get("kv", "payments/db") == kept
    assert await store.sealed_rows.get("kv", "payments/d") is None
    assert await store.sealed_rows.get("database", "payments/db") is None


async def test_a_change_sees_what_is_there_and_takes_its_place(store: Store) -> None:
    await keep(store, row("a"), row("b"))
    seen: dict[Place, SealedRow] = {}

    def change(there: Mapping[Place, SealedRow]) -> Sequence[SealedRow | Place]:
        seen.update(there)
        return [row("a", revision=2), ("kv", "b"), row("c")]

    await store.sealed_rows.revise([("kv", "a"), ("kv", "b"), ("kv", "c")], change)
    assert seen == {("kv", "a"): row("a"), ("kv", "b"): row("b")}
    assert await snapshot(store) == [row("a", revision=2), row("c")]


async def test_a_change_that_fails_changes_nothing(store: Store) -> None:
    def change(there: Mapping[Place, SealedRow]) -> Sequence[SealedRow | Place]:
        raise LookupError("no")

    await keep(store, row("a"))
    with pytest.raises(LookupError):
        await store.sealed_rows.revise([("kv", "a")], change)
    assert await snapshot(store) == [row("a")]


async def test_changes_are_told_unless_they_are_quiet(store: Store) -> None:
    subscription = store.changes.subscribe("secrets")
    await store.sealed_rows.revise([("kv", "a")], lambda _there: [row("a")], quiet=True)
    await store.sealed_rows.revise([("kv", "a")], lambda _there: [])
    store.changes.publish("secrets")
    await anext(subscription)
    await keep(store, row("b"))
    assert (await anext(subscription)).kind == "secrets"


async def test_many_rows_change_at_once(store: Store) -> None:
    rows = [row(f"{number:04}") for number in range(250)]
    await keep(store, *rows)
    await store.sealed_rows.revise(
        [each.place for each in rows], lambda there: [place for place in there if place[1] < "0240"]
    )
    assert [each.key for each in await snapshot(store)] == [f"{number:04}" for number in range(240, 250)]


async def test_keys_are_listed_by_prefix_in_byte_order(store: Store) -> None:
    keys = ["a", "a-b", "a/b", "a/c/d", "aé", "b", "ü", "\U0001f511"]
    await keep(store, *map(row, reversed(keys)), row("a/x", space="other"))
    assert await store.sealed_rows.keys("kv") == sorted(keys, key=str.encode)
    assert await store.sealed_rows.keys("kv", "a/") == ["a/b", "a/c/d"]
    assert await store.sealed_rows.keys("kv", "a/", after="a/b") == ["a/c/d"]
    assert await store.sealed_rows.keys("kv", "a", after="0", limit=2) == ["a", "a-b"]
    assert await store.sealed_rows.keys("kv", "a", after="b") == []
    assert await store.sealed_rows.keys("kv", "c") == []


async def test_children_are_the_next_segments(store: Store) -> None:
    await keep(store, *map(row, ["a", "a-b", "a/b", "a/c/d", "a/c/e", "a0", "b/x/y", "c"]))
    assert await store.sealed_rows.children("kv", "") == ["a", "a-b", "a/", "a0", "b/", "c"]
    assert await store.sealed_rows.children("kv", "a/") == ["b", "c/"]
    assert await store.sealed_rows.children("kv", "", after="a-b", limit=2) == ["a/", "a0"]
    assert await store.sealed_rows.children("kv", "", after="a/") == ["a0", "b/", "c"]
    assert await store.sealed_rows.children("kv", "d/") == []


async def test_children_are_found_among_very_many_rows(store: Store) -> None:
    await keep(store, *(row(f"{team}/{number:03}") for team in "abc" for number in range(300)))
    await keep(store, *(row(f"z{number:03}") for number in range(300)))
    assert (await store.sealed_rows.children("kv", ""))[:5] == ["a/", "b/", "c/", "z000", "z001"]
    assert len(await store.sealed_rows.children("kv", "")) == 303
    assert len(await store.sealed_rows.children("kv", "", limit=100)) == 100


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_listing_agrees_with_a_plain_search(store: Store, data: st.DataObject) -> None:
    texts = st.text(alphabet="ab/0.é\uffff\U0001f511", max_size=6)
    keys = data.draw(st.sets(texts, max_size=12))
    await store.sealed_rows.replace_all(given_rows(*map(row, keys)), overwrite=True)
    prefix, after = data.draw(texts), data.draw(texts)
    limit = data.draw(st.integers(1, 5))
    ordered = sorted(keys)
    expected = [key for key in ordered if key.startswith(prefix) and key > after]
    assert await store.sealed_rows.keys("kv", prefix, after=after, limit=limit) == expected[:limit]
    folder = f"{prefix}/" if prefix else ""
    below = [
        key.removeprefix(folder).partition("/") for key in ordered if key.startswith(folder) and key != folder
    ]
    children = sorted({segment + slash for segment, slash, _ in below})
    for last in ["", *children]:
        rest = [child for child in children if child > last]
        assert await store.sealed_rows.children("kv", folder, after=last, limit=limit) == rest[:limit]


async def test_rows_of_older_keys_are_found(store: Store) -> None:
    await keep(store, row("0", key_id=0), row("1"), row("2", key_id=2), row("3", key_id=3))
    assert sorted(await store.sealed_rows.sealed_before(3, 10)) == [("kv", "1"), ("kv", "2")]
    assert len(await store.sealed_rows.sealed_before(3, 1)) == 1
    assert await store.sealed_rows.sealed_before(1, 10) == []


async def test_a_snapshot_does_not_see_what_changes_meanwhile(store: Store) -> None:
    rows = [row(f"{number:03}") for number in range(250)]
    await keep(store, *rows, row("x", space="other"))
    async with aclosing(store.sealed_rows.snapshot()) as reading:
        first = await anext(reading)
        await store.sealed_rows.revise([], lambda _there: [("kv", "249"), row("250")])
        assert [first, *[each async for each in reading]] == [*rows, row("x", space="other")]
    bodies = {each.space: each.body for each in await snapshot(store, bodies_of="other")}
    assert bodies == {"kv": b"", "other": b"body"}


async def test_all_is_replaced_only_where_that_is_meant(store: Store) -> None:
    many = [row(f"{number:03}") for number in range(250)]
    assert await store.sealed_rows.replace_all(given_rows(*many), overwrite=False)
    assert not await store.sealed_rows.replace_all(given_rows(row("a")), overwrite=False)
    assert await snapshot(store) == many
    assert await store.sealed_rows.replace_all(given_rows(row("a")), overwrite=True)
    assert await snapshot(store) == [row("a")]


async def test_a_replacement_that_breaks_off_changes_nothing(store: Store) -> None:
    async def broken() -> AsyncIterator[SealedRow]:
        for number in range(150):
            yield row(f"{number}")
        raise LookupError("the file ends here")

    await keep(store, row("a"))
    with pytest.raises(LookupError):
        await store.sealed_rows.replace_all(broken(), overwrite=True)
    assert await snapshot(store) == [row("a")]
