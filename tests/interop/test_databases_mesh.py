"""Databases through two real sidecars: unmodified ``hvac``, and apps whose credentials change under them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden
from tests.component.test_dynamic_credentials import server
from tests.e2e.front_lab import SECRETS, opened
from tests.e2e.mesh_lab import PATIENCE, Lab, free_address, intent_of, service, until
from tests.interop import vault_databases
from tests.postgres import Postgres, binaries, running

from vestibule.app.server_lending import Lending
from vestibule.mesh.built_in import BuiltIn
from vestibule.records import Address
from vestibule.sdk.secrets import AsyncSecrets
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock

STEP = timedelta(minutes=15)
LONGEST = timedelta(hours=6)
DAY = timedelta(hours=24)


class Rules:
    """``secrets.ports.Access``: payments may do everything with databases, orders nothing at all."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        allowed = caller.path.endswith("/payments") and path.startswith("database/")
        return AccessDecision(allowed=allowed, rule="payments/all" if allowed else None)


@pytest.fixture(scope="module")
def shop() -> Iterator[Postgres]:
    found = binaries()
    if found is None:
        pytest.skip(
            "needs PostgreSQL's server programs (Debian: apt-get install postgresql): is not installed"
        )
    with running(found) as cluster:
        vault_databases.prepared(cluster)
        yield cluster


@dataclass
class Scene:
    """Two services beside their sidecars, and the secret manager behind the platform's Envoy."""

    clock: FakeClock
    lending: Lending
    upstreams: dict[str, Address]

    def client(self, service: str) -> hvac.Client:
        """What VAULT_ADDR leads to: no token, no TLS, no proxy setting."""
        return hvac.Client(url=f"http://{self.upstreams[service]}", timeout=PATIENCE)

    async def pass_by(self, duration: timedelta, sleepers: int) -> None:
        """Let time pass, and all that is due be done."""
        self.clock.advance(duration)
        async with asyncio.timeout(PATIENCE):
            await self.clock.until_asleep(sleepers)


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    clock = FakeClock(datetime.now(UTC))
    async with (
        server(directory, clock) as lending,
        Lab(intent_of(service("payments"), service("orders"))) as mesh,
    ):
        working = [asyncio.create_task(each(), name=name) for name, each in lending.background().items()]
        async with opened(mesh.authority, lending.backends, Rules()) as room:
            built_in = BuiltIn(
                name="secrets", spiffe_id=SECRETS, address=Address.parse(room.address), server_id=SECRETS
            )
            world = mesh.world
            intent = replace(world.intent, services={**world.intent.services, "secrets": built_in.service})
            mesh.world = replace(world, intent=intent, instances=(built_in.instance,))
            upstreams = {name: free_address() for name in ("payments", "orders")}
            for name, address in upstreams.items():
                await mesh.add(name, upstreams={"secrets": address})
            await mesh.ready()
            yield Scene(clock, lending, upstreams)
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)


class App:
    """Opens a connection for each request, with what ``credentials`` gives it."""

    def __init__(self, shop: Postgres, credentials: Callable[[], dict[str, Any]]) -> None:
        self.requests = 0
        self.users: set[str] = set()
        self._stopping = False
        self._shop = shop
        self._credentials = credentials

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(asyncio.to_thread(self._run), name="app")
        self._task = task
        try:
            yield
        finally:
            self._stopping = True
            await task

    async def goes_on(self) -> None:
        """It has answered more requests, and none has failed."""
        seen = self.requests
        await until(lambda: self._task.done() or self.requests >= seen + 2, "the app goes on")
        assert not self._task.done(), self._task.exception()

    def _run(self) -> None:
        while not self._stopping:
            used = self._credentials()
            vault_databases.request(self._shop, used)
            self.users.add(used["username"])
            self.requests += 1


async def test_hvac_and_running_apps_through_two_sidecars(shop: Postgres, tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        client = found.client("payments")
        await asyncio.to_thread(vault_databases.configured, client, shop)
        await _refused_to_a_neighbour(found)
        await asyncio.to_thread(client.write_data, "database/roles/payments", data={"max_ttl": "6h"})
        await _lent_again_and_again(found, shop)
        await _taking_turns(found, shop, client)


async def _refused_to_a_neighbour(found: Scene) -> None:
    neighbour = found.client("orders")
    for path in ("database/creds/payments", "database/static-creds/app", "database/config/shop"):
        with pytest.raises(Forbidden, match="VST5300"):
            await asyncio.to_thread(neighbour.read, path)


async def _lent_again_and_again(found: Scene, shop: Postgres) -> None:
    """Its leases are renewed, end for good, and are replaced; hours pass, and no request fails."""
    address = f"http://{found.upstreams['payments']}"
    async with (
        AsyncSecrets(address, clock=found.clock) as secrets,
        secrets.credential("database/creds/payments") as kept,
    ):
        app = App(shop, lambda: {"username": kept.current.username, "password": kept.current.password})
        async with app.working():
            for _ in range(int(LONGEST / STEP) + 8):
                await found.pass_by(STEP, sleepers=3)
                await app.goes_on()
    assert len(app.users) == 2
    assert shop.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'") == []


async def _taking_turns(found: Scene, shop: Postgres, client: hvac.Client) -> None:
    """What it has is one request old; passwords change in time, and when somebody asks for it."""
    told: list[dict[str, Any]] = []

    def one_request_ago() -> dict[str, Any]:
        told.append(client.secrets.database.get_static_credentials("app")["data"])
        return told.pop(0) if len(told) > 1 else told[0]

    app = App(shop, one_request_ago)
    passwords = set()
    async with app.working():
        for number in range(6):
            await app.goes_on()
            if number % 2:
                await found.pass_by(DAY, sleepers=2)
            else:
                await asyncio.to_thread(
                    found.client("payments").secrets.database.rotate_static_role_credentials, "app"
                )
            static = await found.lending.databases.static_roles.credentials("app")
            passwords.add(static.account.password)
            await app.goes_on()
    assert app.users == set(vault_databases.STATIC_USERS)
    assert len(passwords) == 6
