"""Credentials of databases: made, lent, changed in time; and what is left of it when something ends in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.secrets.dynamic.failing import KilledError, KillingBarrier

from vestibule.audit import AuditEvent
from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import Databases
from vestibule.secrets.dynamic.configuration import Configuration
from vestibule.secrets.dynamic.names import LONGEST_NAME, username
from vestibule.secrets.leases import Leases
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock
from vestibule.testing.credentials import MemoryDatabase, MemoryUser

PAYMENTS = SpiffeId.parse("spiffe://example.org/shop/payments")
HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)
URL = "postgresql://{{username}}:{{password}}@127.0.0.1/shop"
CONFIG: dict[str, Any] = {
    "connection_url": URL, "username": "root", "password": "root-password", "allowed_roles": ("*",),
}  # fmt: skip
CREATION = ("CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",)
ROLE: dict[str, Any] = {"database": "pg", "creation": CREATION, "default_ttl": HOUR, "max_ttl": DAY}
STATIC: dict[str, Any] = {"database": "pg", "period": DAY}


class Server:
    """One life of a server."""

    def __init__(self, world: World) -> None:
        self.leases = Leases(world.barrier, world.clock, record=world.record)
        self.databases = Databases(
            world.barrier, self.leases, world.clock, record=world.record, kinds=world.database.kinds()
        )
        self.configuration: Configuration = self.databases.configuration
        self.static = self.databases.static_roles

    async def round(self) -> None:
        await self.leases.round()
        await self.static.round()


class World:
    """What outlives a server: the barrier, the database, the log."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.barrier = KillingBarrier()
        self.database = MemoryDatabase(self.clock)
        self.database.users["app"] = MemoryUser("unknown")
        self.database.users["app_b"] = MemoryUser("unknown")
        self.audit: list[AuditEvent] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.audit += events

    def server(self) -> Server:
        return Server(self)

    async def configured(self) -> Server:
        server = self.server()
        await server.configuration.write_database("pg", CONFIG)
        await server.configuration.write_role("payments", ROLE)
        return server

    @property
    def made(self) -> set[str]:
        return {each for each in self.database.users if each.startswith("v-")}


@pytest.fixture
def world() -> World:
    return World()


def code(raised: pytest.ExceptionInfo[VestibuleError]) -> str:
    return raised.value.code.code


# -------------------------------------------------------------------------------------------- credentials


async def test_credentials_work_until_their_lease_ends(world: World) -> None:
    server = await world.configured()
    made = await server.databases.credentials.make("payments", PAYMENTS)
    assert world.database.lets_in(made.username, made.password)
    assert made.lease.expires == world.clock.now() + HOUR
    world.clock.advance(HOUR)
    await server.round()
    assert made.username not in world.database.users


async def test_a_name_tells_for_whom_it_was_made_and_fits(world: World) -> None:
    server = await world.configured()
    made = await server.databases.credentials.make("payments", PAYMENTS)
    assert made.username.startswith("v-payments-payments-")
    long = SpiffeId.parse("spiffe://example.org/" + "x" * 200)
    for owner in (
        long,
        SpiffeId.parse("spiffe://example.org/Ümlaut".replace("Ü", "U")),
        SpiffeId.parse("spiffe://t"),
    ):
        name = username(owner, "a-role.With_everything-in-it", world.clock.now())
        assert len(name) <= LONGEST_NAME
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


async def test_renewing_lets_the_user_last_longer(world: World) -> None:
    server = await world.configured()
    made = await server.databases.credentials.make("payments", PAYMENTS)
    for _ in range(10):
        world.clock.advance(HOUR / 2)
        await server.leases.renew(made.lease.id)
        await server.round()
    assert world.database.lets_in(made.username, made.password)
    world.clock.advance(DAY)
    await server.round()
    assert not world.made


