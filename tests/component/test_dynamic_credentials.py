"""Credentials of a real PostgreSQL, kept behind the real barrier in a real store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.postgres import Postgres, binaries, running

from vestibule.app.server_lending import Lending
from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.dynamic import Credentials
from vestibule.secrets.dynamic.static_roles import StaticRoles
from vestibule.secrets.leases.ending import LAST_RETRY
from vestibule.spiffe import SpiffeId
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

PAYMENTS = SpiffeId.parse("spiffe://example.org/shop/payments")
HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)
ROOT_KEY = bytes(range(32))
CREATION = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; "
    'GRANT SELECT ON orders TO "{{name}}"',
)


@pytest.fixture(scope="module")
def shop() -> Iterator[Postgres]:
    """A cluster that may be stopped: a table, a user that makes users, and two users for the app."""
    found = binaries()
    if found is None:
        pytest.skip(
            "needs PostgreSQL's server programs (Debian: apt-get install postgresql): is not installed"
        )
    with running(found) as cluster:
        cluster.execute("CREATE TABLE orders (n int)")
        cluster.execute("INSERT INTO orders VALUES (1)")
        yield cluster


@pytest.fixture
def vault(shop: Postgres) -> Iterator[str]:
    """The password of the user that the secret manager is given."""
    for name in ("app_a", "app_b", "vault"):
        shop.execute(f"CREATE ROLE {name} LOGIN")
    shop.execute("ALTER ROLE vault SUPERUSER PASSWORD 'planted-root-password'")
    yield "planted-root-password"
    for name in ("app_a", "app_b", "vault"):
        shop.execute(f"DROP ROLE {name}")


class Server:
    """A server's part of it, on a store that outlives it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.audit: list[AuditEvent] = []
        self.barrier = SealedBarrier(store.sealed_rows, store.changes, self)
        self.lending = Lending(self.barrier, clock, self.record, lambda: True)

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.audit += events

    async def unsealed(self) -> Lending:
        if await self.barrier.seal_row() is None:
            assert await self.barrier.create(ROOT_KEY, b"a seal")
        else:
            await self.barrier.unlock(ROOT_KEY)
        return self.lending


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))


@asynccontextmanager
async def server(directory: Path, clock: Clock) -> AsyncIterator[Lending]:
    store = await open_store(directory / "server.db", clock)
    try:
        lending = await Server(store, clock).unsealed()
        yield lending
        await lending.databases.close()
    finally:
        await store.close()


async def configured(lending: Lending, shop: Postgres, password: str) -> None:
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{shop.port}/postgres"
    config: dict[str, Any] = {"connection_url": url, "username": "vault", "password": password}
    await lending.databases.configuration.write_database("shop", {**config, "allowed_roles": ("*",)})
    role = {"database": "shop", "creation": CREATION, "default_ttl": HOUR, "max_ttl": DAY}
    await lending.databases.configuration.write_role("payments", role)


def connected(shop: Postgres, name: str, password: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host="127.0.0.1", port=shop.port, dbname="postgres", user=name, password=password, autocommit=True
    )


def works(shop: Postgres, made: Credentials) -> bool:
    try:
        with connected(shop, made.username, made.password) as session:
            return session.execute("SELECT n FROM orders").fetchall() == [(1,)]
    except psycopg.OperationalError:
        return False


def users(shop: Postgres) -> list[tuple[object, ...]]:
    return shop.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")


async def test_credentials_are_made_used_and_end_also_over_a_restart(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path
) -> None:
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        made = await lending.databases.credentials.make("payments", PAYMENTS)
        assert works(shop, made)
        await lending.leases.renew(made.lease.id, 2 * HOUR)
    async with server(tmp_path, clock) as lending:
        clock.advance(HOUR)
        await lending.leases.round()
        assert works(shop, made)
        clock.advance(HOUR)
        await lending.leases.round()
        assert not works(shop, made)
    assert users(shop) == []


async def test_a_database_that_is_stopped_during_a_revocation_agrees_when_it_is_back(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path
) -> None:
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        made = [await lending.databases.credentials.make("payments", PAYMENTS) for _ in range(3)]
        shop.stop()
        try:
            problem = await lending.leases.revoke(made[0].lease.id, "stolen")
            assert problem is not None
            clock.advance(HOUR)
            await lending.leases.round()
            assert len(await lending.leases.failing()) == 3
            assert lending.leases.counts["failing"] == 3
        finally:
            shop.start()
        assert len(users(shop)) == 3
    async with server(tmp_path, clock) as lending:
        clock.advance(LAST_RETRY)
        await lending.leases.round()
        assert await lending.leases.failing() == []
    assert users(shop) == []


