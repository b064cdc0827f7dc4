"""What every store promises about the permissions of break-glass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.postgres import Postgres

from vestibule.records import Emergency
from vestibule.store import Store
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
HOUR = timedelta(hours=1)
ONE = Emergency(
    id="k7f2m9qa",
    callers=("spiffe://example.org/ns/prod/sa/orders", "spiffe://example.org/ns/ops/**"),
    service="payments",
    port="http",
    method="POST",
    path="/v1/refunds",
    reason="refunds hang since the deploy",
    ticket="INC-1",
    approver="ann",
    opener="local:uid=0",
    opened_at=NOW,
    expires_at=NOW + HOUR,
)


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
        postgres.execute("TRUNCATE emergencies", name)
        store = await open_postgres(PostgresAddress.parse(postgres.conninfo(name)), FakeClock(NOW))
    yield store
    await store.close()


async def test_one_is_kept_with_all_that_it_says(store: Store) -> None:
    subscription = store.changes.subscribe("emergencies")
    later = replace(ONE, id="a", opened_at=NOW + HOUR, expires_at=NOW + 2 * HOUR)
    await store.emergencies.add(later)
    await store.emergencies.add(ONE)
    assert await store.emergencies.all() == [ONE, later]
    assert (await anext(subscription)).kind == "emergencies"


async def test_one_is_closed_once(store: Store) -> None:
    await store.emergencies.add(ONE)
    subscription = store.changes.subscribe("emergencies")
    closed = replace(ONE, closed_at=NOW + HOUR / 2, closed_by="local:uid=0")
    assert await store.emergencies.close(ONE.id, NOW + HOUR / 2, "local:uid=0") == closed
    assert await store.emergencies.close(ONE.id, NOW + HOUR, "somebody") is None
    assert await store.emergencies.close("unknown", NOW, "somebody") is None
    assert await store.emergencies.all() == [closed]
    assert (await anext(subscription)).kind == "emergencies"


async def test_uses_are_added_up(store: Store) -> None:
    await store.emergencies.add(ONE)
    assert await store.emergencies.used(ONE.id, 2)
    assert await store.emergencies.used(ONE.id, 2**40)
    assert not await store.emergencies.used("unknown", 1)
    assert [each.uses for each in await store.emergencies.all()] == [2**40 + 2]


async def test_what_ended_long_ago_is_forgotten(store: Store) -> None:
    await store.emergencies.add(ONE)
    await store.emergencies.add(replace(ONE, id="closed"))
    await store.emergencies.close("closed", NOW, "somebody")
    assert await store.emergencies.prune(NOW) == 0
    assert await store.emergencies.prune(NOW + HOUR) == 1
    assert [each.id for each in await store.emergencies.all()] == [ONE.id]
    assert await store.emergencies.prune(NOW + 2 * HOUR) == 1
    assert await store.emergencies.all() == []