async def test_a_user_of_a_server_that_never_comes_back_ends_by_itself(world: World) -> None:
    server = await world.configured()
    made = await server.databases.credentials.make("payments", PAYMENTS)
    world.clock.advance(HOUR + timedelta(minutes=1))
    assert not world.database.lets_in(made.username, made.password)


async def test_only_roles_that_are_allowed_have_credentials(world: World) -> None:
    server = await world.configured()
    await server.configuration.write_database("pg", {"allowed_roles": ("pay*", "orders")})
    await server.databases.credentials.make("payments", PAYMENTS)
    await server.configuration.write_role("refunds", ROLE)
    with pytest.raises(VestibuleError) as raised:
        await server.databases.credentials.make("refunds", PAYMENTS)
    assert code(raised) == "VST5413"
    with pytest.raises(VestibuleError) as raised:
        await server.databases.credentials.make("nobody", PAYMENTS)
    assert code(raised) == "VST5412"


async def test_a_database_that_is_down_leaves_neither_users_nor_leases(world: World) -> None:
    server = await world.configured()
    world.database.up = False
    with pytest.raises(VestibuleError) as raised:
        await server.databases.credentials.make("payments", PAYMENTS)
    assert code(raised) == "VST5415"
    assert await server.leases.children("database/creds/payments") == []


async def test_a_user_that_was_made_while_the_connection_broke_is_removed(world: World) -> None:
    server = await world.configured()
    world.database.lost = 1
    with pytest.raises(VestibuleError) as raised:
        await server.databases.credentials.make("payments", PAYMENTS)
    assert code(raised) == "VST5416"
    assert world.made
    await server.round()
    assert not world.made


async def test_a_lease_ends_although_its_role_was_deleted_or_mended_meanwhile(world: World) -> None:
    server = await world.configured()
    await server.configuration.write_role("payments", {"revocation": ("LEAVE {{name}}",)})
    made = [await server.databases.credentials.make("payments", PAYMENTS) for _ in range(2)]
    problem = await server.leases.revoke(made[0].lease.id, "test")
    assert problem is not None
    assert problem.code.code == "VST5419"
    await server.configuration.write_role("payments", {"revocation": ()})
    assert await server.leases.revoke(made[0].lease.id, "test") is None
    await server.configuration.delete_role("payments")
    problem = await server.leases.revoke(made[1].lease.id, "test")
    assert problem is not None, "what it was made with is kept with it"


async def test_another_servers_change_of_the_configuration_counts_at_once(world: World) -> None:
    one, two = await world.configured(), world.server()
    await two.databases.credentials.make("payments", PAYMENTS)
    world.database.users["other-root"] = MemoryUser("other")
    del world.database.users["root"]
    await one.configuration.write_database("pg", {"username": "other-root", "password": "other"})
    await two.databases.credentials.make("payments", PAYMENTS)


# -------------------------------------------------------------------------------------------- configuration


async def test_a_configuration_that_does_not_work_is_not_kept_unless_asked_for(world: World) -> None:
    server = world.server()
    with pytest.raises(VestibuleError) as raised:
        await server.configuration.write_database("pg", {**CONFIG, "password": "wrong"})
    assert code(raised) == "VST5417"
    assert await server.configuration.databases() == []
    await server.configuration.write_database(
        "pg", {**CONFIG, "password": "wrong", "verify_connection": False}
    )
    assert await server.configuration.databases() == ["pg"]


