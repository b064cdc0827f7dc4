"""What every engine that makes credentials promises."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.postgres import Postgres, binaries, running

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import names
from vestibule.secrets.dynamic.configuration import IN_CREATION, IN_REVOCATION
from vestibule.secrets.dynamic.engines import open_postgres_engine
from vestibule.secrets.dynamic.ports import CredentialEngine, NewUser
from vestibule.secrets.dynamic.records import Database
from vestibule.secrets.dynamic.statements import statements
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock
from vestibule.testing.credentials import MemoryDatabase, MemoryEngine

CREATION = statements(
    [
        """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
        GRANT USAGE ON SCHEMA public TO "{{name}}";"""
    ],
    IN_CREATION,
)
NOW = datetime.now(UTC)
OWNER = SpiffeId.parse("spiffe://example.org/shop/payments")
UNREACHABLE, LOST, REFUSES, FAILED, REMAINS = (f"VST54{each}" for each in (15, 16, 17, 18, 19))


@dataclass
class Home:
    """A database, with the engine of the suite's interest."""

    engine: CredentialEngine
    lets_in: Callable[[str, str], bool]
    stop: Callable[[], None]
    start: Callable[[], None]


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """One that may be stopped."""
    found = binaries()
    if found is None:
        pytest.skip(
            "needs PostgreSQL's server programs (Debian: apt-get install postgresql): is not installed"
        )
    with running(found) as cluster:
        cluster.execute("CREATE ROLE vault LOGIN CREATEROLE PASSWORD 'vault-password'")
        # Since version 15 nobody but its owner may do anything in `public`.
        cluster.execute("GRANT ALL ON SCHEMA public TO vault WITH GRANT OPTION")
        yield cluster


@pytest.fixture(params=["memory", "postgres", "postgres-superuser"])
async def home(request: pytest.FixtureRequest) -> AsyncIterator[Home]:
    if request.param == "memory":
        clock = FakeClock(NOW)
        memory = MemoryDatabase(clock)
        yield Home(
            engine=MemoryEngine(memory, "root", "root-password"),
            lets_in=memory.lets_in,
            stop=lambda: setattr(memory, "up", False),
            start=lambda: setattr(memory, "up", True),
        )
        return
    cluster = request.getfixturevalue("own_postgres")
    user = ("tests", "secret") if request.param.endswith("superuser") else ("vault", "vault-password")
    async with postgres_engine(cluster, *user) as engine:
        yield Home(
            engine=engine,
            lets_in=lambda name, password: logs_in(cluster, name, password),
            stop=cluster.stop,
            start=cluster.start,
        )


@asynccontextmanager
async def postgres_engine(cluster: Postgres, username: str, password: str) -> AsyncIterator[CredentialEngine]:
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{cluster.port}/postgres"
    engine = await open_postgres_engine(Database(connection_url=url, username=username), password)
    try:
        yield engine
    finally:
        await engine.close()


def logs_in(cluster: Postgres, name: str, password: str) -> bool:
    try:
        connected(cluster, name, password).close()
    except psycopg.OperationalError:
        return False
    return True


def connected(cluster: Postgres, name: str, password: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host="127.0.0.1", port=cluster.port, dbname="postgres", user=name, password=password, autocommit=True
    )


def user(expires: datetime = NOW + timedelta(hours=1)) -> NewUser:
    return NewUser(
        name=names.username(OWNER, "readonly", NOW),
        password=names.password(),
        expires=expires,
        creation=CREATION,
    )


async def test_a_user_that_was_made_is_let_in_until_it_is_revoked(home: Home) -> None:
    made = user()
    await home.engine.create(made)
    assert home.lets_in(made.name, made.password)
    await home.engine.revoke(made.name, ())
    assert not home.lets_in(made.name, made.password)


async def test_to_revoke_again_or_what_never_was_is_no_error(home: Home) -> None:
    await home.engine.revoke("v-never-was", ())
    made = user()
    await home.engine.create(made)
    await home.engine.revoke(made.name, ())
    await home.engine.revoke(made.name, ())


async def test_a_user_may_be_revoked_by_several_at_once(home: Home) -> None:
    made = user()
    await home.engine.create(made)
    await asyncio.gather(*(home.engine.revoke(made.name, ()) for _ in range(4)))
    assert not home.lets_in(made.name, made.password)


async def test_a_user_lasts_as_long_as_it_was_renewed_for(home: Home) -> None:
    made = user(expires=NOW - timedelta(hours=1))
    await home.engine.create(made)
    assert not home.lets_in(made.name, made.password)
    await home.engine.renew(made.name, NOW + timedelta(hours=1), ())
    assert home.lets_in(made.name, made.password)
    await home.engine.revoke(made.name, ())


async def test_what_is_not_there_is_neither_renewed_nor_given_a_password(home: Home) -> None:
    with pytest.raises(VestibuleError) as refused:
        await home.engine.renew("v-never-was", NOW, ())
    assert refused.value.code.code == FAILED
    with pytest.raises(VestibuleError) as refused:
        await home.engine.set_password("v-never-was", names.password(), ())
    assert refused.value.code.code == FAILED