async def test_a_database_that_dies_while_users_are_made_leaves_none(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path
) -> None:
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        many = [
            asyncio.create_task(lending.databases.credentials.make("payments", PAYMENTS)) for _ in range(20)
        ]
        await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(shop.stop)
        outcomes = await asyncio.gather(*many, return_exceptions=True)
        await asyncio.to_thread(shop.start)
        assert all(isinstance(each, Credentials | VestibuleError) for each in outcomes)
        held = {each.username for each in outcomes if isinstance(each, Credentials)}
        await lending.leases.round()
        assert {name for (name,) in users(shop)} == held
        clock.advance(DAY)
        await lending.leases.round()
    assert users(shop) == []


async def test_an_app_never_fails_while_its_two_users_take_turns(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path
) -> None:
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        for name in ("app_a", "app_b"):
            shop.execute(f"GRANT SELECT ON orders TO {name}")
        static = lending.databases.static_roles
        role = {"database": "shop", "period": HOUR}
        await static.write("app", role, ("app_a", "app_b"))
        app = App(static, shop)
        working = asyncio.create_task(app.run())
        for _ in range(5):
            clock.advance(HOUR)
            await static.round()
            asked = app.requests
            while app.requests < asked + 3 and not working.done():
                await asyncio.sleep(0.01)
        app.stopping = True
        await working
        assert (await static.credentials("app")).account.username == "app_b"
    for name in ("app_a", "app_b"):
        shop.execute(f"REVOKE SELECT ON orders FROM {name}")


class App:
    """Opens a connection for each request, with a password that it looked up one request ago."""

    def __init__(self, static: StaticRoles, shop: Postgres) -> None:
        self.requests = 0
        self.stopping = False
        self._static = static
        self._shop = shop

    async def run(self) -> None:
        account = (await self._static.credentials("app")).account
        while not self.stopping:
            following = (await self._static.credentials("app")).account
            await asyncio.to_thread(self._request, account.username, account.password)
            self.requests += 1
            account = following

    def _request(self, name: str, password: str) -> None:
        with connected(self._shop, name, password) as session:
            assert session.execute("SELECT n FROM orders").fetchall() == [(1,)]


async def test_a_connection_that_is_open_survives_a_change_of_its_password(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path
) -> None:
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        static = lending.databases.static_roles
        await static.write("app", {"database": "shop", "period": HOUR}, ("app_a",))
        before = (await static.credentials("app")).account
        with connected(shop, before.username, before.password) as session:
            await static.rotate("app")
            assert session.execute("SELECT 1").fetchall() == [(1,)]
        after = (await static.credentials("app")).account
        connected(shop, after.username, after.password).close()
        with pytest.raises(psycopg.OperationalError):
            connected(shop, before.username, before.password)


async def test_no_password_is_in_our_database_our_log_or_our_errors(
    shop: Postgres, vault: str, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with server(tmp_path, clock) as lending:
        await configured(lending, shop, vault)
        configuration, static = lending.databases.configuration, lending.databases.static_roles
        made = await lending.databases.credentials.make("payments", PAYMENTS)
        await static.write("app", {"database": "shop", "period": HOUR}, ("app_a", "app_b"))
        await configuration.rotate_root("shop")
        database = await configuration.database("shop")
        accounts = (await static.get("app")).accounts
        shop.stop()
        try:
            attempts: tuple[Callable[[], Any], ...] = (
                lambda: configuration.rotate_root("shop"),
                lambda: static.rotate("app"),
                lambda: lending.databases.credentials.make("payments", PAYMENTS),
                lambda: configuration.write_database("shop", {"password": "planted-wrong-password"}),
            )
            for attempt in attempts:
                with pytest.raises(VestibuleError) as raised:
                    await attempt()
                told.append(f"{raised.value} {raised.value!r}")
        finally:
            shop.start()
        pending = await configuration.database("shop")
        await lending.leases.revoke(made.lease.id, "test")
    planted = {vault, made.password, database.password, pending.next_password, "planted-wrong-password"}
    planted |= {each.password for each in accounts}
    planted.discard("")
    assert len(planted) >= 5
    files = b"".join(each.read_bytes() for each in tmp_path.iterdir() if each.is_file())
    for secret in planted:
        assert secret.encode() not in files
        assert secret not in caplog.text
        assert not [each for each in told if secret in each]