@pytest.mark.parametrize(
    "changes",
    [
        {"connection_url": ""},
        {"connection_url": "postgresql://{{username}}:{{passwort}}@127.0.0.1/shop"},
        {"connection_url": "nonsense"},
        {"connection_url": "postgresql:///only"},
        {"plugin": "mysql-database-plugin"},
        {"max_open_connections": 0},
        {"max_open_connections": 1000},
        {"allowed_roles": ("a*b",)},
        {"username": "\ud800"},
        {"password": "nul\0"},
        {"root_rotation_statements": ("ALTER ROLE {{nobody}}",)},
    ],
)
async def test_a_configuration_that_makes_no_sense_is_refused(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError) as raised:
        await world.server().configuration.write_database("pg", {**CONFIG, **changes})
    assert code(raised) in ("VST5410", "VST5414", "VST8008")
    assert "root-password" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"creation": ()},
        {"creation": ("CREATE ROLE {{name}} LOGIN",)},
        {"creation": (*CREATION, "COMMIT")},
        {"creation": (*CREATION, "SELECT '")},
        {"revocation": ("DROP ROLE {{name}} {{password}}",)},
        {"renewal": ("ALTER ROLE {{other}}",)},
        {"database": "no/name"},
        {"database": ""},
    ],
)
async def test_a_role_that_makes_no_sense_is_refused(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError) as raised:
        await world.server().configuration.write_role("payments", {**ROLE, **changes})
    assert code(raised) in ("VST5410", "VST5414")


async def test_names_are_used_once(world: World) -> None:
    server = await world.configured()
    with pytest.raises(VestibuleError):
        await server.static.write("payments", STATIC, ("app",))
    await server.static.write("app", STATIC, ("app",))
    with pytest.raises(VestibuleError):
        await server.configuration.write_role("app", ROLE)


async def test_a_database_with_leases_or_static_roles_is_not_forgotten(world: World) -> None:
    server = await world.configured()
    made = await server.databases.credentials.make("payments", PAYMENTS)
    with pytest.raises(VestibuleError) as raised:
        await server.configuration.delete_database("pg")
    assert code(raised) == "VST5420"
    await server.leases.revoke(made.lease.id, "test")
    await server.static.write("app", STATIC, ("app",))
    with pytest.raises(VestibuleError) as raised:
        await server.configuration.delete_database("pg")
    assert code(raised) == "VST5420"
    await server.static.delete("app")
    await server.configuration.delete_database("pg")
    await server.configuration.delete_database("pg")


async def test_the_root_password_is_changed_and_nobody_knows_it(world: World) -> None:
    server = await world.configured()
    await server.configuration.rotate_root("pg")
    assert not world.database.lets_in("root", "root-password")
    await server.databases.credentials.make("payments", PAYMENTS)
    await server.configuration.rotate_root("pg")
    await world.server().databases.credentials.make("payments", PAYMENTS)


async def test_a_root_password_that_stands_in_the_url_is_not_changed(world: World) -> None:
    server = world.server()
    url = "postgresql://root:root-password@127.0.0.1/shop"
    await server.configuration.write_database("pg", {**CONFIG, "connection_url": url})
    with pytest.raises(VestibuleError) as raised:
        await server.configuration.rotate_root("pg")
    assert code(raised) == "VST5421"


async def test_a_root_password_that_took_effect_unnoticed_is_found_out(world: World) -> None:
    server = await world.configured()
    world.database.lost = 1
    with pytest.raises(VestibuleError):
        await server.configuration.rotate_root("pg")
    assert not world.database.lets_in("root", "root-password")
    await server.databases.credentials.make("payments", PAYMENTS)
    assert (await server.configuration.database("pg")).next_password == ""


# -------------------------------------------------------------------------------------------- static roles