async def test_a_new_password_is_the_only_one(home: Home) -> None:
    made, new = user(), names.password()
    await home.engine.create(made)
    await home.engine.set_password(made.name, new, ())
    assert home.lets_in(made.name, new)
    assert not home.lets_in(made.name, made.password)
    await home.engine.revoke(made.name, ())


async def test_a_name_is_made_once_and_the_refusal_tells_no_password(home: Home) -> None:
    made = user()
    await home.engine.create(made)
    with pytest.raises(VestibuleError) as refused:
        await home.engine.create(made)
    assert refused.value.code.code == FAILED
    assert made.password not in str(refused.value)
    assert home.lets_in(made.name, made.password)
    await home.engine.revoke(made.name, ())


async def test_many_users_are_made_and_revoked_side_by_side(home: Home) -> None:
    many = [user() for _ in range(12)]
    await asyncio.gather(*(home.engine.create(each) for each in many))
    assert all(home.lets_in(each.name, each.password) for each in many)
    await asyncio.gather(*(home.engine.revoke(each.name, ()) for each in many))
    assert not any(home.lets_in(each.name, each.password) for each in many)


async def test_a_database_that_is_down_is_told_apart_and_used_again_when_it_is_back(home: Home) -> None:
    before, after = user(), user()
    await home.engine.create(before)
    home.stop()
    try:
        for attempt in (home.engine.revoke(before.name, ()), home.engine.create(after), home.engine.verify()):
            with pytest.raises(VestibuleError) as away:
                await attempt
            assert away.value.code.code in (UNREACHABLE, LOST)
            assert "password" not in str(away.value)
            assert "127.0.0.1" not in str(away.value)
    finally:
        home.start()
    await home.engine.verify()
    await home.engine.revoke(before.name, ())
    assert not home.lets_in(before.name, before.password)


# ------------------------------------------------------------------------------------- what is PostgreSQL's own


@pytest.fixture(params=["vault", "tests"])
async def engine(request: pytest.FixtureRequest, own_postgres: Postgres) -> AsyncIterator[CredentialEngine]:
    """As a user that may make users, and as a superuser."""
    password = {"vault": "vault-password", "tests": "secret"}[request.param]
    async with postgres_engine(own_postgres, request.param, password) as found:
        yield found


