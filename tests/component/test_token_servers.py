"""The token service on real databases, encrypted: what is on the disk, what a restart finds, several servers."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.postgres import Postgres

from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.secrets.barrier import SealedBarrier
from vestibule.store import Store
from vestibule.store.postgres import open_postgres
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_preparation import prepare
from vestibule.store.sqlite import open_store
from vestibule.testing.tokens import MemoryIssuer, MemoryTokens, client
from vestibule.testing.vault import MemoryAudit
from vestibule.tokens import codes
from vestibule.tokens.keyring import KeyState
from vestibule.tokens.keys import ROW, SPACE
from vestibule.tokens.ports import Minted, RevokedBy, Verb
from vestibule.tokens.service import TokenService

ROOT_KEY = bytes(range(32))


async def unsealed(store: Store) -> SealedBarrier:
    """The barrier on a store, new or unlocked."""
    barrier = SealedBarrier(store.sealed_rows, store.changes, MemoryAudit())
    if await barrier.seal_row() is None:
        assert await barrier.create(ROOT_KEY, b"a seal")
    else:
        await barrier.unlock(ROOT_KEY)
    return barrier


def service_on(store: Store, barrier: SealedBarrier) -> TokenService:
    """A server's token service; web may have tokens for orders, and corp's users, too."""
    lab = MemoryTokens()
    lab.access.allow("web", Verb.MINT, "orders")
    lab.access.allow("web", Verb.ADMIT, "orders")
    lab.access.own("orders", "orders")
    lab.trust(CORP)
    return TokenService(
        lab.settings,
        barrier=barrier,
        access=lab.access,
        outside=lab,
        clock=SystemClock(),
        changes=store.changes,
        record=MemoryAudit().record,
        leads=lambda: store.leads,
    )


CORP = MemoryIssuer()


@asynccontextmanager
async def on_sqlite(file: Path) -> AsyncIterator[tuple[TokenService, SealedBarrier]]:
    store = await open_store(file, SystemClock())
    try:
        barrier = await unsealed(store)
        service = service_on(store, barrier)
        await service.start()
        yield service, barrier
    finally:
        await store.close()


async def token(service: TokenService) -> Minted:
    return await service.mint(client("web"), audiences=["orders"])


async def is_active(service: TokenService, minted: Minted) -> bool:
    return bool((await service.inspect(client("orders"), minted.text))["active"])


async def test_a_restart_finds_keys_and_revocations(tmp_path: Path) -> None:
    file = tmp_path / "vestibule.db"
    async with on_sqlite(file) as (service, _):
        good, bad = await token(service), await token(service)
        await service.revoke(client("web"), bad.text)
        keys = service.key_source.now
    async with on_sqlite(file) as (service, _):
        assert service.key_source.now == keys
        assert await is_active(service, good)
        assert not await is_active(service, bad)


async def test_the_disk_holds_no_private_key(tmp_path: Path) -> None:
    file = tmp_path / "vestibule.db"
    async with on_sqlite(file) as (service, barrier):
        minted = await token(service)
        item = await barrier.get(SPACE, ROW)
        assert item is not None
        private = [each["private"] for each in json.loads(item.value)]
        await service.revoke_by(RevokedBy.SUBJECT, "u@corp.example", "left")
    content = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert len(private) == 2
    for each in private:
        assert each.encode() not in content
        assert b64decode(each)[36:68] not in content  # the number itself
    assert minted.text.encode() not in content
    assert b"u@corp.example" not in content


async def test_a_locked_barrier_gives_no_tokens(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path / "vestibule.db") as (service, barrier):
        barrier.lock()
        with pytest.raises(VestibuleError) as caught:
            await token(service)
        assert caught.value.code is codes.NO_SIGNING_KEY


async def settled(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_servers_on_one_database_have_one_set_of_keys_and_one_list(postgres: Postgres) -> None:
    address = PostgresAddress.parse(postgres.conninfo(postgres.new_database()))
    prepare(address)
    clock = SystemClock()
    stores = [await open_postgres(address, clock) for _ in range(2)]
    try:
        here, there = [service_on(each, await unsealed(each)) for each in stores]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in stores]
            running += [tasks.create_task(each.run()) for each in (here, there)]
            await settled(lambda: here.keys() and there.keys())
            await _act_as_one(here, there)
            for each in running:
                each.cancel()
    finally:
        for store in stores:
            await store.close()


async def _act_as_one(here: TokenService, there: TokenService) -> None:
    minted, other = await token(here), await token(there)
    assert here.key_source.now == there.key_source.now
    assert await is_active(there, minted)

    # A token that is revoked here counts nowhere.
    await here.revoke_by(RevokedBy.TOKEN, minted.token_id)
    await settled(lambda: there.revoked.now == here.revoked.now)
    assert not await is_active(there, minted)

    # A key that is revoked there signs nowhere.
    listed = there.keys()
    gone = next(each.key_id for each in listed if each.state is KeyState.CURRENT)
    await there.revoke_key(gone)
    await settled(lambda: gone not in here.key_source.now)
    assert not await is_active(here, other)
    assert await is_active(there, await token(here))

    # An assertion that was shown here counts nowhere.
    now = int(SystemClock().now().timestamp())
    assertion = CORP.token({"sub": "U", "aud": here.settings.issuer, "iat": now, "exp": now + 60, "jti": "1"})
    await here.admit(client("web"), assertion=assertion, audiences=["orders"])
    with pytest.raises(VestibuleError) as caught:
        await there.admit(client("web"), assertion=assertion, audiences=["orders"])
    assert caught.value.code is codes.REPLAYED