async def test_a_static_role_has_a_password_that_works_from_the_beginning(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    role = await server.static.credentials("app")
    assert world.database.lets_in("app", role.account.password)
    assert role.due == world.clock.now() + DAY


async def test_a_static_role_that_cannot_be_set_is_not_kept(world: World) -> None:
    server = await world.configured()
    world.database.up = False
    with pytest.raises(VestibuleError) as raised:
        await server.static.write("app", STATIC, ("app",))
    assert code(raised) == "VST5423"
    assert await server.static.names() == []


async def test_a_password_is_changed_in_time_and_is_readable_at_once(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    before = (await server.static.credentials("app")).account.password
    world.clock.advance(DAY)
    await server.round()
    after = await server.static.credentials("app")
    assert after.account.password != before
    assert world.database.lets_in("app", after.account.password)
    assert after.rotated == world.clock.now()
    assert world.audit[-1].action == "static-role.rotate"


async def test_a_password_is_changed_when_somebody_asks_for_it(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    before = (await server.static.credentials("app")).account.password
    world.clock.advance(HOUR)
    await server.static.rotate("app")
    role = await server.static.credentials("app")
    assert role.account.password != before
    assert role.due == world.clock.now() + DAY


async def test_two_users_that_take_turns_leave_no_moment_without_a_password_that_works(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app", "app_b"))
    told = [(await server.static.credentials("app")).account]
    for _ in range(6):
        world.clock.advance(DAY)
        await server.round()
        told.append((await server.static.credentials("app")).account)
        for each in told[-2:]:
            assert world.database.lets_in(each.username, each.password)
    assert [each.username for each in told] == ["app", "app_b"] * 3 + ["app"]


async def test_a_change_that_fails_is_repeated_visible_and_leaves_the_old_password(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    before = (await server.static.credentials("app")).account
    world.database.up = False
    world.clock.advance(DAY)
    for _ in range(5):
        await server.round()
        world.clock.advance(60)
    role = await server.static.get("app")
    assert role.attempts == 5
    assert "VST5415" in role.problem
    assert server.static.failing == 1
    assert (await server.static.credentials("app")).account.password == before.password
    world.database.up = True
    world.clock.advance(60)
    await server.round()
    assert server.static.failing == 0
    role = await server.static.credentials("app")
    assert role.problem == ""
    assert world.database.lets_in("app", role.account.password)


async def test_the_user_of_a_static_role_stays_the_same(world: World) -> None:
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    with pytest.raises(VestibuleError):
        await server.static.write("app", {}, ("app_b",))
    await server.static.write("app", {"period": HOUR}, ("app",))
    assert (await server.static.get("app")).due == world.clock.now() + HOUR


@pytest.mark.parametrize(
    ("changes", "usernames"),
    [
        ({**STATIC, "period": timedelta(seconds=4)}, ("app",)),
        ({**STATIC, "database": "other"}, ("app",)),
        (STATIC, ()),
        (STATIC, ("app", "app")),
        ({**STATIC, "statements": ("ALTER ROLE {{name}} {{expiration}}",)}, ("app",)),
        (STATIC, ("back\\slash",)),
        (STATIC, ("\ud800",)),
        (STATIC, ("x" * 64,)),
    ],
)
async def test_a_static_role_that_makes_no_sense_is_refused(
    world: World, changes: dict[str, Any], usernames: tuple[str, ...]
) -> None:
    server = await world.configured()
    with pytest.raises(VestibuleError):
        await server.static.write("app", changes, usernames)
    assert await server.static.names() == []


async def test_many_that_rotate_one_role_at_once_leave_the_password_that_is_told(world: World) -> None:
    servers = [await world.configured(), world.server(), world.server()]
    await servers[0].static.write("app", STATIC, ("app",))
    await asyncio.gather(*(each.static.rotate("app") for each in servers * 3), return_exceptions=True)
    role = await servers[1].static.credentials("app")
    assert world.database.lets_in("app", role.account.password)


async def test_what_is_sealed_keeps_no_connection(world: World) -> None:
    server = await world.configured()
    await server.databases.credentials.make("payments", PAYMENTS)
    world.database.calls.clear()
    world.barrier.is_sealed = True
    await server.round()
    assert world.database.calls == ["close"]
    world.barrier.is_sealed = False
    await server.databases.credentials.make("payments", PAYMENTS)


# -------------------------------------------------------------------------------------------- ends in between


async def _everything(server: Server, world: World) -> None:
    """A day of everything that changes something."""
    held = [await server.databases.credentials.make("payments", PAYMENTS) for _ in range(2)]
    await server.leases.renew(held[0].lease.id)
    await server.static.rotate("app")
    await server.configuration.rotate_root("pg")
    await server.leases.revoke(held[1].lease.id, "not needed")
    await server.static.rotate("turns")
    world.clock.advance(HOUR)
    await server.round()


@pytest.mark.parametrize("after", [False, True])
async def test_a_server_that_is_killed_anywhere_leaves_nothing_that_does_not_end_or_does_not_work(
    after: bool,
) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        world = World()
        world.database.users |= {"turn_a": MemoryUser("unknown"), "turn_b": MemoryUser("unknown")}
        first = await world.configured()
        await first.static.write("app", STATIC, ("app",))
        await first.static.write("turns", STATIC, ("turn_a", "turn_b"))
        world.barrier.kill_at, world.barrier.after = number, after
        try:
            await _everything(first, world)
            finished = True
        except* KilledError:
            pass
        world.barrier.restart()
        await _settled(world, number)
    assert number > 12


@pytest.mark.parametrize("lost", range(1, 4))
async def test_a_connection_that_breaks_anywhere_leaves_nothing_that_does_not_end_or_does_not_work(
    lost: int,
) -> None:
    for number in range(1, 12):
        world = World()
        world.database.users |= {"turn_a": MemoryUser("unknown"), "turn_b": MemoryUser("unknown")}
        server = await world.configured()
        await server.static.write("app", STATIC, ("app",))
        await server.static.write("turns", STATIC, ("turn_a", "turn_b"))
        calls, spoiled = len(world.database.calls), False
        for step in range(8):
            if not spoiled and len(world.database.calls) - calls >= number:
                world.database.lost, spoiled = lost, True
            try:
                await _step(server, world, step)
            except VestibuleError:
                continue
        world.database.lost = 0
        await _settled(world, number)


async def _step(server: Server, world: World, step: int) -> None:
    match step % 4:
        case 0:
            made = await server.databases.credentials.make("payments", PAYMENTS)
            await server.leases.renew(made.lease.id)
            await server.leases.revoke(made.lease.id, "not needed")
        case 1:
            await server.static.rotate("app")
        case 2:
            await server.configuration.rotate_root("pg")
        case _:
            await server.static.rotate("turns")


async def _settled(world: World, number: int) -> None:
    """After a restart, and a day: no user is left over, and every password that is told or kept works."""
    server = world.server()
    for name in ("app", "turns"):
        role = await server.static.credentials(name)
        assert world.database.lets_in(role.account.username, role.account.password), number
    world.clock.advance(DAY)
    for _ in range(3):
        await server.round()
        world.clock.advance(120)
    assert not world.made, number
    assert await server.leases.children("database/creds/payments") == []
    for name in ("app", "turns"):
        role = await server.static.credentials(name)
        assert world.database.lets_in(role.account.username, role.account.password), number
    await server.configuration.rotate_root("pg")
    await server.databases.credentials.make("payments", PAYMENTS)


async def test_no_password_is_in_a_log_the_audit_or_a_name(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await world.configured()
    await server.static.write("app", STATIC, ("app",))
    made = await server.databases.credentials.make("payments", PAYMENTS)
    world.database.lost = 3
    for attempt in (
        server.static.rotate("app"),
        server.configuration.rotate_root("pg"),
        server.databases.credentials.make("payments", PAYMENTS),
    ):
        with pytest.raises(VestibuleError):
            await attempt
    await server.leases.revoke(made.lease.id, "test")
    secrets = {"root-password", made.password, *(each.password for each in world.database.users.values())}
    role = await server.static.get("app")
    config = await server.configuration.database("pg")
    secrets |= {role.account.password, role.account.next_password, config.password, config.next_password}
    told = caplog.text + repr(world.audit) + repr(made) + repr(role) + repr(config)
    assert not [each for each in secrets if len(each) > 8 and each in told]