async def test_sessions_end_with_the_user_and_what_it_owned_stays(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    made = replace(
        user(), creation=(*CREATION, *statements(["GRANT CREATE ON SCHEMA public TO {{name}}"], IN_CREATION))
    )
    await engine.create(made)
    table = f"kept_{abs(hash(made.name))}"
    with connected(own_postgres, made.name, made.password) as session:
        session.execute(f"CREATE TABLE {table} (n int)")
        session.execute(f"INSERT INTO {table} VALUES (7)")
        await engine.revoke(made.name, ())
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT pg_sleep(30)")
    assert own_postgres.execute(f"SELECT n FROM {table}") == [(7,)]
    assert not logs_in(own_postgres, made.name, made.password)
    own_postgres.execute(f"DROP TABLE {table}")


async def test_what_a_user_left_behind_gives_nobody_the_power_of_who_took_it_away(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    grants = statements(["GRANT CREATE ON SCHEMA public TO {{name}}"], IN_CREATION)
    made, other = replace(user(), creation=(*CREATION, *grants)), user()
    await engine.create(made)
    await engine.create(other)
    mark = f"t{secrets.token_hex(6)}"
    own_postgres.execute(f"CREATE TABLE hidden_{mark} AS SELECT 'swordfish' AS word")
    with connected(own_postgres, made.name, made.password) as session:
        session.execute(
            f"CREATE FUNCTION who_{mark}() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"
        )
        session.execute(f"CREATE VIEW seen_{mark} AS SELECT word FROM hidden_{mark}")
        session.execute(f"GRANT SELECT ON seen_{mark} TO PUBLIC")
    await engine.revoke(made.name, ())
    heir = names.heir(made.name)
    with connected(own_postgres, other.name, other.password) as session:
        assert session.execute(f"SELECT who_{mark}()").fetchone() == (heir,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"SELECT word FROM seen_{mark}")
    assert own_postgres.execute(
        f"SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = '{heir}'"
    ) == [(False, False, False)]
    await engine.revoke(other.name, ())
    own_postgres.execute(f'DROP OWNED BY "{heir}"; DROP TABLE hidden_{mark}; DROP ROLE "{heir}"')


async def test_who_owned_nothing_leaves_no_role_behind(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    made = user()
    await engine.create(made)
    await engine.revoke(made.name, ())
    assert own_postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{names.heir(made.name)}'") == []


async def test_open_sessions_survive_a_new_password(own_postgres: Postgres, engine: CredentialEngine) -> None:
    made = user()
    await engine.create(made)
    with connected(own_postgres, made.name, made.password) as session:
        await engine.set_password(made.name, names.password(), ())
        assert session.execute("SELECT 1").fetchall() == [(1,)]
    await engine.revoke(made.name, ())


async def test_a_statement_that_fails_leaves_nothing_behind(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    made = NewUser(
        name=names.username(OWNER, "broken", NOW),
        password=names.password(),
        expires=NOW + timedelta(hours=1),
        creation=(*CREATION, *statements(["GRANT nobody_at_all TO {{name}}"], IN_CREATION)),
    )
    with pytest.raises(VestibuleError) as refused:
        await engine.create(made)
    assert refused.value.code.code == FAILED
    assert "nobody_at_all" in str(refused.value)
    assert own_postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{made.name}'") == []


async def test_a_password_in_a_statement_that_is_refused_is_not_told(engine: CredentialEngine) -> None:
    made = NewUser(
        name=names.username(OWNER, "broken", NOW),
        password=names.password(),
        expires=NOW,
        creation=statements(["SELECT '{{password}}'::int, '{{name}}'"], IN_CREATION),
    )
    with pytest.raises(VestibuleError) as refused:
        await engine.create(made)
    assert refused.value.code.code == FAILED
    assert made.password not in str(refused.value)
    assert "SCRAM" not in str(refused.value)


async def test_the_database_never_hears_the_password(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    own_postgres.execute("ALTER SYSTEM SET log_statement = 'all'")
    own_postgres.execute("SELECT pg_reload_conf()")
    made, new = user(), names.password()
    await engine.create(made)
    await engine.set_password(made.name, new, ())
    await engine.revoke(made.name, ())
    own_postgres.execute("ALTER SYSTEM RESET log_statement")
    own_postgres.execute("SELECT pg_reload_conf()")
    log = (Path(own_postgres._data).parent / "log").read_text()
    assert made.name in log
    assert made.password not in log
    assert new not in log


async def test_revocation_statements_that_leave_a_way_in_are_not_believed(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    made = user()
    await engine.create(made)
    with pytest.raises(VestibuleError) as refused:
        await engine.revoke(
            made.name, statements(["REVOKE USAGE ON SCHEMA public FROM {{name}}"], IN_REVOCATION)
        )
    assert refused.value.code.code == REMAINS
    await engine.revoke(made.name, statements(['ALTER ROLE "{{name}}" NOLOGIN'], IN_REVOCATION))
    assert not logs_in(own_postgres, made.name, made.password)
    await engine.revoke(made.name, ())


async def test_a_user_that_others_have_given_more_is_shut_out_although_it_cannot_be_dropped(
    own_postgres: Postgres,
) -> None:
    made = user()
    async with postgres_engine(own_postgres, "vault", "vault-password") as engine:
        await engine.create(made)
        own_postgres.execute(f'GRANT CREATE ON SCHEMA public TO "{made.name}"')
        with pytest.raises(VestibuleError) as refused:
            await engine.revoke(made.name, ())
        assert refused.value.code.code == FAILED
        assert "depend on it" in str(refused.value)
        assert not logs_in(own_postgres, made.name, made.password)
        own_postgres.execute(f'REVOKE CREATE ON SCHEMA public FROM "{made.name}"')
        await engine.revoke(made.name, ())
    assert own_postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{made.name}'") == []


async def test_a_block_of_plpgsql_is_one_statement(own_postgres: Postgres, engine: CredentialEngine) -> None:
    made = NewUser(
        name=names.username(OWNER, "block", NOW),
        password=names.password(),
        expires=NOW + timedelta(hours=1),
        creation=statements(
            [
                "DO $body$ BEGIN\n"
                "  EXECUTE 'CREATE ROLE \"{{name}}\" LOGIN PASSWORD ''{{password}}''';\n"
                "END $body$; -- as {{name}}; with its password"
            ],
            IN_CREATION,
        ),
    )
    await engine.create(made)
    assert logs_in(own_postgres, made.name, made.password)
    await engine.revoke(made.name, ())


async def test_a_session_that_a_template_changed_is_as_before_for_the_next(
    own_postgres: Postgres, engine: CredentialEngine
) -> None:
    made = user()
    await engine.create(made)
    grumpy = statements(["SET default_transaction_read_only = on"], IN_REVOCATION)
    with pytest.raises(VestibuleError):
        await engine.revoke(made.name, grumpy)
    for _ in range(8):
        await engine.renew(made.name, NOW + timedelta(hours=1), ())
    await engine.revoke(made.name, ())


async def test_a_wrong_password_is_told_as_such(own_postgres: Postgres) -> None:
    async with postgres_engine(own_postgres, "vault", "not-the-password") as wrong:
        with pytest.raises(VestibuleError) as refused:
            await wrong.verify()
    assert refused.value.code.code == REFUSES
    assert "not-the-password" not in str(refused.value)


async def test_no_more_connections_are_open_than_were_allowed(own_postgres: Postgres) -> None:
    async with postgres_engine(own_postgres, "tests", "secret") as engine:
        many = [user() for _ in range(24)]
        await asyncio.gather(*(engine.create(each) for each in many))
        rows = own_postgres.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tests' AND application_name = 'vestibule'"
        )
        assert rows[0][0] in range(1, 5)
        for each in many:
            await engine.revoke(each.name, ())
